"""What rides on pytest's reports, which xdist brings to its controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vmports.settings.table import MARKER
from pytest_vmports.system.mishaps import plain

if TYPE_CHECKING:
    import pytest

FACTS, KEPT, MISHAPS, SHIELDED = "facts", "kept", "mishaps", "shielded"


def put(report: pytest.TestReport, name: str, value: Any) -> None:
    """Put a value on a report: mappings, lists, numbers and text."""
    vars(report).setdefault(MARKER, {})[name] = plain(value)


def get(report: pytest.TestReport, name: str) -> Any:
    """Return what was put there by that name, or None."""
    return getattr(report, MARKER, {}).get(name)

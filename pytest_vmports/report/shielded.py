"""A failing test's report, so that nothing in it is obeyed: a test shows its guest's words too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vmports.errors.shown import coloured, printable

if TYPE_CHECKING:
    import pytest


def shield(report: pytest.TestReport) -> None:
    """Make fit to be shown what a report holds: values in assertions, what the test has printed.

    Args:
        report: of a test that had a VM.
    """
    report.sections = [(printable(title), coloured(text)) for title, text in report.sections]
    report.longrepr = _shielded(report.longrepr)
    if hasattr(report, "wasxfail"):
        report.wasxfail = printable(report.wasxfail)


def _shielded(value: Any) -> Any:
    """Return a text, or what is made of texts, with each made fit; objects are changed in place."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        made = list(map(_shielded, value))
        return made if isinstance(value, list) else tuple(made)
    # pytest's own, and others' that stand in their place; each is drawn from what it holds.
    if hasattr(value, "toterminal"):
        for name, one in vars(value).items():
            setattr(value, name, _shielded(one))
    return value

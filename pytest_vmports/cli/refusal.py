"""What a command says that does not do what it was asked."""

from __future__ import annotations

import sys

from pytest_vmports.system.mishaps import printable


def refuse(why: str, status: int = 1) -> int:
    """Say why on standard error, and return the command's exit status."""
    sys.stderr.write(printable(f"pytest-vmports: {why}\n"))
    return status

"""A failing test's report, so that nothing in it is obeyed: a test shows its guest's words too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vmports.errors.shown import coloured, printable, wrappable
from pytest_vmports.report import riders
from pytest_vmports.system.mishaps import noting

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest


def shield(report: pytest.TestReport) -> None:
    """Make fit to be shown what a report holds: values in assertions, what the test has printed.

    Args:
        report: of a test that had a VM.
    """
    report.sections = _fit(report.sections)
    if report.skipped and isinstance(report.longrepr, tuple):
        file, line, reason = report.longrepr
        report.longrepr = file, line, wrappable(reason)
    report.longrepr = _shielded(report.longrepr)
    if hasattr(report, "wasxfail"):
        report.wasxfail = wrappable(report.wasxfail)
    riders.put(report, riders.SHIELDED, len(report.sections))


def shield_rest(report: pytest.TestReport) -> None:
    """Likewise what was put on it since: pytest's subtests add what one printed, and its name.

    Args:
        report: of a test that had a VM, or made of such a one.
    """
    so_far, mishaps = riders.get(report, riders.SHIELDED), list[str]()
    if so_far is None:
        return
    with noting("evidence failed: a subtest's words stay as they are", mishaps.append):
        report.sections[so_far:] = _fit(report.sections[so_far:])
        if (context := getattr(report, "context", None)) is not None:
            given = {_shielded(name): _shielded(one) for name, one in context.kwargs.items()}
            # Frozen, and pytest's own: nobody else has it.
            object.__setattr__(context, "msg", _shielded(context.msg))
            object.__setattr__(context, "kwargs", given)
    if mishaps:
        riders.put(report, riders.MISHAPS, [*(riders.get(report, riders.MISHAPS) or ()), *mishaps])


def _fit(sections: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(printable(title), coloured(text)) for title, text in sections]


def _shielded(value: Any) -> Any:
    """Return a text, or what is made of texts, with each made fit; objects are changed in place."""
    if isinstance(value, str):
        return coloured(value)  # as pytest's own differences are
    if isinstance(value, list | tuple):
        made = list(map(_shielded, value))
        return made if isinstance(value, list) else tuple(made)
    # pytest's own, and others' that stand in their place; each is drawn from what it holds.
    if hasattr(value, "toterminal"):
        for name, one in vars(value).items():
            setattr(value, name, _shielded(one))
    return value

"""What is told of the VMs on the terminal at the run's end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vmports.report import riders
from pytest_vmports.system.mishaps import noting, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.report.record import Run


def write_closing(
    reporter: pytest.TerminalReporter,
    *,
    table: bool | str,
    timeline: str | None,
    kept: Sequence[Sequence[str]] = (),
) -> None:
    """Write what is told of the VMs at the run's end.

    Args:
        reporter: writes.
        table: what they came to; the path of a file that is to have it too.
        timeline: the path of a file for a picture of the run; None for none.
        kept: how to reach VMs that were kept and that no report tells of.
    """

    def note(mishap: str) -> None:
        reporter.line(printable(f"vmports: {mishap}"), red=True)

    with noting("mishaps cannot be told", note):
        _write_mishaps(reporter)
    with noting("the VMs that were kept cannot be told", note):
        _write_kept(reporter, kept)
    with noting("the table of VMs cannot be made", note):
        if table:
            _write_summary(reporter)
    with noting(f"the report cannot be written to {table}", note):
        if isinstance(table, str):
            _write_report(reporter, Path(table))
    with noting(f"the timeline cannot be written to {timeline}", note):
        if timeline is not None:
            _write_timeline(reporter, Path(timeline))


def _write_mishaps(reporter: pytest.TerminalReporter) -> None:
    """Write what went wrong beside tests that did not fail."""
    for report in _reports(reporter):
        for mishap in riders.get(report, riders.MISHAPS) or ():
            reporter.line(printable(f"vmports: {report.nodeid}: {mishap}"), red=True)


def _write_kept(reporter: pytest.TerminalReporter, more: Sequence[Sequence[str]]) -> None:
    """Write how to reach the VMs that outlive the run."""
    kept = [
        lines for report in _reports(reporter) for lines in riders.get(report, riders.KEPT) or ()
    ]
    kept += more
    if kept:
        reporter.section("VMs that were kept")
    for line in itertools.chain.from_iterable(kept):
        reporter.line(printable(line))


def _write_summary(reporter: pytest.TerminalReporter) -> None:
    """Write what the run's VMs came to."""
    from pytest_vmports.report.summary import Summary

    summary = Summary(_run(reporter))
    reporter.section("VMs")
    for line in summary.lines():
        reporter.line(line)


def _write_report(reporter: pytest.TerminalReporter, path: Path) -> None:
    """Write the same into a file, and say so."""
    from pytest_vmports.report.as_json import write

    write(_run(reporter), path)
    reporter.line(printable(f"vmports: the report is in {path}"))


def _write_timeline(reporter: pytest.TerminalReporter, path: Path) -> None:
    """Draw the run into a file, and say so."""
    from pytest_vmports.report.timeline import write

    write(_run(reporter), path)
    reporter.line(printable(f"vmports: the timeline is in {path}"))


def _run(reporter: pytest.TerminalReporter) -> Run:
    from pytest_vmports.report.record import run_of

    return run_of(_reports(reporter))


def _reports(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    """Return those of all phases of all tests, xdist's workers' too."""
    found = (one for reports in reporter.stats.values() for one in reports)
    return [one for one in found if isinstance(one, pytest.TestReport)]

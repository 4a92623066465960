"""The report of a run as JSON, for programs: ``--vmports-report=NAME.json``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_vmports.report.recorded import FORMAT, VERSION, json_of
from pytest_vmports.report.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.report.record import Case, Run, Vm


def document(run: Run) -> dict[str, Any]:
    """Return a run by names that stay within a version; moments in seconds since the epoch."""
    summary, over = Summary(run), run.end
    outcomes = {case.key: case.outcome for case in run.tests}
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": {
            "begin": run.begin, "end": over, "seconds": over - run.begin,
            "workers": sorted({case.worker for case in run.tests}),
            "tests": len(run.tests), "outcomes": summary.outcomes,
            **summary.values(),
        },
        "tests": [_case(case) for case in run.tests],
        "vms": [
            _vm(vm, over, outcomes.get(vm.key, "")) for vm in run.vms
        ],
    }  # fmt: skip


def write(run: Run, path: Path) -> None:
    """Write a run into a file.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_of(document(run), indent=1) + "\n", encoding="ascii")


def _case(case: Case) -> dict[str, Any]:
    whole = case.model_dump()
    phases = whole.pop("phases")
    return {**whole, "outcome": case.outcome, "seconds": case.seconds, "phases": phases}


def _vm(vm: Vm, over: float, outcome: str) -> dict[str, Any]:
    took: dict[str, float] = defaultdict(float)
    for span in vm.spans(over):
        took[span.name] += span.end - span.begin
    return {
        **vm.model_dump(), "outcome": outcome, "seconds_to_ready": vm.seconds_to_ready,
        "phases": dict(took),
    }  # fmt: skip

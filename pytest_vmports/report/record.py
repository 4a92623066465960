"""What a run's reports say, as plain values: for its table and picture, and for several runs' own.

The picture has them in it, so that those of shards can be joined.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.report import riders
from pytest_vmports.report.summary import Summary
from pytest_vmports.report.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pytest

    Phase = Mapping[str, Any]

_FORMAT: Final = 1
BEGIN, END = '<metadata id="vmports-run">', "</metadata>"
"""What stands around it in the picture."""


def phases_of(reports: Iterable[pytest.TestReport]) -> list[Phase]:
    """Return what is needed of each report."""
    return [
        {
            "test": report.nodeid, "worker": getattr(report, "worker_id", "main"),
            "when": report.when or "call", "outcome": report.outcome,
            "begin": report.start, "end": report.stop, "seconds": report.duration,
            "facts": riders.get(report, riders.FACTS),
        }
        for report in reports
    ]  # fmt: skip


def summary_of(phases: Sequence[Phase]) -> Summary:
    """Return the table of one run, or of several."""
    summary = Summary()
    for phase in phases:
        if phase["when"] == "call":
            summary.add_call(phase["test"], phase["seconds"])
        elif phase["facts"] is not None:
            summary.add(phase["test"], phase["facts"])
    return summary


def timeline_of(phases: Sequence[Phase]) -> Timeline:
    """Return the picture of one run, or of several, with what it was made of in it."""
    hosts = {
        phase["worker"]: phase["facts"]["host"]
        for phase in phases
        if phase["facts"] is not None and phase["facts"].get("host")
    }
    timeline = Timeline(within=_embedded(phases))
    for phase in phases:
        worker = " ".join(filter(None, (phase["worker"], hosts.get(phase["worker"]))))
        timeline.add_test(
            phase["test"], worker, phase["when"], phase["outcome"],
            begin=phase["begin"], end=phase["end"],
        )  # fmt: skip
        if phase["facts"] is not None:
            timeline.add_machines(phase["test"], worker, phase["facts"]["machines"])
    return timeline


def _embedded(phases: Sequence[Phase]) -> str:
    # All of it is ASCII: what has no encoding, and what XML has no place for, is escaped by JSON.
    text = json.dumps({"format": _FORMAT, "phases": phases}, separators=(",", ":"))
    return f"{BEGIN}{html.escape(text, quote=False)}{END}"

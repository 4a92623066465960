"""A picture of a run: which test and VM was in which phase when, and who held which port.

By the end of its file's name it is a page, a drawing, or events for a viewer of traces. Each has in
it what it was made of, so that those of shards can be joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.report.chart import chart_of
from pytest_vmports.report.drawing import svg_of
from pytest_vmports.report.page import page_of
from pytest_vmports.report.recorded import pack
from pytest_vmports.report.trace import trace_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.report.record import Run


def timeline_of(run: Run, ending: str) -> str:
    """Return a run as ``.svg``, as ``.json``, or else as a page of HTML."""
    if ending.lower() == ".json":
        return trace_of(run, pack(run))
    return (svg_of if ending.lower() == ".svg" else page_of)(chart_of(run), pack(run))


def write(run: Run, path: Path) -> None:
    """Write a picture of a run, by the end of the file's name.

    Raises:
        OSError: it cannot be written.
    """
    text = timeline_of(run, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

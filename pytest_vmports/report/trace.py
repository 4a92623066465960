"""A run as Chrome's trace events, which ui.perfetto.dev and chrome://tracing show.

The format is Google's "Trace Event Format": in microseconds, a process for each worker, in it a
thread for its tests and one for each VM that runs at a time.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.report.recorded import NAME, json_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vmports.report.record import Case, Run, Vm

    Event = Mapping[str, Any]

_NAMES: Final = {"hand_over": "hand over", "use": "in use"}


def trace_of(run: Run, record: str) -> str:
    """Return the JSON object format of trace events.

    Args:
        run: what it shows.
        record: the same, packed, so that several can be joined.
    """
    document = {
        "traceEvents": list(_events(run)), "displayTimeUnit": "ms",
        "otherData": {"begin": run.begin}, NAME: record,
    }  # fmt: skip
    return json_of(document) + "\n"


def _events(run: Run) -> Iterator[Event]:
    cases: dict[tuple[str, str], list[Case]] = defaultdict(list)
    vms: dict[tuple[str, str], list[Vm]] = defaultdict(list)
    for case in run.tests:
        cases[case.worker, case.host].append(case)
    for vm in run.vms:
        vms[vm.worker, vm.host].append(vm)
    thread = 0
    for process, (worker, host) in enumerate(sorted({*cases, *vms}), 1):
        yield _named("process_name", process, 0, " ".join(filter(None, (worker, host))))
        yield _meta("process_sort_index", process, 0, {"sort_index": process})
        thread += 1
        yield _named("thread_name", process, thread, "tests")
        yield from _of_tests(cases[worker, host], _Thread(process, thread, run.begin))
        for number, lane in enumerate(_lanes(vms[worker, host], run.end), 1):
            thread += 1
            yield _named("thread_name", process, thread, f"VM {number}")
            yield from _of_vms(lane, _Thread(process, thread, run.begin), run.end)


class _Thread:
    """Makes the events of one thread, whose slices lie beside or within each other.

    Args:
        process: its number.
        number: its own.
        begin: of the run, in seconds since the epoch.
    """

    def __init__(self, process: int, number: int, begin: float) -> None:
        self._ids = {"pid": process, "tid": number}
        self._begin = begin
        self._free = 0

    def slices(
        self, kind: str, whole: tuple[str, float, float], parts: Sequence[tuple[str, float, float]],
        **arguments: Any,
    ) -> Iterator[Event]:  # fmt: skip
        """Yield a slice and those within it, in their order; names with begin and end of each."""
        name, *moments = whole
        begin, end = (max(self._at(moment), self._free) for moment in moments)
        yield self._slice(kind, name, begin, end, arguments)
        free = begin
        for part, *within in parts:
            # A clock that was set meanwhile lets slices overlap, which viewers leave out.
            first, last = (min(max(self._at(moment), free), end) for moment in within)
            yield self._slice(kind, part, first, last, {})
            free = last
        self._free = end

    def instant(self, name: str, at: float, **arguments: Any) -> Event:
        """Return what happened at a moment."""
        return {
            "ph": "i", "s": "t", "cat": "failure", "name": name, "ts": self._at(at),
            **self._ids, "args": arguments,
        }  # fmt: skip

    def _at(self, moment: float) -> int:
        return max(round((moment - self._begin) * 1e6), 0)

    def _slice(
        self, kind: str, name: str, begin: int, end: int, arguments: Mapping[str, Any]
    ) -> Event:
        return {
            "ph": "X", "cat": kind, "name": name, "ts": begin, "dur": end - begin,
            **self._ids, "args": arguments,
        }  # fmt: skip


def _of_tests(cases: Sequence[Case], thread: _Thread) -> Iterator[Event]:
    for case in sorted(cases, key=lambda one: one.begin):
        parts = [(phase.when, phase.begin, phase.end) for phase in case.phases]
        yield from thread.slices(
            "test", (case.test, case.begin, case.end), parts, outcome=case.outcome,
            attempt=case.attempt,
        )  # fmt: skip
        for phase in case.phases:
            if phase.outcome == "failed":
                yield thread.instant(f"{phase.when} failed", phase.end, test=case.test)


def _of_vms(vms: Sequence[Vm], thread: _Thread, over: float) -> Iterator[Event]:
    for vm in vms:
        end = vm.end(over)
        parts = [(_NAMES.get(span.name, span.name), *span[1:]) for span in vm.spans(over)]
        yield from thread.slices(
            "vm", (f"{vm.guest}, {vm.wiring}, {vm.origin}", vm.leased, end), parts, test=vm.test,
            template=vm.template, ports=[str(port) for port in vm.ports],
        )  # fmt: skip
        if vm.refused is not None:
            yield thread.instant("a host port was somebody else's", vm.refused, test=vm.test)
        if vm.ready is None:
            yield thread.instant("start failed", end, test=vm.test)


def _lanes(vms: Sequence[Vm], over: float) -> list[list[Vm]]:
    """Return the VMs of a worker so that none of a lane ran while another of it did."""
    lanes: list[list[Vm]] = []
    busy: list[tuple[float, int]] = []
    for vm in sorted(vms, key=lambda one: one.leased):
        if busy and busy[0][0] <= vm.leased:
            _, lane = heapq.heappop(busy)
        else:
            lane = len(lanes)
            lanes.append([])
        lanes[lane].append(vm)
        heapq.heappush(busy, (vm.end(over), lane))
    return lanes


def _named(what: str, process: int, thread: int, name: str) -> Event:
    return _meta(what, process, thread, {"name": name})


def _meta(what: str, process: int, thread: int, arguments: Mapping[str, Any]) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "ts": 0, "args": arguments}

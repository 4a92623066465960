"""What a picture of a run shows, whatever draws it: rows with bars, and the slowest starts."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_vmports.report.markup import seconds
from pytest_vmports.report.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_vmports.report.record import Case, Run, Vm

_MOST_SLOW: Final = 8
_MOST_TICKS: Final = 20
_TICKS: Final = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200,
)  # fmt: skip
KINDS: Final = {
    "around": "set-up, tear-down", "passed": "test passed", "failed": "test failed",
    "skipped": "test skipped", "other": "test ended otherwise",
    "template": "VM boots for a template", "starting": "VM starts", "ready": "VM in use",
    "port": "port held",
}  # fmt: skip
# Okabe and Ito's, which people with any colour vision tell apart; what failed is also outlined.
COLOURS: Final = {
    "around": "#80cfb9", "passed": "#009e73", "failed": "#d55e00", "skipped": "#999",
    "other": "#777", "template": "#cc79a7", "starting": "#e69f00", "ready": "#0072b2",
    "port": "#56b4e9",
}  # fmt: skip
_PARTS: Final = {
    "lease": "ports and template", "boot": "boot and setup", "hand_over": "hand-over",
}  # fmt: skip
_WORST: Final = frozenset({"failed", "error"})


@dataclass(frozen=True)
class Bar:
    """Something that lasted; times in seconds since the epoch.

    Attributes:
        kind: one of `KINDS`.
        begin: when it began.
        end: when it ended.
        said: what it was, where its row does not tell.
        of: the number of its test among the rows of tests; None in such a row.
    """

    kind: str
    begin: float
    end: float
    said: str = ""
    of: int | None = None

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.end - self.begin


@dataclass(frozen=True)
class Row:
    """A name, and what happened there.

    Attributes:
        name: stands at the left; a VM's with its ports, in lines.
        bars: of tests and of VMs.
        outcome: of a test; empty for another row.
        took: the seconds of that test.
        within: rows that are folded.
    """

    name: str
    bars: Sequence[Bar]
    outcome: str = ""
    took: float = 0.0
    within: Sequence[Row] = ()


@dataclass(frozen=True)
class Start:
    """A VM that was waited for: how long in all, and before what; in seconds.

    Attributes:
        vm: what it is.
        test: waited.
        worker: ran the test.
        seconds: in all, until it was ready or had failed.
        parts: name and seconds of each.
        failed: it never was ready.
    """

    vm: str
    test: str
    worker: str
    seconds: float
    parts: Sequence[tuple[str, float]]
    failed: bool

    @property
    def of_it(self) -> str:
        """Its parts, as people read them."""
        return ", ".join(f"{name} {seconds(took)}" for name, took in self.parts)


@dataclass
class Chart:
    """All that a picture shows; see `chart_of`."""

    begin: float
    end: float
    heading: str
    workers: list[Row] = field(default_factory=list)
    tests: list[Row] = field(default_factory=list)
    ports: list[Row] = field(default_factory=list)
    slowest: list[Start] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it lasted; more than nothing."""
        return max(self.end - self.begin, 0.001)

    @property
    def step(self) -> float:
        """The seconds from one mark of its axis to the next."""
        fitting = (tick for tick in _TICKS if self.seconds / tick <= _MOST_TICKS)
        return next(fitting, self.seconds / _MOST_TICKS)

    def ticks(self) -> list[float]:
        """Return where its axis has marks, in seconds from its begin."""
        return [number * self.step for number in range(int(self.seconds / self.step) + 1)]

    def kinds(self) -> list[str]:
        """Return the kinds of bars that it has, for the legend."""
        rows = (*self.workers, *self.tests, *self.ports)
        there = {bar.kind for row in rows for bar in row.bars}
        return [kind for kind in KINDS if kind in there]


def chart_of(run: Run) -> Chart:
    """Return what the picture of a run shows: tests that failed first, then by their begin."""
    over = run.end
    chart = Chart(run.begin, over, _heading(run))
    vms: dict[tuple[str, str, int], list[Vm]] = defaultdict(list)
    for vm in run.vms:
        vms[vm.key].append(vm)
    lanes: dict[str, list[Bar]] = defaultdict(list)
    ports: dict[str, list[Bar]] = defaultdict(list)
    cases = sorted(run.tests, key=lambda case: (case.outcome not in _WORST, case.begin))
    for number, case in enumerate(cases):
        own = vms.pop(case.key, [])
        chart.tests.append(_row(case, own, over))
        kind = colour_of(case.outcome)
        lanes[_worker(case)].append(Bar(kind, case.begin, case.end, case.outcome, number))
        for vm in own:
            lanes[f"{_worker(vm)} VMs"] += _life(vm, over, number)
            for port in vm.ports:
                ports[f"{port.host}:{port.host_port}"].append(_held(vm, over, str(port), number))
    chart.workers = [Row(name, bars) for name, bars in sorted(lanes.items())]
    chart.ports = [Row(name, bars) for name, bars in ports.items()]
    chart.ports.sort(key=lambda row: min(bar.begin for bar in row.bars))
    chart.slowest = _slowest(run.vms, over)
    return chart


def colour_of(outcome: str) -> str:
    """Return the kind of bar that shows an outcome."""
    kind = "failed" if outcome in _WORST else outcome
    return kind if kind in {"passed", "skipped", "failed"} else "other"


def _heading(run: Run) -> str:
    outcomes = ", ".join(f"{count} {name}" for name, count in Summary(run).outcomes.items())
    tests = f"{len(run.tests)} tests: {outcomes}" if run.tests else "no tests"
    return f"{tests}; {len(run.vms)} VMs; {run.end - run.begin:.1f} s"


def _worker(one: Case | Vm) -> str:
    return " ".join(filter(None, (one.worker, one.host)))


def _row(case: Case, vms: Iterable[Vm], over: float) -> Row:
    """Return the row of a test, with its VMs and their ports within."""
    parts = (f"{phase.when} {seconds(phase.end - phase.begin)}" for phase in case.phases)
    bars = [Bar("around", case.begin, case.end, f"{_worker(case)}: {', '.join(parts)}")]
    for phase in case.phases:
        if phase.when == "call" or phase.outcome != "passed":
            said = "" if phase.when == "call" else f"{phase.when} {phase.outcome}"
            bars.append(Bar(colour_of(phase.outcome), phase.begin, phase.end, said))
    within = []
    for vm in vms:
        bars += _life(vm, over)
        within.append(Row("\n".join([_vm(vm), *map(str, vm.ports)]), [_held(vm, over, "held")]))
    again = f" (attempt {case.attempt})" if case.attempt > 1 else ""
    return Row(f"{case.test}{again}", bars, case.outcome, case.seconds, within)


def _vm(vm: Vm) -> str:
    return f"{vm.guest}, {vm.wiring}, {vm.origin}{' for a template' if vm.template else ''}"


def _life(vm: Vm, over: float, of: int | None = None) -> Iterator[Bar]:
    """Yield what a VM went through, from its start on."""
    # Its ports may have been leased long before, while its template was built.
    begin = vm.leased if vm.start is None else vm.start
    end = vm.end(over)
    started = end if vm.template or vm.ready is None else vm.ready
    said = "" if of is None else _vm(vm)
    yield Bar("template" if vm.template else "starting", begin, started, said, of)
    if started < end:
        yield Bar("ready", started, end, said, of)


def _held(vm: Vm, over: float, said: str, of: int | None = None) -> Bar:
    return Bar("port", vm.leased, vm.end(over), said, of)


def _slowest(vms: Iterable[Vm], over: float) -> list[Start]:
    starts = (_start(vm, over) for vm in vms)
    return heapq.nlargest(_MOST_SLOW, starts, key=lambda start: start.seconds)


def _start(vm: Vm, over: float) -> Start:
    until = vm.end(over) if vm.ready is None else vm.ready
    parts = [
        (_PARTS.get(span.name, span.name), span.end - span.begin)
        for span in vm.spans(over) if vm.begun <= span.begin < until
    ]  # fmt: skip
    whole = max(until - vm.begun, 0.0)
    return Start(_vm(vm), vm.test, _worker(vm), whole, parts, vm.ready is None)

"""What a run's reports say of its tests and VMs, as values: for its tables and pictures."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pytest_vmports.report import riders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pytest

_LATEST: Final = 1e12
Moment = Annotated[float, Field(ge=0, le=_LATEST)]
"""Seconds since the epoch, or a number of seconds."""
_Number = Annotated[int, Field(ge=0, le=1 << 32)]
WHEN: Final = ("setup", "call", "teardown")
_WAYS: Final = {
    "booted": "boot",
    "cloned": "restore",
    "restored": "restore",
    "standby": "hand_over",
}


class Strict(BaseModel):
    """What reads no member as another type than its own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="ignore")


class Port(Strict):
    """A forward: an address and a port of the host, a port of the guest, ``tcp`` or ``udp``."""

    host: str
    host_port: _Number
    guest_port: _Number
    protocol: str

    def __str__(self) -> str:
        return f"{self.host}:{self.host_port} -> {self.guest_port}/{self.protocol}"


class Phase(Strict):
    """A phase of a test; ``seconds`` is how long pytest says that it took."""

    when: Literal["setup", "call", "teardown"]
    outcome: str
    begin: Moment
    end: Moment
    seconds: Moment


class Case(Strict):
    """A test as it ran.

    Attributes:
        test: its id.
        worker: which process ran it: ``main``, or the name that xdist gives.
        host: that of a worker on another machine; empty here.
        attempt: 1, and more where a plugin runs it again.
        waited: how often it waited for a fixed port.
        phases: in their order; one at least.
    """

    test: str
    worker: str
    host: str = ""
    attempt: _Number = 1
    waited: _Number = 0
    phases: list[Phase] = Field(min_length=1)

    @property
    def outcome(self) -> str:
        """``passed``, ``failed``, ``error`` of its set-up or tear-down, ``skipped``, or another."""
        failed = [phase.when for phase in self.phases if phase.outcome == "failed"]
        if failed:
            return "failed" if "call" in failed else "error"
        other = (phase.outcome for phase in self.phases if phase.outcome != "passed")
        return next(other, "passed")

    @property
    def seconds(self) -> float:
        """How long the test itself took, without set-up and tear-down."""
        return sum(phase.seconds for phase in self.phases if phase.when == "call")

    @property
    def key(self) -> tuple[str, str, int]:
        """Which of all tests it is; that of a `Vm` is its test's."""
        return self.worker, self.test, self.attempt

    @property
    def begin(self) -> float:
        """When its first phase began."""
        return min(phase.begin for phase in self.phases)

    @property
    def end(self) -> float:
        """When its last phase ended."""
        return max(phase.end for phase in self.phases)


class Span(NamedTuple):
    """A part of a VM's life."""

    name: str
    begin: float
    end: float


class Vm(Strict):
    """A VM that a test started, or that was booted to be saved.

    Moments are None where they did not come: ``ready`` of a start that failed, ``stopped`` of a VM
    that still ran, ``refused`` where all ports could be bound; see `vm.milestones.Milestones`.

    Attributes:
        test, worker, host, attempt: of its `Case`.
        guest: its guest's name.
        wiring: how it was connected.
        origin: see `vm.milestones.Origin`.
        template: it was booted to be saved.
        ports: the test's.
    """

    test: str
    worker: str
    host: str = ""
    attempt: _Number = 1
    guest: str
    wiring: str
    origin: str
    template: bool
    ports: list[Port]
    leased: Moment
    start: Moment | None
    refused: Moment | None
    setup: Moment | None
    ready: Moment | None
    stopped: Moment | None

    @property
    def key(self) -> tuple[str, str, int]:
        """That of its `Case`."""
        return self.worker, self.test, self.attempt

    def end(self, over: float) -> float:
        """Return when it stopped; that of the run, ``over``, where it still ran."""
        return over if self.stopped is None else self.stopped

    @property
    def begun(self) -> float:
        """From when on it was waited for; a reset one, from its last start on."""
        if self.origin == "restored" and self.start is not None:
            return self.start
        return self.leased

    @property
    def seconds_to_ready(self) -> float | None:
        """How long it was waited for; None for a start that failed."""
        return None if self.ready is None else max(self.ready - self.begun, 0.0)

    def spans(self, over: float) -> Iterator[Span]:
        """Yield what it went through, as far as that took any time.

        ``lease`` lasts until it is started, with a template that is made meanwhile; ``boot`` until
        its setup has ended, ``restore`` until it runs, ``hand_over`` until it has its ports;
        ``answer`` until what is waited for has answered; then it is in ``use``, or a ``save``.

        Args:
            over: when the run ended.
        """
        moments = [("use" if self.origin == "restored" else "lease", self.leased)]
        if self.start is not None:
            moments.append((_WAYS.get(self.origin, "start"), self.start))
            # That of a VM that waited for its test is from before.
            if self.setup is not None and self.setup >= self.start:
                moments.append(("answer", self.setup))
        if self.ready is not None:
            moments.append(("save" if self.template else "use", self.ready))
        ends = [*(at for _, at in moments[1:]), self.end(over)]
        for (name, begin), until in zip(moments, ends, strict=True):
            if begin < until:
                yield Span(name, begin, until)


class Run(Strict):
    """A run, or several that were joined."""

    tests: list[Case]
    vms: list[Vm]

    @property
    def begin(self) -> float:
        """When the first of it began; 0 where there is nothing."""
        return min((*(one.begin for one in self.tests), *(vm.leased for vm in self.vms)), default=0)

    @property
    def end(self) -> float:
        """When the last of it ended."""
        stopped = (vm.stopped or vm.ready or vm.leased for vm in self.vms)
        return max((*(one.end for one in self.tests), *stopped), default=0)


def run_of(reports: Iterable[pytest.TestReport]) -> Run:
    """Return what the reports of a whole run say."""
    told = sorted(reports, key=_in_order)
    facts = [(_worker(report), riders.get(report, riders.FACTS)) for report in told]
    # Only a test that had a VM tells the host of its worker.
    hosts = {worker: found["host"] for worker, found in facts if found and found.get("host")}
    run = Run(tests=[], vms=[])
    current: dict[tuple[str, str], Case] = {}
    attempts: Counter[tuple[str, str]] = Counter()
    for report, (worker, found) in zip(told, facts, strict=True):
        key, phase = (worker, report.nodeid), _phase(report)
        if key in current and phase.when != "setup":
            _add_phase(current[key].phases, phase)
        else:
            attempts[key] += 1
            current[key] = Case(
                test=report.nodeid, worker=worker, host=hosts.get(worker, ""),
                attempt=attempts[key], phases=[phase],
            )  # fmt: skip
            run.tests.append(current[key])
        if found:
            current[key].waited = found["waited"]
            run.vms += _vms(current[key], found["machines"])
    return run


def _in_order(report: pytest.TestReport) -> tuple[float, int, str, str]:
    return report.start, WHEN.index(_when(report)), _worker(report), report.nodeid


def _when(report: pytest.TestReport) -> Literal["setup", "call", "teardown"]:
    return report.when or "call"


def _worker(report: pytest.TestReport) -> str:
    return str(getattr(report, "worker_id", "main"))


def _phase(report: pytest.TestReport) -> Phase:
    begin, end, seconds = (
        min(max(float(at), 0.0), _LATEST) for at in (report.start, report.stop, report.duration)
    )
    return Phase(
        when=_when(report), outcome=report.outcome, begin=begin, end=max(begin, end),
        seconds=seconds,
    )  # fmt: skip


def _add_phase(phases: list[Phase], more: Phase) -> None:
    """Add a phase; one that is there, as of a test with subtests, becomes the worst of both."""
    for phase in phases:
        if phase.when == more.when:
            phase.begin, phase.end = min(phase.begin, more.begin), max(phase.end, more.end)
            phase.seconds = max(phase.seconds, more.seconds)
            if phase.outcome == "passed" or more.outcome == "failed":
                phase.outcome = more.outcome
            return
    phases.append(more)


def _vms(case: Case, machines: Sequence[Mapping[str, Any]]) -> Iterator[Vm]:
    for machine in machines:
        yield Vm(
            **machine, test=case.test, worker=case.worker, host=case.host, attempt=case.attempt
        )

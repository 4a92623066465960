"""What a failing test's report says about its VM."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vmports import options
from pytest_vmports.errors import HostError, VmPortsError
from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.console_stream import ConsoleStream
    from pytest_vmports.evidence import Evidence
    from pytest_vmports.leases import LeaseInfo
    from pytest_vmports.terminal import Terminal
    from pytest_vmports.vm.keep import Keeper
    from pytest_vmports.vm.machine import Machine

_FACTS, _KEPT = "vmports", "vmports_kept"
_terminal_key: pytest.StashKey[Terminal] = pytest.StashKey()
_stream_key: pytest.StashKey[ConsoleStream] = pytest.StashKey()
_keeper_key: pytest.StashKey[Keeper] = pytest.StashKey()
_recorder_key: pytest.StashKey[Recorder] = pytest.StashKey()
_evidence_key: pytest.StashKey[Evidence] = pytest.StashKey()


def terminal(config: pytest.Config) -> Terminal:
    """Return what writes to the terminal while tests run."""
    if _terminal_key not in config.stash:
        from pytest_vmports.terminal import Terminal

        config.stash[_terminal_key] = Terminal(config)
    return config.stash[_terminal_key]


def keeper(config: pytest.Config) -> Keeper | None:
    """Return what keeps VMs beyond the run; None where none is to be kept."""
    (keep,) = options.values(config, "keep")
    if keep == "never":
        return None
    from pytest_vmports.vm.keep import Keeper

    made = config.stash[_keeper_key] = Keeper(always=keep == "always", tell=terminal(config))
    return made


@contextlib.contextmanager
def console_stream(config: pytest.Config) -> Iterator[None]:
    """Show guests' consoles meanwhile, if that is asked for."""
    (wanted,) = options.values(config, "console")
    if not wanted:
        yield
        return
    from pytest_vmports.console_stream import ConsoleStream

    worker = getattr(config, "workerinput", {}).get("workerid")
    prefix = f"{worker} " if worker else ""
    with contextlib.closing(ConsoleStream(terminal(config).write, prefix)) as stream:
        config.stash[_stream_key] = stream
        yield


class Recorder:
    """Takes note of VMs for the test that runs.

    Attributes:
        item: that test; None before the first.
        made: the VMs that were made, those that have ended without the last one.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.item: pytest.Item | None = None
        self.made: list[Machine] = []
        self._config = config

    def observe(self, machine: Machine) -> None:
        """Take note of a machine that is about to start."""
        self.made = [*(one for one in self.made if one.running), machine]
        if self.item is not None:
            _evidence_of(self.item).machines.append(machine)
        if (stream := self._config.stash.get(_stream_key, None)) is not None:
            stream.follow(machine)

    def on_wait(self, _holder: LeaseInfo) -> None:
        """Count that a fixed port is waited for."""
        if self.item is not None:
            _evidence_of(self.item).waited += 1


def recorder(session: pytest.Session) -> Recorder:
    """Return the session's recorder."""
    if _recorder_key not in session.stash:
        session.stash[_recorder_key] = Recorder(session.config)
    return session.stash[_recorder_key]


def fixtures(item: pytest.Item) -> Sequence[str]:
    """Return the names of all fixtures that a test uses, also through others."""
    return getattr(item, "fixturenames", ())


def _evidence_of(item: pytest.Item) -> Evidence:
    from pytest_vmports.evidence import Evidence

    return item.stash.setdefault(_evidence_key, Evidence())


def add_sections(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give a failing report what is known of the test's VMs, and of others that it may use."""
    # A fixture of a wider scope may have made them long before this test.
    made = recorder(item.session).made if "vm_factory" in fixtures(item) else []
    if not report.failed or not (made or _evidence_key in item.stash):
        return
    evidence = _evidence_of(item)
    evidence.shared = [one for one in made if one.running and one not in evidence.machines]
    for machine in evidence.shown():
        machine.failing = True
    # As part of the failure itself it also reaches JUnit's XML, which knows no sections of others.
    add = getattr(report.longrepr, "addsection", None)
    evident = evidence.sections(whole=item.config.get_verbosity() > 1)
    for title, text in itertools.chain(evident, _artifacts(item, evidence)):
        if add is None:
            report.sections.append((title, text))
        else:
            add(title, text)


def _artifacts(item: pytest.Item, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Write the files of each VM, and yield the section that says where they are."""
    (wanted,) = options.values(item.config, "artifacts")
    if wanted == "no":
        return
    root = item.config.rootpath
    if wanted is None:
        # What the fixture tmp_path_factory returns, which a hook cannot ask for.
        temporary: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined] # noqa: SLF001
        base = temporary.getbasetemp() / "vmports"
    else:
        base = root / Path(wanted).expanduser()
    for number, machine in enumerate(evidence.shown(), 1):
        yield "VM: artifacts", _written(machine, base, item.nodeid, root, number)


def _written(machine: Machine, base: Path, test: str, root: Path, number: int) -> str:
    from pytest_vmports.artifacts import write

    try:
        return str(write(machine, base, test, root, number))
    except (OSError, VmPortsError) as error:
        # The test's own failure matters more.
        return f"not written to {base}: {error}"


def add_facts(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a teardown's report what the table of the whole run needs; xdist carries it along."""
    evidence = item.stash.get(_evidence_key, None)
    if evidence is not None and report.when == "teardown":
        from pytest_vmports.summary import facts_of

        vars(report)[_FACTS] = facts_of(evidence)


def forget(item: pytest.Item) -> None:
    """Let go of what is known of a test's VMs, files of theirs among it."""
    if _evidence_key in item.stash:
        del item.stash[_evidence_key]


def add_kept(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a report how to reach the VMs that were kept since the last one."""
    keeper = item.config.stash.get(_keeper_key, None)
    if keeper is not None and keeper.fresh:
        vars(report)[_KEPT], keeper.fresh = keeper.fresh, []


def write_kept(reporter: pytest.TerminalReporter) -> None:
    """Write how to reach the VMs that outlive the run."""
    kept = [lines for report in _reports(reporter) for lines in getattr(report, _KEPT, ())]
    if kept:
        reporter.section("VMs that were kept")
    for line in itertools.chain.from_iterable(kept):
        reporter.line(line)


def write_summary(reporter: pytest.TerminalReporter) -> None:
    """Write what the run's VMs came to."""
    from pytest_vmports.summary import Summary

    summary = Summary()
    for report in _reports(reporter):
        if report.when == "call":
            summary.add_call(report.nodeid, report.duration)
        elif (facts := getattr(report, _FACTS, None)) is not None:
            summary.add(report.nodeid, facts)
    reporter.section("VMs")
    for line in summary.lines():
        reporter.line(line)


def write_timeline(reporter: pytest.TerminalReporter, path: Path) -> None:
    """Draw the run into a file; say so, or why not."""
    from pytest_vmports.timeline import Timeline

    timeline = Timeline()
    for report in _reports(reporter):
        worker = getattr(report, "worker_id", "main")
        timeline.add_test(
            report.nodeid, worker, report.when or "call", report.outcome,
            begin=report.start, end=report.stop,
        )  # fmt: skip
        if (facts := getattr(report, _FACTS, None)) is not None:
            timeline.add_machines(report.nodeid, worker, facts["machines"])
    drawn = timeline.svg() if path.suffix.lower() == ".svg" else timeline.page()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        reporter.line(f"vmports: the timeline cannot be written to {path}: {error}", red=True)
    else:
        reporter.line(f"vmports: the timeline is in {path}")


def _reports(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    """Return those of all phases of all tests, xdist's workers' too."""
    found = (one for reports in reporter.stats.values() for one in reports)
    return [one for one in found if isinstance(one, pytest.TestReport)]


def header_lines(qemu: str | None, accel: str, gvproxy: str | None) -> list[str]:
    """Return what pytest's header says of QEMU, accelerator and gvproxy."""
    lines = []
    try:
        found = find_qemu(qemu)
        lines.append(f"vmports: {found}")
        lines.append(f"vmports: accelerator {choose_accel(accel, found.path)}")
    except HostError as error:
        lines.append("vmports: " + str(error).splitlines()[0])
    try:
        lines.append(f"vmports: {find_gvproxy(gvproxy)}")
    except HostError:
        lines.append("vmports: no gvproxy, so no guest with network")
    return lines

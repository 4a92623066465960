"""What a failing test's report says about its VM."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vmports import options
from pytest_vmports.errors import HostError
from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu
from pytest_vmports.mishaps import noting, plain, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_vmports.console_stream import ConsoleStream
    from pytest_vmports.evidence import Evidence
    from pytest_vmports.leases import LeaseInfo
    from pytest_vmports.pool.keeper import Keeper
    from pytest_vmports.terminal import Terminal
    from pytest_vmports.vm.machine import Machine

# Names of what rides on reports, which xdist brings to its controller.
FACTS, KEPT, MISHAPS = "vmports", "vmports_kept", "vmports_mishaps"
_terminal_key: pytest.StashKey[Terminal] = pytest.StashKey()
_stream_key: pytest.StashKey[ConsoleStream] = pytest.StashKey()
_keeper_key: pytest.StashKey[Keeper] = pytest.StashKey()
_recorder_key: pytest.StashKey[Recorder] = pytest.StashKey()
_evidence_key: pytest.StashKey[Evidence] = pytest.StashKey()


def terminal(config: pytest.Config) -> Terminal:
    """Return what writes to the terminal while tests run."""
    if _terminal_key not in config.stash:
        from pytest_vmports.terminal import Terminal

        config.stash[_terminal_key] = Terminal(config, recorder(config).note)
    return config.stash[_terminal_key]


def keeper(config: pytest.Config) -> Keeper | None:
    """Return what keeps VMs beyond the run; None where none is to be kept."""
    (keep,) = options.values(config, "keep")
    if keep == "never":
        return None
    from pytest_vmports.pool.keeper import Keeper

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
        mishaps: what went wrong beside the tests since the last report.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.item: pytest.Item | None = None
        self.made: list[Machine] = []
        self.mishaps: list[str] = []
        self._config = config

    def note(self, mishap: str) -> None:
        """Take note of what went wrong, in a line; of the same only once."""
        if mishap not in self.mishaps:
            self.mishaps.append(mishap)

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


def recorder(config: pytest.Config) -> Recorder:
    """Return the session's recorder."""
    if _recorder_key not in config.stash:
        config.stash[_recorder_key] = Recorder(config)
    return config.stash[_recorder_key]


def fixtures(item: pytest.Item) -> Sequence[str]:
    """Return the names of all fixtures that a test uses, also through others."""
    return getattr(item, "fixturenames", ())


def _evidence_of(item: pytest.Item) -> Evidence:
    from pytest_vmports.evidence import Evidence

    return item.stash.setdefault(_evidence_key, Evidence())


def complete(item: pytest.Item, report: pytest.TestReport, *, facts: bool) -> None:
    """Put on a report what is known of the test's VMs; what goes wrong with that is told there too.

    Args:
        item: the test.
        report: of one of its phases.
        facts: the table or the picture of the whole run wants some.
    """
    note = recorder(item.config).note
    with noting("evidence failed: all of it", note):
        _add_sections(item, report, note)
    with noting("evidence failed: how to reach what was kept", note):
        _add_kept(item, report)
    with noting("evidence failed: facts for the whole run", note):
        if facts:
            _add_facts(item, report)
    with noting("evidence failed: letting go of it", note):
        if report.when == "teardown":
            _forget(item)
    _add_mishaps(item, report)


def _add_sections(
    item: pytest.Item, report: pytest.TestReport, note: Callable[[str], None]
) -> None:
    """Give a failing report what is known of the test's VMs, and of others that it may use."""
    # A fixture of a wider scope may have made them long before this test.
    made = recorder(item.config).made if "vm_factory" in fixtures(item) else []
    if not report.failed or not (made or _evidence_key in item.stash):
        return
    evidence = _evidence_of(item)
    evidence.shared = [one for one in made if one.running and one not in evidence.machines]
    for machine in evidence.shown():
        machine.note_failing()
    evident = evidence.sections(whole=item.config.getoption("verbose", 0) > 1, note=note)
    for title, text in evident:
        _add(report, title, text)
    with noting("artifact failed: all of them", note):
        for text in _artifacts(item, evidence, note):
            _add(report, "VM: artifacts", text)


def _add(report: pytest.TestReport, title: str, text: str) -> None:
    # As part of the failure itself it also reaches JUnit's XML, which knows no sections of others.
    add = getattr(report.longrepr, "addsection", None)
    if add is None:
        report.sections.append((printable(title), printable(text)))
    else:
        add(printable(title), printable(text))


def _add_mishaps(item: pytest.Item, report: pytest.TestReport) -> None:
    """Tell what went wrong beside the tests since the last report: in this one, if anybody sees it.

    That of a test that did not fail is told at the run's end.
    """
    noted = recorder(item.config)
    mishaps, noted.mishaps = noted.mishaps, []
    later = [] if report.failed else mishaps
    for mishap in mishaps if report.failed else ():
        with noting(mishap, later.append):
            _add(report, f"VM: {mishap.partition(':')[0]}", mishap)
    if later:
        vars(report)[MISHAPS] = plain(later)


def _artifacts(item: pytest.Item, evidence: Evidence, note: Callable[[str], None]) -> Iterator[str]:
    """Write the files of each VM, and yield where they are, or why there are none."""
    (wanted,) = options.values(item.config, "artifacts")
    if wanted == "no":
        return
    root = item.config.rootpath
    if wanted is not None:
        base = root / Path(wanted).expanduser()
    elif (temporary := getattr(item.config, "_tmp_path_factory", None)) is not None:
        # What the fixture tmp_path_factory returns, which a hook cannot ask for.
        base = temporary.getbasetemp() / "vmports"
    else:
        yield (
            "not written: pytest's own folder for them went with its plugin tmpdir; "
            "--vmports-artifacts DIR names another"
        )
        return
    from pytest_vmports.artifacts import write

    for number, machine in enumerate(evidence.shown(), 1):
        with noting(f"artifact failed: all below {base} (see --vmports-artifacts)", note):
            yield str(write(machine, base, item.nodeid, root, number, note=note))


def _add_facts(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a teardown's report what the table of the whole run needs; xdist carries it along."""
    evidence = item.stash.get(_evidence_key, None)
    if evidence is not None and report.when == "teardown":
        from pytest_vmports.summary import facts_of

        vars(report)[FACTS] = plain(facts_of(evidence))


def _forget(item: pytest.Item) -> None:
    """Let go of what is known of a test's VMs, files of theirs among it."""
    if _evidence_key in item.stash:
        del item.stash[_evidence_key]


def _add_kept(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a report how to reach the VMs that were kept since the last one."""
    keeper = item.config.stash.get(_keeper_key, None)
    if keeper is not None and keeper.fresh:
        vars(report)[KEPT], keeper.fresh = plain(keeper.fresh), []


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

"""Snapshots and restarts in the right order, with a machine that notes what is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import MachineDiedError, MonitorError
from pytest_vmports.vm import snapshots
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.failures import Vitals, at_the_end
from pytest_vmports.vm.inside.window import forget_place
from pytest_vmports.vm.qmp_answers import RunState
from pytest_vmports.vm.saved import OVERLAY


class FakeMonitor:
    """Notes commands; ``refuses`` are answered with an error."""

    def __init__(self, notes, *, running=True, refuses=()):
        self.notes, self.running, self.refuses = notes, running, refuses
        self.hung_up = False
        self.panicked = self.disk_full = False

    def execute(self, command):
        self.notes.append(command)
        if command in self.refuses:
            raise MonitorError(command=command, reply="no")
        return {}

    def run_state(self):
        self.notes.append("query-status")
        return RunState(status="running" if self.running else "paused", running=self.running)

    def save(self, _descriptor, *, whole):
        assert not whole
        self.notes.append("save")
        if "save" in self.refuses:
            raise MonitorError(command="migrate", reply="no")

    def why_ended(self):
        return ""

    resets = SimpleNamespace(count=0)


class Whole:
    """What a plan says of hardware that QEMU saves as a whole."""

    why_not_saved = None


class Lacking:
    """Likewise of hardware of which something is not saved."""

    why_not_saved = "it forgets"


@dataclass(frozen=True)
class Planned:
    """What is replaced of a plan."""

    shares: tuple = ()
    shared_memory: str | None = None
    paused: bool = False
    hardware: type = Whole


NAME = b"0000:00:1e.0/window"


@pytest.mark.parametrize("before", [b"QEVM", b"", b"x" * 5000])
def test_a_saved_state_does_not_say_where_the_guest_had_the_window(tmp_path, before):
    place, size = b"\0\0\0\0\xfe\x40\0\0", (4 << 20).to_bytes(8, "big")
    block = bytes([len(NAME)]) + NAME + size
    state = tmp_path / "state"
    state.write_bytes(before + block + place + b"after" + block[1:] + place)
    with state.open("r+b") as file:
        forget_place(file.fileno())
    assert state.read_bytes() == before + block + bytes(8) + b"after" + block[1:] + place


@pytest.mark.parametrize("said", [b"", b"QEVM", NAME, bytes([len(NAME)]) + NAME])
def test_a_saved_state_without_a_window_stays_as_it_is(tmp_path, said):
    state = tmp_path / "state"
    state.write_bytes(said)
    with state.open("r+b") as file:
        forget_place(file.fileno())
    assert state.read_bytes() == said


class FakeMachine:
    """Notes in ``notes`` what is asked of it, with its monitor and its QEMU."""

    def __init__(self, folder, *, overlay=False, died=None, **monitor):
        self.notes = []
        self.monitor = FakeMonitor(self.notes, **monitor)
        self.workdir = folder / "vm"
        self.workdir.mkdir()
        if overlay:
            (self.workdir / OVERLAY).write_text("as it is")
        self.console = Console(self.workdir / "console.log")
        self.console.path.write_text("said so far\n")
        self.ram, self.running, self.plan = None, True, Planned(("of before",))
        self.clock_behind = 2.0
        self.place, self.kind = None, SimpleNamespace(save_key=lambda *_: None)
        self._died = died
        self._qemu = SimpleNamespace(
            name="QEMU", running=True, ending=False, returncode=None, output="", pid=1,
            wait=lambda _seconds: self.notes.append("wait"),
        )  # fmt: skip

    def processes(self):
        return [self._qemu]

    @property
    def vitals(self):
        return Vitals(self._qemu, (), self.console, self.monitor)

    def failure_at_the_end(self):
        return at_the_end(self.vitals)

    def check_alive(self):
        self.notes.append("check")
        if self._died is not None:
            raise self._died

    def await_back(self):
        """It has not rebooted."""

    def stop(self, *, keep_disks=False):
        self.notes.append(f"stop, keep_disks={keep_disks}")
        self.running = False

    def start_again(self, plan, lease_fds, saved):
        assert plan.shares == ()
        what = "new" if saved is None else "what was saved"
        self.notes.append(f"start {what} with {list(lease_fds)}")


@pytest.fixture
def new(tmp_path):
    return lambda **how: FakeMachine(tmp_path, **how)


# --- snapshots ----------------------------------------------------------------------------------


def test_a_vm_that_runs_goes_on_after_its_snapshot(new, tmp_path):
    machine = new()
    snapshots.snapshot(machine, tmp_path / "snapshot")
    assert machine.notes == ["check", "query-status", "stop", "save", "cont"]


def test_a_vm_that_qemu_does_not_save_as_a_whole_is_asked_nothing(new, tmp_path):
    machine = new()
    machine.plan = Planned(hardware=Lacking)
    with pytest.raises(MonitorError, match="could not be gone back to: it forgets"):
        snapshots.snapshot(machine, tmp_path / "snapshot")
    assert machine.notes == ["check"] and not (tmp_path / "snapshot").exists()


def test_a_vm_that_was_paused_stays_so(new, tmp_path):
    machine = new(running=False)
    snapshots.snapshot(machine, tmp_path / "snapshot")
    assert machine.notes == ["check", "query-status", "stop", "save"]


@pytest.mark.parametrize("running", [True, False])
def test_a_snapshot_that_cannot_be_saved_leaves_the_vm_as_it_was(new, tmp_path, running):
    machine = new(running=running, refuses=["save"])
    with pytest.raises(MonitorError):
        snapshots.snapshot(machine, tmp_path / "snapshot")
    assert ("cont" in machine.notes) == running


def test_a_snapshot_is_never_written_over_another(new, tmp_path):
    (tmp_path / "snapshot").write_text("another")
    with pytest.raises(FileExistsError):
        snapshots.snapshot(new(), tmp_path / "snapshot")
    assert (tmp_path / "snapshot").read_text() == "another"


def test_a_vm_that_is_gone_has_no_snapshot(new, tmp_path):
    died = MachineDiedError(program="QEMU", returncode="1", stderr="", console="")
    machine = new(died=died)
    with pytest.raises(MachineDiedError):
        snapshots.snapshot(machine, tmp_path / "snapshot")
    assert machine.notes == ["check"]


def test_a_snapshot_holds_the_disks_and_what_was_said_and_brings_them_back(new, tmp_path):
    machine = new(overlay=True)
    saved = snapshots.snapshot(machine, tmp_path / "snapshot")
    assert saved.console == "said so far\n"
    (machine.workdir / OVERLAY).write_text("written later")
    assert [copy.read_text() for copy in saved.disks] == ["as it is"]
    saved.bring_back_disks(machine.workdir)
    assert (machine.workdir / OVERLAY).read_text() == "as it is"


# --- restarts -----------------------------------------------------------------------------------


def test_a_disk_is_written_out_before_its_vm_is_started_anew(new):
    machine = new(overlay=True)
    snapshots.restart(machine, [5], None)
    assert machine.notes == [
        "quit", "wait", "stop, keep_disks=True", "start new with [5]",
    ]  # fmt: skip


def test_a_qemu_that_does_not_quit_is_stopped_all_the_same(new):
    machine = new(overlay=True, refuses=["quit"])
    snapshots.restart(machine, [], None)
    assert machine.notes[:3] == ["quit", "wait", "stop, keep_disks=True"]


def test_a_vm_without_a_disk_has_nothing_to_write_out(new):
    machine = new()
    snapshots.restart(machine, [5], None)
    assert machine.notes == ["stop, keep_disks=True", "start new with [5]"]


def test_a_booted_vm_keeps_what_was_said_and_a_restored_one_has_what_was_saved(new, tmp_path):
    machine = new(overlay=True)
    saved = snapshots.snapshot(machine, tmp_path / "snapshot")
    machine.console.path.write_text("said so far\nand more\n")
    (machine.workdir / OVERLAY).write_text("written later")
    snapshots.restart(machine, [], None)
    assert machine.console.text() == "said so far\nand more\n"
    assert (machine.workdir / OVERLAY).read_text() == "written later"
    snapshots.restart(machine, [], saved)
    assert machine.console.text() == "said so far\n"
    assert (machine.workdir / OVERLAY).read_text() == "as it is"
    assert machine.notes[-1] == "start what was saved with []"


def test_how_a_vm_failed_before_is_not_forgotten_by_a_restart(new):
    machine = new()
    machine._qemu.running, machine._qemu.returncode = False, -9
    with pytest.raises(MachineDiedError, match="signal 9"):
        snapshots.restart(machine, [], None)
    assert machine.notes == []


def test_a_machine_is_stopped_before_it_is_saved(new, tmp_path):
    machine = new()
    snapshots.save(machine, tmp_path / "state")
    assert machine.notes == ["stop", "save"]

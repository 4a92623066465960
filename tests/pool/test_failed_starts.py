"""What is remembered of starts that failed; nothing is booted."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from pytest_vmports import PortMapping
from pytest_vmports.errors import (
    BootTimeoutError,
    ForwardError,
    GuestNotFoundError,
    GuestPanicError,
    LaunchError,
    SetupError,
    VmPortsError,
)
from pytest_vmports.guests.more_disks import MoreDisk
from pytest_vmports.pool import failed_starts
from pytest_vmports.pool.failed_starts import FailedStarts, start_key
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.pool.planning import plan_of
from pytest_vmports.settings import options
from pytest_vmports.settings.wait_for import WaitFor

SETUP = SetupError(returncode=3, console="\x1b[0mno such\ndaemon \udcff")
PANIC = GuestPanicError(panic="why", console="c", program="QEMU", returncode="0", stderr="")
LAUNCH = LaunchError(program="QEMU", returncode="signal 9", stderr="", command="qemu")
TIMEOUT = BootTimeoutError(timeout=1, waited_for="8080", ports="", console="")
FORWARD = ForwardError(program="QEMU", port=1, protocol="tcp", host="127.0.0.1", detail="taken")
MISSING = GuestNotFoundError(what="no kernel", remedy="build it")


class Run:
    """A run of several workers that start VMs of one kind; ``boots`` are those that were tried."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.boots, self.told = folder, [], []
        self._patch = monkeypatch
        self.workers = {}
        self.now = 0.0
        monkeypatch.setattr(failed_starts, "start_key", lambda plan, *, cloned: plan)
        monkeypatch.setattr(failed_starts, "clock", SimpleNamespace(now=self._tick))

    def _tick(self):
        self.now += 1
        return self.now

    def _as(self, test):
        if test:
            self._patch.setenv("PYTEST_CURRENT_TEST", f"{test} (setup)")
        else:
            self._patch.delenv("PYTEST_CURRENT_TEST", raising=False)

    def worker(self, name):
        return self.workers.setdefault(name, FailedStarts(self.folder, self.told.append))

    def start(self, test, error=None, *, worker="gw0", kind="kind", meanwhile=lambda: None):
        """Start a VM in a test; return the error that it got."""
        self._as(test)
        try:
            with self.worker(worker).minded(kind, cloned=True):
                self.boots.append(test)
                meanwhile()
                self._as(test)
                if error is not None:
                    raise error
        except (VmPortsError, KeyError) as raised:
            return raised
        return None


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path / "failed", monkeypatch)


@pytest.mark.parametrize("error", [SETUP, PANIC], ids=lambda e: type(e).__name__)
def test_a_guest_that_failed_is_not_tried_by_another_test_of_any_worker(run, error):
    assert run.start("t.py::a", error) is error
    for number, worker in enumerate(["gw0", "gw1", "gw2"]):
        got = run.start(f"t.py::{number}", error, worker=worker)
        assert type(got) is type(error)
        first_line = str(error).partition("\n")[0]
        assert str(got).startswith(first_line)
        assert str(got).endswith("\n(met first by t.py::a, not tried again in this run)")
        assert got.met_first == "t.py::a"
        assert got.address() == error.address()
    assert run.boots == ["t.py::a"] and run.told == []


@pytest.mark.parametrize("error", [LAUNCH, TIMEOUT], ids=lambda e: type(e).__name__)
def test_where_the_host_may_be_at_fault_one_other_test_tries_too(run, error):
    for number in range(5):
        got = run.start(f"t.py::{number}", error, worker=f"gw{number % 2}")
        assert type(got) is type(error)
    assert run.boots == ["t.py::0", "t.py::1"]
    assert str(got).endswith("(met first by t.py::0, then by t.py::1, not tried again in this run)")


def test_starts_that_fail_at_one_time_are_no_second_try(run):
    def meanwhile():
        run.start("t.py::b", LAUNCH, worker="gw1")

    run.start("t.py::a", LAUNCH, meanwhile=meanwhile)
    assert run.start("t.py::c", LAUNCH) is LAUNCH
    run.start("t.py::d", LAUNCH)
    assert run.boots == ["t.py::a", "t.py::b", "t.py::c"]


def test_whoever_has_waited_for_the_one_that_failed_is_the_second_try(run):
    """As four workers that want one template: each builds it, once the one before has failed."""

    def first_fails():
        run.start("t.py::a", TIMEOUT)
        run.worker("gw1").check("kind", cloned=True)

    run.start("t.py::b", TIMEOUT, worker="gw1", meanwhile=first_fails)
    got = run.start("t.py::c", TIMEOUT, worker="gw2")
    assert run.boots == ["t.py::b", "t.py::a"]
    assert "met first by t.py::a, then by t.py::b" in str(got)


@pytest.mark.parametrize("error", [SETUP, LAUNCH], ids=lambda e: type(e).__name__)
def test_a_kind_that_was_ready_once_is_always_tried(run, error):
    run.start("t.py::a")
    for number in range(3):
        assert run.start(f"t.py::{number}", error, worker=f"gw{number}") is error


def test_a_second_try_that_ends_well_is_the_last_word(run):
    run.start("t.py::a", LAUNCH)
    assert run.start("t.py::b", worker="gw1") is None
    assert run.start("t.py::c", SETUP) is SETUP
    assert run.start("t.py::d") is None


def test_the_test_that_met_it_first_may_be_run_again(run):
    """As pytest-rerunfailures does; when it ends well, the other tests try too."""
    run.start("t.py::a", SETUP)
    run.start("t.py::b", SETUP)
    assert run.start("t.py::a", SETUP) is SETUP
    assert run.start("t.py::a") is None
    assert run.start("t.py::b") is None
    assert run.boots == ["t.py::a", "t.py::a", "t.py::a", "t.py::b"]


@pytest.mark.parametrize("error", [FORWARD, MISSING, KeyError("x")], ids=lambda e: type(e).__name__)
def test_what_another_vm_need_not_meet_is_not_remembered(run, error):
    for number in range(3):
        assert run.start(f"t.py::{number}", error) is error


def test_another_kind_is_tried(run):
    run.start("t.py::a", SETUP, kind="one")
    assert run.start("t.py::b", kind="other") is None


def test_without_a_test_nothing_is_remembered_and_all_is_tried(run):
    run.start("", SETUP)
    run.start("t.py::a", SETUP)
    run.start("", SETUP)
    assert run.boots == ["", "t.py::a", ""]


def test_what_was_remembered_reaches_xdists_controller(run):
    run.start("t.py::a", SETUP)
    got = run.start("t.py::b")
    again = pickle.loads(pickle.dumps(got))
    assert str(again) == str(got) and again.returncode == 3


def test_a_folder_that_cannot_be_written_is_told_and_costs_no_error(run):
    run.folder.write_text("a file")
    assert run.start("t.py::a", SETUP) is SETUP
    assert run.start("t.py::b") is None
    assert [line.partition(": ")[0] for line in run.told] == ["vmports"] * 2
    assert "is not remembered" in run.told[0]


@pytest.mark.parametrize(
    "content",
    ["", '{"test": "t.py::a", "at"', "[]", '{"test": "t.py::a"}', '{"test": 1, "at": "now"}'],
)
def test_half_a_note_or_another_is_no_note(run, content):
    run.folder.mkdir()
    (run.folder / "kind.failed").write_text(content)
    assert run.start("t.py::b", SETUP) is SETUP


@pytest.fixture
def plan(request, tmp_path, qemu_binary):
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_text(name)
    keywords = {
        "expose": "8080", "kernel": str(tmp_path / "kernel"), "initrd": str(tmp_path / "initrd"),
        "accel": "tcg", "setup": "true",
    }  # fmt: skip
    settings = options.resolve(request.config, keywords, "the test")
    return plan_of(settings, chosen_guest(settings, None, tmp_path), tmp_path)


# Another value for every field of a plan that may decide how a start ends; None where none does.
OTHERS = {
    "hardware": lambda plan: replace(plan.hardware, memory=plan.hardware.memory + 1),
    "network": lambda plan: replace(plan.network, host_ports=((8000, 1),)),
    "guest": lambda plan: plan.guest.with_additions(files={}, setup="false"),
    "wanted": lambda plan: (*plan.wanted, PortMapping(internal=53, protocol="udp")),
    "wait_for": lambda _: WaitFor("all"),
    "boot_timeout": lambda plan: plan.boot_timeout + 1,
    "gvproxy": lambda _: "gvproxy of another version",
    "passt": lambda _: "another passt",
    "swtpm": lambda _: "another swtpm",
    "capture": lambda _: True,
    "reachable": lambda _: True,
    "console_limit": None,  # the start of a guest fits in any
    "may_crash": lambda _: True,
    "clockless": None,  # whether it is cloned is told beside
    "root": None,  # its files' contents are in the guest's digest
    "forwards": None,  # of the ports wanted; host ports are each VM's own
    "own_forwards": None,
    "said": None,
    "shares": None,  # what is being started has none
    "shared_memory": None,
    "paused": lambda _: True,
    "disks": lambda _: (MoreDisk(size=64),),
}


@pytest.mark.parametrize("field", OTHERS)
def test_all_that_may_decide_how_a_start_ends_tells_its_kind(plan, field):
    change = OTHERS[field]
    other = plan if change is None else replace(plan, **{field: change(plan)})
    same = start_key(other, cloned=True) == start_key(plan, cloned=True)
    assert same is (OTHERS[field] is None)


def test_every_field_of_a_plan_is_thought_of(plan):
    assert set(OTHERS) == {one.name for one in fields(plan)}
    assert start_key(plan, cloned=True) != start_key(plan, cloned=False)

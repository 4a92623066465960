"""Children that never outlive the process that started them."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import psutil
import pytest
from freezegun import freeze_time
from vm_helpers import alive, until

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.system import process, surroundings
from pytest_vmports.system.process import spawn

START = """
import os, sys
from pathlib import Path
from pytest_vmports.system import process, surroundings
if sys.argv[2] == "launcher":
    process._setpriv = lambda: None
elif sys.argv[2] in ("minder", "let go"):
    process.let_outlive()
heard, told = os.pipe()
command = ["sh", "-c", f"echo up >&{told}; exec sleep 600"]
child = process.spawn("sleeper", command, log=Path(sys.argv[1]), pass_fds=[told])
os.read(heard, 1)  # it runs: whatever ends it now is no check at its start
if sys.argv[2] == "let go":
    child.let_go()
print(child.pid, flush=True)
sys.stdin.read()
"""


def has_ended(pid):
    """Whether a process that is not our child ends within two seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 2.0)[0])
    finally:
        os.close(fd)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.mark.parametrize("way", ["setpriv", "launcher", "minder"])
def test_a_child_dies_with_its_killed_parent(log, way):
    parent = subprocess.Popen(
        [sys.executable, "-c", START, str(log), way],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with parent:
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    assert has_ended(pid)


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_a_child_that_was_let_go_outlives_its_parent(log, end):
    parent = subprocess.Popen(
        [sys.executable, "-c", START, str(log), "let go"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with parent:
        pid = int(parent.stdout.readline())
        # Killed once it has read all that was told it, the minder kills nobody.
        (minder,) = (c.pid for c in psutil.Process(parent.pid).children() if c.pid != pid)
        if end == "killed":
            parent.send_signal(signal.SIGKILL)
    try:
        assert has_ended(minder)
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_that_has_ended_is_minded_no_more(log, monkeypatch):
    monkeypatch.setattr(process, "_minders", {})
    process.let_outlive()
    (minder,) = process._minders.values()
    descriptors = Path(f"/proc/{minder._process.pid}/fd")

    def minds(number):  # beside its three standard descriptors
        return len([*descriptors.iterdir()]) == 3 + number

    first, second = (spawn("s", ["sleep", "60"], log=log) for _ in range(2))
    until(lambda: minds(2), 60, "both are minded")
    first.kill()
    until(lambda: minds(1), 60, "one is minded")
    minder.close()
    assert second.wait(60) == -signal.SIGKILL
    second._minder = None
    second.kill()


def test_a_child_outlives_the_thread_that_asked_for_it(log):
    started = []
    thread = threading.Thread(target=lambda: started.append(spawn("s", ["sleep", "60"], log=log)))
    thread.start()
    thread.join()
    (child,) = started
    assert child.wait(0.3) is None and child.running
    child.kill()


def test_a_child_whose_parent_is_already_gone_never_starts(log, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1 << 22)  # a parent that is not there
    monkeypatch.setattr(surroundings, "_library", [])
    child = spawn("orphan", ["sh", "-c", "echo started"], log=log)
    assert child.wait(60) == 125
    assert child.output == ""
    child.kill()


def test_output_is_kept_even_when_its_file_is_gone(log):
    child = spawn("echo", ["sh", "-c", "echo out; echo err >&2"], log=log)
    assert child.wait(60) == 0
    assert child.output == "out\nerr\n"
    child.keep_output()
    log.unlink()
    assert child.output == "out\nerr\n"
    child.kill()


def test_descriptors_are_inherited_under_their_numbers(log):
    read, write = os.pipe()
    program = f"import os; os.write({write}, b'hello')"
    child = spawn("writer", [sys.executable, "-c", program], log=log, pass_fds=[write])
    assert child.wait(60) == 0
    assert os.read(read, 100) == b"hello"
    child.kill()
    os.close(read)
    os.close(write)


def test_it_gets_the_variables_it_is_given_beside_ours(log, monkeypatch):
    monkeypatch.setitem(surroundings._variables, "OURS", "ours")
    child = spawn("env", ["sh", "-c", 'echo "$OURS $ITS"'], log=log, env={"ITS": "its"})
    assert child.wait(60) == 0
    assert child.output == "ours its\n"
    child.kill()


def test_its_death_can_be_waited_for(log):
    child = spawn("s", ["sleep", "60"], log=log)
    assert select.select([child.death], [], [], 0)[0] == []
    os.kill(child.pid, signal.SIGKILL)
    assert select.select([child.death], [], [], 10)[0]
    assert child.wait(60) == -signal.SIGKILL
    child.kill()
    assert child.death is None


def test_no_descriptor_stays_open_when_a_child_ends_or_is_let_go(log, monkeypatch):
    monkeypatch.setattr(process, "_minders", {})
    process.let_outlive()
    (minder,) = process._minders.values()

    def opened():
        return sorted(os.listdir("/proc/self/fd"))

    before = opened()
    for end in (process.Process.kill, process.Process.stop):
        end(spawn("s", ["sleep", "60"], log=log))
        assert opened() == before
    child = spawn("s", ["sleep", "60"], log=log)
    child.let_go()
    assert opened() == before
    assert alive(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    minder.close()


def test_a_child_whose_first_thread_has_ended_and_another_has_not_is_ending(log):
    end = "import ctypes, threading; threading.Thread(target=threading.Event().wait).start()"
    child = spawn(
        "t", [sys.executable, "-c", f"{end}; ctypes.CDLL(None).pthread_exit(None)"], log=log
    )
    try:
        until(lambda: not alive(child.pid), 60, lambda: child.output)
        assert child.running and child.ending
    finally:
        child.kill()
    assert not child.ending


def test_a_child_that_was_killed_is_ending_before_it_gets_a_processor_to_die_on(log):
    child = spawn("s", ["sleep", "60"], log=log)
    ours = os.sched_getaffinity(0)
    try:
        # The one that we are on, and only when we leave it.
        os.sched_setaffinity(0, {min(ours)})
        os.sched_setaffinity(child.pid, {min(ours)})
        os.sched_setscheduler(child.pid, os.SCHED_IDLE, os.sched_param(0))
        os.kill(child.pid, signal.SIGKILL)
        assert child.ending or child.returncode == -signal.SIGKILL
    finally:
        os.sched_setaffinity(0, ours)
        child.kill()


def test_a_child_that_works_or_has_ended_is_not_ending(log):
    child = spawn("s", ["sleep", "60"], log=log)
    assert not child.ending
    child.kill()
    assert not child.ending


def test_stop_asks_first_and_kills_who_does_not_listen(log):
    polite = spawn("p", ["sleep", "60"], log=log)
    polite.stop()
    assert polite.returncode == -signal.SIGTERM
    deaf = spawn("d", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], log=log)
    deadline = time.monotonic() + 60
    while "ready" not in deaf.output:
        assert deaf.wait(0.01) is None and time.monotonic() < deadline
    deaf.stop(timeout=0.2)
    assert deaf.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_is_named(log):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn("x", ["no-such-program"], log=log)


def test_no_helper_is_taken_for_setpriv_that_cannot_set_the_signal(monkeypatch, tmp_path):
    fake = tmp_path / "setpriv"
    fake.write_text("#!/bin/sh\necho 'busybox: usage'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    process._setpriv.cache_clear()
    assert process._setpriv() is None
    process._setpriv.cache_clear()


def test_the_processor_time_of_a_child_that_works_grows(log):
    child = spawn("busy", ["sh", "-c", "while :; do :; done"], log=log)
    try:
        before = child.cpu_seconds
        deadline = time.monotonic() + 60
        while child.cpu_seconds <= before + 0.05:
            assert time.monotonic() < deadline
    finally:
        child.kill()
    assert child.cpu_seconds is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_gives_no_pidfd_its_end_is_looked_for(log, monkeypatch, number):
    def refuse(_pid):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    child = spawn("s", ["sleep", "60"], log=log)
    with freeze_time():
        assert child.death is None
        assert child.wait(0.1) is None
        child.stop()
    assert child.wait(60) == -signal.SIGTERM


def test_a_child_is_waited_for_no_longer_than_was_said_on_a_frozen_clock(log):
    child = spawn("s", ["sleep", "60"], log=log)
    with freeze_time():
        assert child.wait(0.1) is None
    child.kill()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_child_that_the_host_keeps_from_starting_is_told_to_be_there(
    tmp_path, monkeypatch, number
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(process, "Popen", refuse)
    with pytest.raises(ProgramStoppedError, match="QEMU is there, and this host"):
        spawn("QEMU", ["sleep", "600"], log=tmp_path / "log")


@pytest.fixture
def may_end_all(monkeypatch):
    """Let this test end all children that it makes, and none of others."""
    monkeypatch.setattr(process, "_over", threading.Event())
    monkeypatch.setattr(process, "_made", weakref.WeakSet())


def test_all_children_are_ended_at_once_and_those_that_come_after(log, may_end_all):
    first = [spawn("sleep", ["sleep", "600"], log=log) for _ in range(2)]
    assert all(one.running for one in first)
    process.end_all()
    late = spawn("sleep", ["sleep", "600"], log=log)
    assert [one.wait(60) for one in [*first, late]] == [-signal.SIGKILL] * 3


def test_a_child_that_was_let_go_is_not_ended_with_all(log, may_end_all):
    child = spawn("sleep", ["sleep", "600"], log=log)
    pid = child.pid
    child.let_go()
    process.end_all()
    other = spawn("sleep", ["sleep", "600"], log=log)
    other.wait(60)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

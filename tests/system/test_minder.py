"""The process that ends our children when we end: its own life."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from vm_helpers import until

from pytest_vmports.system import minder as minder_module
from pytest_vmports.system import process
from pytest_vmports.system.minder import Minder

MINDED = """
import sys
from pytest_vmports.system.minder import Minder
print(Minder()._process.pid, flush=True)
sys.stdin.read()
"""


FORKED = """
import os, sys, time
from pathlib import Path
from pytest_vmports.system import process
process.let_outlive()
child = process.spawn("s", ["sleep", "600"], log=Path(sys.argv[1]))
forked = os.fork()
if not forked:
    time.sleep(600)
print(forked, child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def minder():
    minder = Minder()
    yield minder
    minder.close()


def test_it_is_in_a_session_of_its_own_where_no_terminal_ends_it(minder):
    assert os.getsid(minder._process.pid) == minder._process.pid != os.getsid(0)


def test_it_ends_well_when_there_is_nothing_left_to_mind(minder):
    minder.close()
    assert minder._process.returncode == 0
    minder.close()  # again is no error


def test_one_that_was_killed_is_no_trouble(minder):
    minder._process.kill()
    minder.release(os.getpid())
    minder.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_end_it(minder):
    child = os.fork()
    if child == 0:
        minder.close()
        os._exit(minder.pipe < 0)  # a closed pipe has no descriptor
    assert os.waitpid(child, 0)[1] == 0
    assert minder._process.poll() is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_that_outlives_us_keeps_it_from_nothing(tmp_path):
    """As a test's own process that was left over: the pipe's last writer is to be us."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "log")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        forked, child = map(int, run.stdout.readline().split())
        try:
            run.kill()
            until(lambda: not psutil.pid_exists(child), 30, "what was minded is ended")
            assert psutil.pid_exists(forked)
        finally:
            os.kill(forked, signal.SIGKILL)


def test_it_is_not_ended_by_the_name_of_python(minder):
    until(
        lambda: psutil.Process(minder._process.pid).name() == "vmports-minder", 30, "it has a name"
    )


def test_a_number_that_is_anothers_now_is_minded_anew(spoken, tmp_path):
    """Faked: a number that comes round. The first to have it was forgotten and never released."""
    first, second = (process.spawn("s", ["sleep", "600"], log=tmp_path / "log") for _ in range(2))
    told = f"mind {second.pid}\n".encode()
    read, write = os.pipe()
    with open(read, "rb") as pipe:
        other = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c",
             # The first time this number is told it is the other process's.
             f"import os; real, numbers = os.pidfd_open, [{first.pid}]\n"
             "os.pidfd_open = lambda n: real(numbers.pop() if numbers else n)\n"
             + minder_module._PROGRAM],
            stdin=pipe,
        )  # fmt: skip
    os.write(write, told * 2)
    os.close(write)
    assert other.wait(30) == 0
    assert second.wait(30) == -signal.SIGKILL and first.running
    for child in (first, second):
        child.kill()


def test_one_that_has_ended_by_itself_is_released_at_once(spoken, tmp_path):
    """Later its number may be another's, who would be released in its place."""
    (minder,) = process._minders.values()
    child = process.spawn("s", ["true"], log=tmp_path / "log")
    assert child.wait(30) == 0 and child.pid not in minder._minded
    again = process.spawn("s", ["sleep", "600"], log=tmp_path / "log")
    minder._minded.add(child.pid)  # faked: it has that number now
    child.kill()
    assert child.pid in minder._minded
    again.kill()


def test_who_has_one_ends_after_it_has_ended_the_children():
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", MINDED],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        pid = int(run.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        run.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.5)
        os.kill(pid, signal.SIGCONT)
        assert run.wait(30) == 0
        assert run.stderr.read() == ""
    assert not psutil.pid_exists(pid)


@pytest.fixture
def spoken(monkeypatch):
    """Have children of this process minded by a minder of the test's own; its lines."""
    said = []
    monkeypatch.setattr(process, "_minders", {})
    process.let_outlive(said.append)
    (minder,) = process._minders.values()
    yield said
    minder.close()


def kill(minder):
    """Kill what minds, and return once another does."""
    before = minder._process
    before.kill()
    until(lambda: minder._process is not before, 60, "another takes its place")


def test_when_it_is_killed_children_start_all_the_same_and_it_is_said_once(spoken, tmp_path):
    (minder,) = process._minders.values()
    for number in range(2):
        kill(minder)
        child = process.spawn("s", ["sh", "-c", f"exit {40 + number}"], log=tmp_path / "log")
        assert child.wait(30) == 40 + number
        child.kill()
    assert len(spoken) == 1 and "another takes its place" in spoken[0]


def test_a_child_that_starts_at_the_moment_it_is_killed_starts_all_the_same(
    spoken, tmp_path, monkeypatch
):
    (minder,) = process._minders.values()
    monkeypatch.setattr(minder, "_watch", lambda _process: None)
    # Whoever reads the pipe is gone, and nobody has noticed yet.
    with minder._lock:
        minder._process.kill()
        minder._process.wait()
        child = process.spawn("s", ["sh", "-c", "exit 42"], log=tmp_path / "log")
    assert child.wait(30) == 42
    child.kill()


@pytest.mark.parametrize("pidfds", [True, False], ids=["", "without pidfds"])
def test_the_next_one_ends_those_that_were_minded_and_spares_those_let_go(
    spoken, tmp_path, pidfds, monkeypatch
):
    if not pidfds:
        program = minder_module._PROGRAM.replace(
            "import os,", "import os; del os.pidfd_open; import"
        )
        monkeypatch.setattr(minder_module, "_PROGRAM", program)
    (minder,) = process._minders.values()
    minded, spared = (process.spawn("s", ["sleep", "600"], log=tmp_path / "log") for _ in range(2))
    kill(minder)
    minder.release(spared.pid)
    minder.close()
    assert minded.wait(30) == -signal.SIGKILL
    assert spared.running
    for child in (minded, spared):
        child._minder = None
        child.kill()


def test_one_that_is_killed_again_and_again_is_not_started_for_ever(spoken, tmp_path):
    (minder,) = process._minders.values()
    for _ in range(minder_module._MOST):
        kill(minder)
    minder._process.kill()
    until(lambda: minder._killed > minder_module._MOST, 60, "it has been noticed")
    child = process.spawn("s", ["sh", "-c", "exit 42"], log=tmp_path / "log")
    assert child.wait(30) == 42
    child.kill()

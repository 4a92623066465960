"""The process that ends our children when we end: its own life."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from pytest_vmports.system.minder import Minder

MINDED = """
import sys
from pytest_vmports.system.minder import Minder
print(Minder()._process.pid, flush=True)
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
    minder._process.wait()
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

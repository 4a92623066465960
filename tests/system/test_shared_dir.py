"""The folder that the workers of one run share: joined by name, gone with the last of them."""

import os
import signal
import subprocess
import sys

import pytest

from pytest_vmports.errors import StateDirError
from pytest_vmports.system.shared_dir import SharedDir

HOLD = """
import sys
from pathlib import Path
from pytest_vmports.system.shared_dir import SharedDir
held = SharedDir(sys.argv[2], Path(sys.argv[1]))
(held.path / "note").write_text("x")
print(held.path, flush=True)
sys.stdin.read()
held.close()
"""


@pytest.fixture
def base(tmp_path):
    return tmp_path / "shared"


def hold(base, run="run"):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(base), run],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return child, child.stdout.readline().strip()


def test_workers_of_one_run_share_it_and_the_last_removes_it(base):
    child, path = hold(base)
    with child:
        with SharedDir("run", base) as ours:
            assert str(ours.path) == path
            assert (ours.path / "note").read_text() == "x"
            assert ours.path.stat().st_mode & 0o777 == 0o700
        assert os.path.exists(path)
        child.stdin.close()
        child.wait()
        assert list(base.iterdir()) == []
    ours.close()  # again is no error


def test_the_first_that_leaves_takes_nothing_along(base):
    with SharedDir("run", base) as ours:
        child, _ = hold(base)
        with child:
            child.stdin.close()
        assert (ours.path / "note").exists()
    assert not ours.path.exists()


@pytest.mark.parametrize("following", ["run", "another run"])
def test_what_a_killed_run_left_is_swept_by_the_next_also_by_one_of_its_name(base, following):
    child, path = hold(base)
    with child:
        child.send_signal(signal.SIGKILL)
    assert os.path.exists(f"{path}/note")
    with SharedDir(following, base):
        assert not os.path.exists(f"{path}/note")


def test_another_run_that_lives_is_left_alone(base):
    child, path = hold(base)
    with child:
        with SharedDir("another run", base) as ours:
            assert str(ours.path) != path
        assert os.path.exists(f"{path}/note")
        child.stdin.close()


@pytest.mark.parametrize("run", ["", "../../up", "a/b", "x" * 5000, "ä\n"])
def test_any_name_of_a_run_is_one_folder_in_its_place(base, run):
    with SharedDir(run, base) as ours:
        assert ours.path.parent == base


# Python 3.12 warns of a fork beside threads, which a worker of xdist has.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_remove_it(base):
    with SharedDir("run", base) as ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert ours.path.exists()


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="set TMPDIR"):
        SharedDir("run", tmp_path / "file" / "shared")

"""The private folder of a process: nobody else's, gone afterwards, swept after a SIGKILL."""

import os
import signal
import subprocess
import sys

import pytest

from pytest_vmports.errors import StateDirError
from pytest_vmports.leases import state_dir
from pytest_vmports.system import run_dir
from pytest_vmports.system.run_dir import RunDir

HOLD = """
import sys
from pathlib import Path
from pytest_vmports.system.run_dir import RunDir
held = RunDir(Path(sys.argv[1]))
(held.path / "remains").write_text("x")
print(held.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path):
    return tmp_path / "runs"


def hold(base):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(base)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return child, child.stdout.readline().strip()


def test_it_is_private_and_gone_afterwards(base):
    with RunDir(base) as made:
        assert made.path.stat().st_mode & 0o777 == 0o700
        assert base.stat().st_mode & 0o777 == 0o700
        (made.path / "file").write_text("x")
    assert list(base.iterdir()) == []
    made.close()  # again is no error


def test_a_killed_process_is_cleaned_up_after_by_the_next(base):
    child, path = hold(base)
    with child:
        child.send_signal(signal.SIGKILL)
    assert os.path.exists(path)
    with RunDir(base):
        assert not os.path.exists(path)


def test_the_folder_of_a_living_process_is_left_alone(base):
    child, path = hold(base)
    with child:
        with RunDir(base):
            assert os.path.exists(path)
        child.stdin.close()


# Python 3.12 warns of a fork beside threads, which a worker of xdist has.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_remove_its_parents_folder(base):
    with RunDir(base) as made:
        pid = os.fork()
        if pid == 0:
            made.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert made.path.exists()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(base, monkeypatch, moment):
    swept = []

    def lock(folder, *, blocking):
        if swept:
            return locked(folder, blocking=blocking)
        swept.append(folder)
        if moment == "before it is opened":
            folder.rmdir()
            return locked(folder, blocking=blocking)
        fd = locked(folder, blocking=blocking)
        folder.rmdir()
        return fd

    locked = run_dir._lock
    monkeypatch.setattr(run_dir, "_lock", lock)
    with RunDir(base) as made:
        assert made.path.exists()
        assert swept == [base / swept[0].name]
        assert made.path != swept[0]


def test_an_empty_folder_of_a_dead_process_is_swept_too(base):
    with RunDir(base):
        pass
    (base / "r_empty").mkdir(mode=0o700)
    with RunDir(base) as made:
        assert list(base.iterdir()) == [made.path]


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="set TMPDIR") as caught:
        RunDir(tmp_path / "file" / "runs")
    assert caught.value.path == str(tmp_path / "file" / "runs")


def test_a_folder_that_others_may_write_to_is_refused(base):
    base.mkdir(mode=0o777)
    base.chmod(0o777)
    with pytest.raises(StateDirError, match=r"others may use it.*chmod 700.*set TMPDIR"):
        RunDir(base)


def test_a_link_in_place_of_the_folder_is_refused(base, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDirError, match="remove the link"):
        RunDir(base)


def test_where_no_folder_for_temporary_files_is_to_be_had_that_is_told(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(run_dir.tempfile, "gettempdir", nowhere)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    for ask in (RunDir, lambda: run_dir.default_base("kept"), state_dir.default_base):
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        with pytest.raises(StateDirError, match=r"/nowhere: No usable .*set TMPDIR"):
            ask()

"""Programs that are run to their end, within a limit of time."""

import subprocess

import pytest
from freezegun import freeze_time

from pytest_vmports.system import tools


def test_what_it_is_given_and_says_may_be_larger_than_any_pipe():
    given = b"0123456789abcdef" * 50_000
    done = tools.run(["sh", "-c", "tee /dev/stderr"], input=given, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, given, given)


def test_one_that_reads_nothing_is_no_trouble():
    assert tools.run(["true"], input=b"x" * (1 << 20), timeout=60).returncode == 0


def test_one_that_does_not_end_is_killed_at_its_limit_on_a_frozen_clock_too():
    with freeze_time(), pytest.raises(subprocess.TimeoutExpired) as caught:
        tools.run(["sh", "-c", "echo before; exec sleep 600"], timeout=0.5)
    assert caught.value.stdout == b"before\n"


def test_one_that_closes_what_it_writes_to_and_goes_on_is_killed_too():
    with pytest.raises(subprocess.TimeoutExpired):
        tools.run(["sh", "-c", "exec >&- 2>&-; exec sleep 600"], timeout=0.5)


def test_a_child_of_it_that_keeps_its_output_open_holds_nobody_up():
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        tools.run(["sh", "-c", "sleep 5 & echo said"], timeout=0.5)
    assert caught.value.stdout == b"said\n"


def test_no_descriptor_stays_open():
    from held import held

    before = held()
    tools.run(["true"], input=b"x", timeout=60)
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        tools.run(["no-such-program"], timeout=60)
    assert held() <= before


def test_it_runs_where_nothing_is_left_of_the_environment(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(subprocess, "Popen", None)
    done = tools.run(["sh", "-c", "pwd; ls -d /"], timeout=60)
    assert (done.stdout, done.stderr) == (b"/\n/\n", b"")

"""One limit for many questions."""

from __future__ import annotations

import math
import os
import signal
import subprocess

import pytest

from pytest_vmports.system import clock, patience, tools
from pytest_vmports.system.process import spawn


@pytest.fixture
def moment(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    return now


def test_without_a_limit_each_question_has_its_own(moment):
    assert patience.left(30) == 30
    assert patience.left(math.inf) == math.inf
    assert not patience.spent()


def test_all_questions_share_what_is_left(moment):
    with patience.at_most(6):
        assert (patience.left(5), patience.left(30)) == (5, 6)
        moment[0] += 4
        assert patience.left(5) == 2
        with patience.at_most(100):
            assert patience.left(5) == 2
        with patience.at_most(1):
            assert patience.left(5) == 1
        with patience.as_long_as_it_takes():
            assert patience.left(120) == 120
        moment[0] += 3
        assert patience.left(5) == 0
        assert patience.spent()
    assert patience.left(5) == 5


def test_programs_and_children_are_waited_for_no_longer(tmp_path):
    child = spawn("sleep", ["sleep", "10000"], log=tmp_path / "log")
    try:
        with patience.at_most(0.2):
            assert child.wait(10_000) is None
            with pytest.raises(subprocess.TimeoutExpired):
                tools.run(["sleep", "10000"], timeout=None)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    child.kill()

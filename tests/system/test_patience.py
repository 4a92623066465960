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


def test_what_goes_on_has_its_time_anew_only_where_that_is_wanted(moment):
    whole, rest = patience.Limit(10), patience.Limit(10, per_progress=True)
    endless = patience.Limit(None)
    assert (endless.left, endless.deadline, endless.over) == (None, None, False)
    moment[0] += 6
    for limit in (whole, rest, endless):
        limit.went_on()
    moment[0] += 6
    assert (whole.over, rest.over, endless.over) == (True, False, False)
    assert (rest.left, rest.deadline) == (4, moment[0] + 4)


def test_what_goes_on_has_no_more_time_than_all_questions_have(moment):
    rest, endless = patience.Limit(10, per_progress=True), patience.Limit(None)
    with patience.at_most(3):
        moment[0] += 2
        rest.went_on()
        assert rest.left == endless.left == 1
        moment[0] += 1
        rest.went_on()
        assert rest.over and endless.over
    assert rest.left == 10 and not endless.over

"""Waiting for descriptors."""

import os
import resource
import socket

import pytest

from pytest_vmports.system.poll import milliseconds, readable


@pytest.fixture
def many_open():
    """Have so many descriptors open that the next has a number that `select` does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for number in opened:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_any_number_is_waited_for(many_open):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ours.fileno() > 1023
        assert readable([ours, theirs.fileno()], 0) == []
        theirs.send(b"x")
        assert readable([ours, theirs.fileno()], 60) == [ours]


@pytest.mark.parametrize("seconds", [3e6, 1e300])
def test_a_wait_longer_than_the_system_takes_is_as_long_as_it_takes(seconds):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        assert readable([ours], seconds) == [ours]


def test_a_hang_up_can_be_read():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert readable([ours], None) == [ours]


def test_what_is_left_of_a_deadline_is_waited_for():
    assert [milliseconds(left) for left in (None, -1, 0, 0.0001, 1.5)] == [None, 0, 0, 1, 1500]

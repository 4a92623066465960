"""The VM that is made beside a test: what becomes of the next when it cannot be."""

import socket
import threading

import pytest

from pytest_vmports.errors import MachineError
from pytest_vmports.pool.standby import Standby
from pytest_vmports.system import surroundings


class Made:
    """Faked: a machine."""


@pytest.fixture
def lines():
    return []


@pytest.fixture
def standby(lines):
    return Standby(lines.append)


def fail(error):
    def make():
        raise error

    return make


def test_one_failure_is_no_reason_to_make_no_more(standby, lines):
    made = Made()
    standby.prepare("key", 0, fail(MachineError("no")))
    assert standby.take("key") is None
    standby.prepare("key", 0, lambda: made)
    assert standby.take("key") is made
    standby.prepare("key", 0, fail(MachineError("no")))
    assert standby.take("key") is None and lines == []


# A mock may raise anything.
@pytest.mark.parametrize(
    "error", [MachineError("no room"), OSError("no room"), TypeError("no room")]
)
def test_after_two_in_a_row_no_more_are_made_and_that_is_said_once(standby, lines, error):
    for _ in range(3):
        standby.prepare("key", 0, fail(error))
        assert standby.take("key") is None
    (line,) = lines
    assert line.startswith("vmports: no VMs are kept ready any more: ") and "no room" in line


def test_one_that_fails_while_a_test_has_changed_things_says_nothing_of_the_next(
    standby, lines, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Made)
        for _ in range(3):
            standby.prepare("key", 0, fail(OSError("no room")))
            assert standby.take("key") is None
    standby.prepare("key", 0, Made)
    assert isinstance(standby.take("key"), Made) and lines == []


def test_it_is_made_in_a_thread_that_changes_nothing_under_the_test(standby, monkeypatch):
    monkeypatch.setattr(socket, "socket", Made)

    def make():
        with surroundings.restored():
            return socket.socket, threading.current_thread()

    standby.prepare("key", 0, make)
    kind, thread = standby.take("key")
    assert kind is Made and thread is not threading.current_thread()

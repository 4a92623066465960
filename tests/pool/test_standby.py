"""The VMs that are made beside a test: which ones, how many, and what when one cannot be made."""

import os
import socket
import threading

import pytest

from pytest_vmports.errors import MachineError
from pytest_vmports.pool import standby as module
from pytest_vmports.pool.standby import Order, Standby, how_many
from pytest_vmports.system import memory, surroundings


class Made:
    """Faked: a machine."""

    def __init__(self, ended=()):
        self.ended = ended

    def finish(self):
        self.ended.append(self)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def ended():
    return []


@pytest.fixture
def standby(lines):
    return Standby(lines.append)


@pytest.fixture
def order(ended):
    """Return a function that returns an order for a fake machine."""

    def order(key="key", make=None, warm=lambda _machine: None, memory=0):
        return Order(key, memory, make or (lambda: Made(ended)), warm)

    return order


def fail(error):
    def make():
        raise error

    return make


def test_one_failure_is_no_reason_to_make_no_more(standby, order, lines):
    made = Made()
    standby.prepare([order(make=fail(MachineError("no")))])
    assert standby.take("key") is None
    standby.prepare([order(make=lambda: made)])
    assert standby.take("key") is made
    standby.prepare([order(make=fail(MachineError("no")))])
    assert standby.take("key") is None and lines == []


# A mock may raise anything.
@pytest.mark.parametrize(
    "error", [MachineError("no room"), OSError("no room"), TypeError("no room")]
)
def test_after_two_in_a_row_no_more_are_made_and_that_is_said_once(standby, order, lines, error):
    for _ in range(3):
        standby.prepare([order(make=fail(error))])
        standby.join()
        assert standby.take("key") is None
    (line,) = lines
    assert line.startswith("vmports: no VMs are kept ready any more: ") and "no room" in line
    standby.prepare([order()])
    standby.join()
    assert standby.take("key") is None


def test_one_that_fails_while_a_test_has_changed_things_says_nothing_of_the_next(
    standby, order, lines, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Made)
        for _ in range(3):
            standby.prepare([order(make=fail(OSError("no room")))])
            standby.join()
            assert standby.take("key") is None
    standby.prepare([order()])
    assert isinstance(standby.take("key"), Made) and lines == []


def test_it_is_made_in_a_thread_that_changes_nothing_under_the_test(standby, order, monkeypatch):
    monkeypatch.setattr(socket, "socket", Made)

    def make():
        with surroundings.restored():
            return socket.socket, threading.current_thread()

    standby.prepare([order(make=make)])
    kind, thread = standby.take("key")
    assert kind is Made and thread is not threading.current_thread()


def test_as_many_are_made_as_are_ordered_one_after_the_other_and_none_twice(standby, order, ended):
    at_once, most = [], []

    def make():
        at_once.append(1)
        most.append(len(at_once))
        at_once.pop()
        return Made(ended)

    wanted = [order("a", make), order("b", make), order("a", make)]
    standby.prepare(wanted)
    standby.join()
    standby.prepare(wanted)  # as after a test that took none
    standby.join()
    assert most == [1, 1, 1]
    one, other = standby.take("a"), standby.take("a")
    assert one is not other and standby.take("a") is None and ended == []


def test_those_that_nobody_wants_any_more_are_ended_and_the_others_stay(standby, order, ended):
    standby.prepare([order("a"), order("b"), order("b")])
    standby.join()
    standby.prepare([order("b"), order("c")])
    standby.join()
    assert len(ended) == 2  # an a, and one b
    assert standby.take("b") and standby.take("c") and standby.take("a") is None
    assert len(ended) == 2


def test_whoever_asks_waits_for_one_of_its_kind_that_is_being_made_and_for_no_other(
    standby, order, ended
):
    asked, go_on = threading.Event(), threading.Event()

    def make():
        asked.set()
        go_on.wait(60)
        return Made(ended)

    standby.prepare([order("a", make)])
    asked.wait(60)
    assert standby.take("b") is None  # at once: the other is not made yet
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(standby.take("a")))
    waiting.start()
    go_on.set()
    waiting.join(60)
    assert isinstance(taken[0], Made)


def test_it_is_warmed_unless_its_test_waits_already(standby, order, ended, monkeypatch):
    warmed, asked, go_on = [], threading.Event(), threading.Event()

    def make():
        asked.set()
        go_on.wait(60)
        return Made(ended)

    standby.prepare([order(make=make, warm=warmed.append)])
    asked.wait(60)
    waits = standby._state.wait

    def wait():
        go_on.set()  # now that it is known that somebody waits
        return waits()

    monkeypatch.setattr(standby._state, "wait", wait)
    assert standby.take("key") is not None and warmed == []
    standby.prepare([order(make=make, warm=warmed.append)])
    standby.join()
    assert warmed == [standby.take("key")]


def test_one_that_cannot_be_warmed_is_ended(standby, order, ended):
    standby.prepare([order(warm=lambda _machine: fail(MachineError("dead"))())])
    standby.join()
    assert standby.take("key") is None and len(ended) == 1


def test_one_that_cannot_be_had_any_more_is_no_failure_and_others_are_made(standby, order, lines):
    for _ in range(3):
        standby.prepare([order("gone", make=lambda: None), order("a")])
        standby.join()
        assert standby.take("gone") is None and standby.take("a") is not None
    assert lines == []


def test_all_end_with_the_pool_also_one_that_is_being_made(standby, order, ended):
    asked, go_on = threading.Event(), threading.Event()

    def make():
        asked.set()
        go_on.wait(60)
        return Made(ended)

    standby.prepare([order("a"), order("b", make), order("c")])
    asked.wait(60)
    ending = threading.Thread(target=standby.drop)
    ending.start()
    go_on.set()
    ending.join(60)
    standby.drop()
    assert 2 <= len(ended) <= 3 and standby.take("a") is None
    assert standby._thread is None or not standby._thread.is_alive()


def test_no_more_are_made_than_fit_in_the_workers_share_of_the_free_memory(
    standby, order, monkeypatch
):
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    # The test's own, one that waits and a second one: no third.
    monkeypatch.setattr(memory, "available", lambda: 2 * (3 * 256 + 1) << 20)
    standby.prepare([order(memory=256) for _ in range(4)])
    standby.join()
    assert standby.take("key") and standby.take("key") and standby.take("key") is None


@pytest.mark.parametrize(
    ("processors", "workers", "most"),
    [(1, 1, 0), (2, 1, 1), (2, 2, 1), (4, 4, 1), (4, 1, 3), (8, 2, 3), (64, 1, 4), (2, 9, 1)],
)
def test_auto_leaves_each_test_a_processor_of_its_workers_share(
    monkeypatch, processors, workers, most
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(workers))
    assert how_many("auto") == most
    assert (how_many(0), how_many(7)) == (0, 7)


def test_the_setting_and_the_pool_mean_the_same_word():
    from pytest_vmports.settings.table import BY_NAME

    assert BY_NAME["prewarm"].default == module.AUTO

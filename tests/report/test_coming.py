"""What is known of the tests to come, in a run of one process and in a worker."""

import itertools
from types import SimpleNamespace

import pytest

from pytest_vmports.report import coming as module
from pytest_vmports.report.coming import BOOTS, NEXT, coming


class Item:
    """Faked: a test."""

    def __init__(self, session, vm=None, fixtures=()):
        self.stash, self.session, self.config = pytest.Stash(), session, session.config
        self.fixturenames = fixtures
        if vm is not None:
            self.stash[BOOTS] = vm


@pytest.fixture
def session():
    """Return a session of five tests: a VM a, none, a VM b, a factory's, a VM a."""
    session = SimpleNamespace(config=SimpleNamespace(stash=pytest.Stash()), items=[])
    kinds = [("a",), (), ("b",), (None, ["vm_factory"]), ("a",)]
    session.items += [Item(session, *kind) for kind in kinds]
    return session


def run(session, number):
    """Return a test as it is when it runs."""
    item = session.items[number]
    if number + 1 < len(session.items):
        item.stash[NEXT] = session.items[number + 1]
    return item


def test_in_a_run_of_one_process_all_that_come_are_known(session):
    assert list(coming(run(session, 0))) == ["b", "a"]
    assert list(coming(run(session, 0), ["f", "f"])) == ["b", "f", "f", "a"]
    assert list(coming(run(session, 2))) == ["a"]
    assert list(coming(run(session, 4))) == list(coming(None)) == []


def test_a_worker_that_knows_its_next_test_takes_it_that_more_like_it_come(session):
    session.config.workerinput = {}
    assert list(coming(run(session, 0))) == []  # the next one has no VM
    assert list(itertools.islice(coming(run(session, 1)), 3)) == ["b"] * 3
    assert list(itertools.islice(coming(run(session, 2), ["f"]), 2)) == ["f"] * 2


def test_tests_far_ahead_are_not_looked_for(session):
    session.items[1:1] = [Item(session) for _ in range(module._FARTHEST)]
    assert list(coming(run(session, 0))) == []
    assert list(coming(run(session, 5))) == ["b", "a"]


def test_a_run_in_another_order_than_the_list_is_followed_all_the_same(session):
    assert list(coming(run(session, 2))) == ["a"]
    assert list(coming(run(session, 0))) == ["b", "a"]
    outside = run(session, 0)
    outside.stash[NEXT] = Item(session, "c")
    assert list(coming(outside)) == ["c"]

"""Which VMs are made ready: those that the next tests need and of which one has been made."""

import itertools

import pytest

from pytest_vmports.pool.foresight import Foresight, Habits
from pytest_vmports.pool.standby import Order
from pytest_vmports.settings import options


def settings(**keywords):
    return options.resolve(options.NoConfig(), keywords, "a test")


def order(key):
    return Order(key, 256, lambda: None, lambda _machine: None)


A, B = settings(expose=[80]), settings(expose=[90])


@pytest.fixture
def foresight():
    known = Foresight()
    known.learn(A, order("a"))
    known.learn(B, order("b"))
    return known


def keys(orders):
    return [one.key for one in orders]


def test_the_nearest_tests_needs_come_first_and_no_more_than_wanted(foresight):
    assert keys(foresight.orders([A, B, A, A], 3)) == ["a", "b", "a"]
    assert keys(foresight.orders(itertools.repeat(B), 2)) == ["b", "b"]
    assert keys(foresight.orders([], 3)) == keys(foresight.orders([A], 0)) == []


def test_what_was_never_made_is_not_made_ahead_and_nothing_in_its_place(foresight):
    following = [settings(expose=[70]), B]
    assert foresight.orders(following, 1) == [] and keys(foresight.orders(following, 2)) == ["b"]


def test_what_a_guest_does_not_see_makes_no_difference_and_what_it_sees_does(foresight):
    same = [settings(expose=[80], **one) for one in (
        {"allow_crash": True}, {"copy_limit": "2G"}, {"prewarm": 7}
    )]  # fmt: skip
    assert keys(foresight.orders(same, 9)) == ["a"] * 3
    assert foresight.orders([settings(expose=[80], memory=300)], 9) == []


def test_a_test_that_wants_none_kept_ready_gets_none(foresight):
    assert foresight.orders([settings(expose=[80], prewarm=0)], 9) == []


def test_the_last_one_made_tells_how_the_next_is_made(foresight):
    foresight.learn(A, order("another a"))
    assert keys(foresight.orders([A], 1)) == ["another a"]
    foresight.learn(A, None)  # it boots from cold now
    assert foresight.orders([A], 1) == []


def test_of_many_kinds_the_latest_are_remembered():
    known = Foresight()
    kinds = [settings(expose=[port]) for port in range(1, 41)]
    for number, one in enumerate(kinds):
        known.learn(one, order(str(number)))
    assert known.orders(kinds[:1], 1) == [] and keys(known.orders(kinds[-1:], 1)) == ["39"]


def taken(habits, test, *kinds):
    for one in kinds:
        habits.take(test, one)
    return habits.rest, habits.whole


def test_of_a_factory_nothing_is_expected_before_two_tests_have_done_the_same():
    habits = Habits()
    assert taken(habits, "first", A, B) == ([], [])
    assert taken(habits, "second", A) == ([B], [A, B])
    assert taken(habits, "second", B) == ([], [A, B])
    assert taken(habits, "third", A) == ([B], [A, B])


@pytest.mark.parametrize("kinds", [(B,), (A, A), (A, B, A)], ids=["other", "later", "more"])
def test_a_test_that_does_something_else_ends_the_expectation(kinds):
    habits = Habits()
    taken(habits, "first", A, B)
    assert taken(habits, "second", *kinds) == ([], [])

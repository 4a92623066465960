"""A guest's reboots: what is one, and who is waited for again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from qemu.qmp import Message

from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.system import clock
from pytest_vmports.vm import qmp_thread
from pytest_vmports.vm.qmp_thread import GuestResets
from pytest_vmports.vm.reboots import RebootedError, Reboots


@pytest.fixture
def guest(monkeypatch):
    """Return a guest that resets, at times and with a console of the test's own."""
    now = SimpleNamespace(now=1000.0, written=0, late=0.0)
    monkeypatch.setattr(qmp_thread, "clock", SimpleNamespace(now=lambda: now.now))
    now.resets = GuestResets()
    now.resets.written = lambda: now.written

    def event(name="RESET", stamp=None, **data):
        said = {"event": name, "data": data, "timestamp": stamp}
        assert now.resets.accept(Message(said)) is False

    def reset():
        """Tell of one that QEMU made earlier by what we are late."""
        seconds, rest = divmod(round((now.now - now.late) * 1e6), 10**6)
        event(guest=True, reason="guest-reset", stamp={"seconds": seconds, "microseconds": rest})

    now.event, now.reset = event, reset
    return now


def test_each_reset_of_the_guests_is_a_reboot_when_it_wrote_something_between(guest):
    for number in range(1, 30):
        guest.reset()
        guest.written += 1
        guest.now += 1
        assert guest.resets.count == number
    assert not guest.resets.history


def test_what_its_firmware_resets_at_once_belongs_to_the_same_reboot(guest):
    guest.reset()
    guest.now += 0.1
    guest.reset()
    assert guest.resets.count == 1
    # A guest that writes to no console we have.
    guest.now += 20
    guest.reset()
    assert guest.resets.count == 2


def test_two_that_qemu_made_at_once_are_one_however_late_we_are_told(guest):
    guest.reset()
    guest.now, guest.late, guest.written = guest.now + 9, 8.96, 5000
    guest.reset()
    assert guest.resets.count == 1
    guest.now, guest.late = guest.now + 9, 8
    guest.reset()
    assert guest.resets.count == 2


@pytest.mark.parametrize(
    "stamp", [None, 7, {}, {"seconds": 1}, {"seconds": "1", "microseconds": 0}, {"seconds": None}]
)
def test_where_qemu_does_not_say_when_what_was_written_tells(guest, stamp):
    for written, number in ((0, 1), (0, 1), (1, 2)):
        guest.written = written
        guest.event(guest=True, stamp=stamp)
        assert guest.resets.count == number


@pytest.mark.parametrize(
    "event",
    [
        {"guest": False, "reason": "host-qmp-system-reset"}, {"reason": "guest-reset"}, {},
        {"guest": "yes"}, {"name": "SHUTDOWN", "guest": True},
    ],
)  # fmt: skip
def test_what_others_do_and_what_says_nothing_is_none(guest, event):
    guest.event(**event)
    assert guest.resets.count == 0


@pytest.fixture
def reboots():
    monitor = SimpleNamespace(resets=SimpleNamespace(count=0))
    return Reboots(monitor), monitor.resets


def test_a_guest_is_waited_for_until_it_has_not_rebooted_meanwhile(reboots):
    reboots, resets = reboots
    notes = []

    def come_up():
        notes.append("up")
        if len(notes) < 5:
            resets.count += 1
            if len(notes) < 3:  # it is noticed while it is waited for, or after
                reboots.check(clock.now() + 100)

    reboots.wait_out(come_up, lambda: notes.append("anew"))
    assert notes == ["up", "anew", "up", "anew", "up"]
    assert (reboots.count, reboots.new) == (2, False)


def test_one_that_reboots_when_its_time_is_over_is_waited_for_no_more(reboots):
    reboots, resets = reboots
    reboots.check(clock.now() + 100)
    resets.count = 1
    assert reboots.new
    with pytest.raises(RebootedError):
        reboots.check(clock.now() + 100)
    reboots.check(clock.now())


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "rebooted once"), (2, "twice"), (9, "9 times meanwhile")]
)
def test_how_often_is_told_in_words(reboots, count, said):
    reboots, resets = reboots
    resets.count = count
    assert said in reboots.so_far() and bool(reboots.so_far()) == bool(count)


def test_before_there_is_a_qemu_there_are_none():
    assert (Reboots().count, Reboots().new, Reboots().so_far()) == (0, False, "")


@pytest.mark.parametrize(
    ("user_data", "reboots"),
    [
        ("power_state: {mode: reboot}", True), ("power_state:\n  mode: reboot\n", True),
        ("power_state: {mode: poweroff}", False), ("power_state: soon", False),
        ("power_state: {mode: reboot, condition: test -e /x}", False),
        ("packages: [power_state]", False), ("{}", False),
    ],
)  # fmt: skip
def test_a_reboot_that_cloud_init_was_told_of_is_known(user_data, reboots):
    assert Seed(f"#cloud-config\n{user_data}".encode()).reboots is reboots
    assert not Seed(f"#!/bin/sh\n# {user_data}".encode()).reboots
    assert not Seed().reboots

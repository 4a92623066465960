"""The ports of a test: leased without waiting, but for those that are about to come free."""

from __future__ import annotations

import threading

import pytest

from pytest_vmports import PortAllocator, PortMapping
from pytest_vmports.errors import HostError, PortsExhaustedError
from pytest_vmports.leases.record import PASSING
from pytest_vmports.network import exposed
from pytest_vmports.network.destinations import read
from pytest_vmports.network.exposed import ExposedPorts, lease_exposed


@pytest.fixture
def allocator(tmp_path):
    with PortAllocator(tmp_path, (21000, 21001)) as made:
        yield made


WANTED = [PortMapping(internal=80)]


def test_where_tests_hold_all_ports_another_is_told_at_once(allocator, monkeypatch):
    monkeypatch.setattr(exposed, "_PASSING_SECONDS", 1e9)
    leases = allocator.acquire(2, label="a test")
    with pytest.raises(PortsExhaustedError, match="a test"):
        lease_exposed(WANTED, allocator, print)
    for lease in leases:
        lease.release()


def test_ports_of_a_vm_that_is_made_ready_are_waited_for(allocator, monkeypatch):
    leases, waits = allocator.acquire(2, label=PASSING), threading.Event()
    monkeypatch.setattr(exposed.clock, "sleep", lambda _: waits.set())

    def give_back():
        assert waits.wait(30)
        for lease in leases:
            lease.release()

    thread = threading.Thread(target=give_back)
    thread.start()
    granted = lease_exposed(WANTED, allocator, print)
    thread.join()
    assert len(granted) == 1
    granted.release()


def test_they_are_not_waited_for_without_end(allocator, monkeypatch):
    monkeypatch.setattr(exposed, "_PASSING_SECONDS", 0.0)
    leases = allocator.acquire(2, label=PASSING)
    with pytest.raises(PortsExhaustedError, match=PASSING):
        lease_exposed(WANTED, allocator, print)
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("listed", [[], ["example.org"], ["0.0.0.0/0"]])
def test_a_qemu_of_the_tests_own_is_held_to_no_list_and_says_so(listed):
    with pytest.raises(HostError, match="allow_network is a list"):
        ExposedPorts([], allow_network=read(listed)).qemu_args()

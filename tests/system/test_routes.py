"""Whose address one is, by the kernel itself."""

from __future__ import annotations

import socket

import psutil
import pytest

from pytest_vmports.system.routes import Kind, kind_of

OWN = [
    address.address.partition("%")[0]
    for addresses in psutil.net_if_addrs().values() for address in addresses
    if address.family in {socket.AF_INET, socket.AF_INET6}
]  # fmt: skip


@pytest.mark.parametrize("address", sorted({*OWN, "127.0.0.1", "127.1.2.3", "0.0.0.0"}))
def test_every_address_of_this_machine_is_its_own(address):
    assert kind_of(address) is Kind.LOCAL


def test_broadcasts_and_multicast_are_told_apart():
    nets = [
        a for many in psutil.net_if_addrs().values() for a in many if a.family == socket.AF_INET
    ]
    broadcasts = {a.broadcast for a in nets if a.broadcast} | {"255.255.255.255", "127.255.255.255"}
    assert {kind_of(one) for one in broadcasts} == {Kind.BROADCAST}
    assert kind_of("224.0.0.251") in {Kind.MULTICAST, Kind.ELSEWHERE}


@pytest.mark.parametrize("address", ["203.0.113.77", "2001:db8::77", "240.0.0.1", "0.1.2.3"])
def test_what_no_interface_has_is_elsewhere(address):
    assert kind_of(address) is Kind.ELSEWHERE

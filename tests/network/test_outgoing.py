"""Where gvproxy may connect to: what is judged, what is noted, and what names lead to."""

from __future__ import annotations

import errno
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from name_server import saying, serving

from pytest_vmports.network import log, names, outgoing
from pytest_vmports.network.destinations import Destinations, read
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.outgoing import Outgoing
from pytest_vmports.system import resolving, routes
from pytest_vmports.system.gate import Asked
from pytest_vmports.system.routes import Kind

ELSEWHERE, LAN, BROADCAST, SERVER = "203.0.113.9", "198.51.100.2", "198.51.100.255", "10.9.8.7"
LOOPBACK = [
    "127.0.0.1", "127.0.0.2", "127.255.255.255", "0.0.0.0", "0.0.0.1", "0.255.1.1", "::1", "::",
    "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:127.9.9.9",
]  # fmt: skip
LINK_LOCAL = ["169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "fe80::1"]
CLOSED = [
    *LOOPBACK,
    *LINK_LOCAL,
    "255.255.255.255",
    "224.0.0.1",
    "ff02::1",
    "::ffff:224.0.0.251",
    BROADCAST,
]


@pytest.fixture(autouse=True)
def of_this_host(monkeypatch):
    """Faked: which addresses are the host's own, its name server and its file of names."""
    kinds = {LAN: Kind.LOCAL, BROADCAST: Kind.BROADCAST, "255.255.255.255": Kind.BROADCAST}
    monkeypatch.setattr(routes, "kind_of", lambda one: kinds.get(one, Kind.ELSEWHERE))
    monkeypatch.setattr(resolving, "name_servers", lambda **_: [SERVER, "fd00::53"])
    known = [("db.internal", "203.0.113.20"), ("loop.internal", "127.0.0.1"), ("own.internal", LAN)]
    monkeypatch.setattr(resolving, "known_names", lambda: known)


@pytest.fixture
def made(request):
    """Return a function that makes one."""

    def make(*allowed, everything=False, strict=False):
        one = Outgoing(None if everything else read(allowed), strict=strict, log=NetworkLog())
        request.addfinalizer(one.close)
        return one

    return make


def asks(one, host, port=80, protocol="tcp"):
    """Return what is said to a connect."""
    return one(Asked("connect", (host, port), protocol))


def may(one, host, port=80, protocol="tcp"):
    said = asks(one, host, port, protocol)
    assert said in {0, errno.EACCES}
    return said == 0


def noted(one):
    """Return of each entry whether it was allowed, and its address."""
    return [(entry.allowed, entry.address) for entry in one._log.entries()]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("host", CLOSED)
@pytest.mark.parametrize("allowed", ["everything", "0.0.0.0/0"])
def test_neither_loopback_nor_everybody_is_ever_reached(made, host, allowed, protocol):
    one = made(everything=True) if allowed == "everything" else made(allowed, "::/0")
    assert not may(one, host, 80, protocol)
    if host.removeprefix("::ffff:") in resolving.NOBODY_SAYS:
        # Whom gvproxy asks for names when it cannot read whose they are.
        assert asks(one, host, 53, protocol) == one._names.address(protocol)
        return
    assert not may(one, host, 53, protocol)
    assert {allowed for allowed, _ in noted(one)} == {False} and len(noted(one)) == 2


@given(st.integers(0, 2**32 - 1) | st.integers(0x7F000000, 0x7FFFFFFF) | st.integers(0, 2**24 - 1))
def test_no_number_of_the_loopback_is_reached_by_any_spelling_of_ipv6(number):
    one = Outgoing(None, strict=False, log=NetworkLog())
    address = ipaddress.ip_address(number)
    closed = address.is_loopback or number < 2**24 or address.is_multicast or str(address) in CLOSED
    closed |= address.is_link_local
    assert may(one, str(address)) is not closed
    assert may(one, f"::ffff:{address}") is not closed


@pytest.mark.parametrize("protocol", ["unix", "icmp", "132", "raw"])
def test_only_tcp_and_udp_are_for_a_guest(made, protocol):
    assert not may(made(everything=True), ELSEWHERE, 80, protocol)


@pytest.mark.parametrize("address", [b"/run/docker.sock", b"\0abstract", None])
def test_no_other_kind_of_address_is(made, address):
    assert made(everything=True)(Asked("connect", address, "tcp")) == errno.EACCES


def test_the_hosts_own_address_is_closed_by_strict_network(made):
    assert may(made(everything=True), LAN)
    for one in (made(everything=True, strict=True), made("198.51.100.0/24", LAN, strict=True)):
        assert not may(one, LAN) and not may(one, f"::ffff:{LAN}", 53, "udp")
        assert "strict_network" in one._log.entries().refused[0].why
    assert may(made("198.51.100.0/24", strict=True), "198.51.100.3")


def test_a_kernel_that_does_not_tell_closes_everything(made, monkeypatch):
    def broken(_address):
        raise OSError("no netlink")

    monkeypatch.setattr(routes, "kind_of", broken)
    one = made(everything=True)
    assert not may(one, ELSEWHERE)
    assert "no netlink" in one._log.entries()[0].why


def test_of_a_list_what_is_in_it_is_reached_and_nothing_else(made):
    one = made(ELSEWHERE, "10.1.0.0/16:443", LAN)
    assert may(one, ELSEWHERE) and may(one, ELSEWHERE, 5000, "udp") and may(one, LAN)
    assert may(one, "10.1.2.3", 443) and not may(one, "10.1.2.3", 80)
    assert not may(one, "203.0.113.8") and not may(one, "2001:db8::1")
    told = [str(entry) for entry in one._log.entries()]
    assert told[0] == f"let connect {ELSEWHERE}:80 (tcp): {ELSEWHERE}"
    assert told[4] == "refused connect 10.1.2.3:80 (tcp): not in allow_network"


def test_an_empty_list_lets_nothing_out_and_notes_all(made):
    one = made()
    assert one._allowed == Destinations()
    assert not may(one, ELSEWHERE) and noted(one) == [(False, ELSEWHERE)]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("server", [SERVER, "fd00::53", f"::ffff:{SERVER}"])
def test_a_question_for_a_name_is_led_to_our_own_server(made, monkeypatch, protocol, server):
    with serving(saying("a.example. 60 IN A 203.0.113.9")) as upstream:
        monkeypatch.setattr(names, "upstream", lambda: [upstream])
        one = made("a.example:443")
        said = asks(one, server, 53, protocol)
        assert said[0] == "127.0.0.1" and said == one._names.address(protocol)
        assert asks(one, server, 54, protocol) == errno.EACCES
        assert not may(one, ELSEWHERE, 443)
        one._names.answer(question("a.example"))
        assert may(one, ELSEWHERE, 443) and not may(one, ELSEWHERE, 80)
    entry = one._log.entries()[-1]
    assert (entry.name, entry.address, entry.port, entry.why) == (
        "a.example", ELSEWHERE, 80, "not in allow_network",
    )  # fmt: skip


def question(name):
    return names.dns.message.make_query(name, "A")


@pytest.mark.parametrize(
    "address", [*LOOPBACK[:6], *LINK_LOCAL[:2], LAN, BROADCAST, "255.255.255.255"]
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_name_server_that_lies_leads_to_nothing_of_the_hosts(made, monkeypatch, address, strict):
    with serving(saying(f"a.example. 60 IN A {address}")) as upstream:
        monkeypatch.setattr(names, "upstream", lambda: [upstream])
        one = made("a.example", strict=strict)
        one._names.answer(question("a.example"))
        assert not may(one, address)
    assert one._log.entries().refused[-1].why != "not in allow_network"


def test_a_name_that_is_not_listed_opens_nothing(made, monkeypatch):
    with serving(saying("evil.example. 60 IN A 203.0.113.9")) as upstream:
        monkeypatch.setattr(names, "upstream", lambda: [upstream])
        one = made("a.example")
        one._names.answer(question("evil.example"))
        assert not may(one, ELSEWHERE)


def test_two_names_of_one_address_allow_what_either_may(made):
    one = made("a.example:443", "b.example:80")
    one._learn("a.example", [ELSEWHERE])
    one._learn("evil.example", [ELSEWHERE])
    assert may(one, ELSEWHERE, 443) and not may(one, ELSEWHERE, 80)
    one._learn("b.example", [ELSEWHERE])
    assert may(one, ELSEWHERE, 443) and may(one, ELSEWHERE, 80) and not may(one, ELSEWHERE, 22)
    assert one._log.entries()[0].name == "a.example"


def test_names_that_the_hosts_own_file_tells_lead_there_if_they_are_listed(made):
    assert may(made("db.internal"), "203.0.113.20")
    assert not may(made("x.internal"), "203.0.113.20")
    one = made("*.internal")
    assert may(one, "203.0.113.20") and not may(one, "127.0.0.1") and not may(one, LAN)


def test_what_gvproxy_connects_to_put_addresses_in_order_is_not_noted_and_not_let(made):
    one = made("a.example")
    one._answered("a.example", [ELSEWHERE, "203.0.113.10"])
    assert not may(one, ELSEWHERE, 53, "udp") and not may(one, "203.0.113.10", 53, "udp")
    assert noted(one) == []
    # And a second one is the guest's.
    assert may(one, ELSEWHERE, 53, "udp") and may(one, ELSEWHERE, 53, "tcp")
    assert noted(one) == [(True, ELSEWHERE)] * 2
    assert not may(one, "203.0.113.11", 53, "udp")


def test_where_no_relay_can_be_had_names_still_work_without_a_list_alone(made, monkeypatch):
    def none(_self):
        raise OSError("no descriptor left")

    monkeypatch.setattr(names.Names, "_open", none)
    assert asks(made(everything=True), SERVER, 53, "udp") == 0
    assert asks(made("a.example"), SERVER, 53, "udp") == errno.EACCES


def test_a_name_that_leads_to_ever_more_addresses_fills_no_memory(made, monkeypatch):
    monkeypatch.setattr(outgoing, "MOST_ADDRESSES", 10)
    one = made("a.example")
    many = [str(ipaddress.ip_address("203.0.113.0") + number) for number in range(20)]
    one._answered("a.example", many)
    assert len(one._led) == 10 and len(one._orderings) <= 10
    assert may(one, "203.0.113.3") and not may(one, "203.0.113.19")


def test_of_what_is_noted_refusals_are_never_pushed_out(monkeypatch):
    monkeypatch.setattr(log, "MOST", 5)
    noting = NetworkLog()
    for number in range(20):
        noting.note("connect", address="a", port=number, protocol="tcp", allowed=True, why="")
    for number in range(8):
        noting.note("connect", address="b", port=number, protocol="tcp", allowed=False, why="")
    for _ in range(3):
        noting.note("connect", address="b", port=0, protocol="tcp", allowed=False, why="")
    entries = noting.entries()
    assert len(entries) == 10 and entries.dropped == 15 + 3
    assert [entry.port for entry in entries.refused] == [0, 1, 2, 3, 4]
    assert [entry.times for entry in entries.refused] == [4, 1, 1, 1, 1]


def test_an_entry_is_read_at_a_glance():
    noting = NetworkLog()
    noting.note("name", name="a.example", protocol="A", allowed=False, why="not in allow_network")
    noting.note("connect", name="b.example", address="192.0.2.7", port=80, protocol="tcp",
                allowed=True, why="b.example")  # fmt: skip
    assert [str(entry) for entry in noting.entries()] == [
        "refused name a.example (A): not in allow_network",
        "let connect 192.0.2.7:80 (tcp, b.example): b.example",
    ]
    assert noting.entries().refused == noting.entries()[:1]
    assert socket.inet_aton(noting.entries()[1].address)

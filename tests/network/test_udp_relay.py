"""The relay with frames in place of a guest; `test_vm_udp.py` has the guest.

The frames are made and read here by code of its own, so that a mistake is not made twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import struct
import sys

import pytest
from held import held
from hypothesis import given
from hypothesis import strategies as st
from vm_helpers import until

from pytest_vmports.errors import ForwardError
from pytest_vmports.models import ExposedPort
from pytest_vmports.network import udp_frames, udp_relay
from pytest_vmports.network.udp_relay import UdpRelay

GUEST, GUEST_MAC = "192.168.127.2", bytes.fromhex("5a94efe40cee")
RELAY, RELAY_MAC = "192.168.127.253", bytes.fromhex("5a94efe40cfd")
EVERYBODY = b"\xff" * 6
SECONDS = 60


def checksum(data):
    """Return the checksum as RFC 1071 spells it out: 0 for what has a right one in it."""
    padded = data + b"\x00" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo(source, target, length):
    return socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 17, length)


def udp(source, target, payload, ip=RELAY):
    head = struct.pack("!HHH", source, target, 8 + len(payload))
    check = checksum(pseudo(GUEST, ip, 8 + len(payload)) + head + payload)
    return head + check.to_bytes(2, "big") + payload


def frame(part, *, ip=RELAY, mac=RELAY_MAC, ident=1, offset=0, more=False, protocol=17):
    """Return a frame from the guest; ``offset`` in bytes."""
    words = (0x4500, 20 + len(part), ident, more << 13 | offset // 8, 64 << 8 | protocol)
    header = struct.pack("!5H", *words)
    addresses = socket.inet_aton(GUEST) + socket.inet_aton(ip)
    check = checksum(header + addresses).to_bytes(2, "big")
    return mac + GUEST_MAC + b"\x08\x00" + header + check + addresses + part


def fragments(packet, size=1480, **keywords):
    return [
        frame(packet[at : at + size], offset=at, more=at + size < len(packet), **keywords)
        for at in range(0, len(packet), size)
    ]


class Guest:
    """The other end of the relay's link."""

    def __init__(self, relay):
        self.link = socket.socket(fileno=os.dup(relay.qemu_fd))
        self.link.settimeout(SECONDS)

    def send(self, *frames):
        for one in frames:
            self.link.send(one)

    def answer(self, source, target, payload):
        self.send(*fragments(udp(source, target, payload), ident=secrets.randbelow(0xFFFF)))

    def hear(self):
        """Return source port, target port and payload of the next datagram, checked on the way."""
        whole, more = b"", True
        while more:
            got = self.link.recv(65536)
            assert got[:14] == GUEST_MAC + RELAY_MAC + b"\x08\x00" and len(got) <= 14 + 1500
            header, part = got[14:34], got[34:]
            assert checksum(header) == 0
            assert header[12:] == socket.inet_aton(RELAY) + socket.inet_aton(GUEST)
            size, _, fragment = struct.unpack_from("!3H", header, 2)
            assert size == 20 + len(part) and (fragment & 0x1FFF) * 8 == len(whole)
            whole += part
            more = fragment & 0x2000
        source, target, length = struct.unpack_from("!3H", whole)
        assert length == len(whole) and checksum(pseudo(RELAY, GUEST, length) + whole) == 0
        return source, target, whole[8:]


@pytest.fixture
def relay():
    with contextlib.closing(UdpRelay()) as relay:
        yield relay


@pytest.fixture
def guest(relay):
    guest = Guest(relay)
    with guest.link:
        yield guest


def listener():
    taken = socket.socket(type=socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    return taken


def free_port(internal):
    with listener() as found:
        return ExposedPort(internal=internal, external=found.getsockname()[1], protocol="udp")


@pytest.fixture
def port(relay):
    port = free_port(53)
    relay.forward(port)
    return port


@pytest.fixture
def client(port):
    with connect(port) as client:
        yield client


def connect(port):
    client = socket.socket(type=socket.SOCK_DGRAM)
    client.settimeout(SECONDS)
    client.connect(port.address)
    return client


def met(guest, client, question=b"hello"):
    """Return the relay's own port for ``client``."""
    client.send(question)
    own, _, heard = guest.hear()
    assert heard == question
    return own


def test_the_relay_says_who_has_its_address_and_no_other(guest, client):
    question = EVERYBODY + GUEST_MAC + bytes.fromhex("0806 0001 0800 06 04 0001") + GUEST_MAC
    guest.send(question + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton("192.168.127.1"))
    guest.send(question + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(RELAY))
    answer = guest.link.recv(65536)
    assert answer[:22] == GUEST_MAC + RELAY_MAC + bytes.fromhex("0806 0001 0800 06 04 0002")
    assert answer[22:] == (
        RELAY_MAC + socket.inet_aton(RELAY) + GUEST_MAC + socket.inet_aton(GUEST)
    )
    met(guest, client)  # what comes next is no second answer


def test_an_answer_goes_to_the_one_that_asked_whoever_it_is():
    """Faked: a neighbour that the hub does not have, whose frame is sent on by another."""
    asker = bytes.fromhex("020304050607") + socket.inet_aton("192.168.127.77")
    head = EVERYBODY + GUEST_MAC + bytes.fromhex("0806 0001 0800 06 04")
    asked = asker + bytes(6) + socket.inet_aton(RELAY)
    answer = udp_frames.arp_answer(head + b"\x00\x01" + asked)
    assert answer[:6] == asker[:6] and answer[6:12] == RELAY_MAC
    assert answer[22:32] == RELAY_MAC + socket.inet_aton(RELAY)
    assert answer[32:] == asker
    assert udp_frames.arp_answer(head + b"\x00\x02" + asked) is None  # an answer is not answered


@pytest.mark.parametrize("payload", [b"", b"\x00", b"odd", b"\xff" * 64], ids=repr)
def test_a_datagram_reaches_the_guest_and_its_answer_the_client(guest, client, payload):
    client.send(payload)
    own, target, heard = guest.hear()
    assert (target, heard) == (53, payload)
    guest.answer(53, own, payload[::-1])
    assert client.recv(100) == payload[::-1]


@pytest.mark.parametrize("size", [1472, 1473, 4000, 65507])
def test_what_is_longer_than_a_frame_goes_both_ways_in_fragments(guest, client, size):
    payload = secrets.token_bytes(size)
    own = met(guest, client, payload)
    guest.answer(53, own, payload[::-1])
    assert client.recv(65536) == payload[::-1]


def test_fragments_may_come_in_any_order_and_twice(guest, client):
    payload = secrets.token_bytes(4000)
    first, second, third = fragments(udp(53, met(guest, client), payload))
    guest.send(third, first, first, third, second)
    assert client.recv(65536) == payload


def test_fragments_of_two_datagrams_are_not_mixed(guest, client):
    own = met(guest, client)
    one, other = (fragments(udp(53, own, bytes([fill]) * 2000), ident=7) for fill in (1, 2))
    guest.send(one[0], other[1])
    guest.answer(53, own, b"whole")
    assert client.recv(65536) == b"whole"


def test_two_clients_are_kept_apart(guest, port):
    with connect(port) as one, connect(port) as two:
        own_of_one, own_of_two = met(guest, one), met(guest, two)
        assert own_of_one != own_of_two
        guest.answer(53, own_of_two, b"for two")
        guest.answer(53, own_of_one, b"for one")
        assert (one.recv(100), two.recv(100)) == (b"for one", b"for two")
        assert met(guest, one) == own_of_one


def test_each_host_port_leads_to_its_guest_port(relay, guest, client):
    other = free_port(514)
    relay.forward(other)
    with connect(other) as second:
        client.send(b"dns")
        second.send(b"log")
        heard = {payload: target for _, target, payload in (guest.hear(), guest.hear())}
    assert heard == {b"dns": 53, b"log": 514}


def unasked(own, port_of_listener):
    """Return frames that must lead nowhere, by what is wrong with them."""
    right = udp(53, own, b"smuggled")
    bare = udp(53, port_of_listener, b"smuggled")
    return {
        "to a port of the host": frame(bare),
        "to the host's own address": frame(
            udp(53, port_of_listener, b"smuggled", "127.0.0.1"), ip="127.0.0.1"
        ),
        "by way of the gateway": frame(bare, ip="192.168.127.1"),
        "from another guest port": frame(udp(54, own, b"smuggled")),
        "to a client, by an unknown port": frame(udp(53, own + 1, b"smuggled")),
        "to another address": frame(udp(53, own, b"smuggled", "8.8.8.8"), ip="8.8.8.8"),
        "to another card": frame(right, mac=EVERYBODY),
        "not UDP": frame(right, protocol=6),
        "longer than it is": frame(right)[:-1],
        "shorter than its header": frame(right[:7]),
    }


@pytest.mark.parametrize("case", unasked(2, 1))
def test_what_the_guest_sends_unasked_goes_nowhere(guest, client, case):
    with listener() as service:
        guest.send(unasked(met(guest, client), service.getsockname()[1])[case])
        # Frames are taken in turn, so after the answer to this one that one is done with.
        guest.answer(53, met(guest, client), b"asked for")
        assert client.recv(100) == b"asked for"
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(100)


def test_the_client_that_was_silent_longest_is_forgotten(relay, guest, port, monkeypatch):
    monkeypatch.setattr(udp_relay, "MOST_CLIENTS", 2)
    with connect(port) as one, connect(port) as two, connect(port) as three:
        own_of_one, own_of_two = met(guest, one), met(guest, two)
        assert met(guest, one) == own_of_one
        own_of_three = met(guest, three)  # two is forgotten
        assert own_of_three not in {own_of_one, own_of_two}
        for own in (own_of_two, own_of_one, own_of_three):
            guest.answer(53, own, b"late")
        assert (one.recv(100), three.recv(100)) == (b"late", b"late")
        two.setblocking(False)
        with pytest.raises(BlockingIOError):
            two.recv(100)


def test_a_client_that_is_answered_is_not_silent(relay, guest, port, monkeypatch):
    monkeypatch.setattr(udp_relay, "MOST_CLIENTS", 2)
    with connect(port) as one, connect(port) as two, connect(port) as three:
        own_of_one, _ = met(guest, one), met(guest, two)
        guest.answer(53, own_of_one, b"news")
        assert one.recv(100) == b"news"
        met(guest, three)
        guest.answer(53, own_of_one, b"more news")
        assert one.recv(100) == b"more news"


def test_own_ports_are_used_again_but_never_by_two(relay, guest, port, monkeypatch):
    monkeypatch.setattr(udp_relay, "_FIRST_PORT", 65534)  # so there are two
    monkeypatch.setattr(udp_relay, "MOST_CLIENTS", 2)
    with connect(port) as one, connect(port) as two, connect(port) as three:
        owns = [met(guest, one), met(guest, two), met(guest, one), met(guest, three)]
    assert owns == [65534, 65535, 65534, 65535]


def test_a_port_that_is_taken_is_an_error_that_names_it(relay):
    with listener() as taken:
        port = ExposedPort(internal=53, external=taken.getsockname()[1], protocol="udp")
        with pytest.raises(ForwardError) as caught:
            relay.forward(port)
    error = caught.value
    assert (error.program, error.port, error.protocol) == ("the UDP relay", port.external, "udp")
    assert "in use" in error.detail
    relay.forward(port)  # now that it is free


def test_a_port_that_is_no_longer_forwarded_is_free_and_the_others_work(relay, guest, port, client):
    other = free_port(514)
    relay.forward(other)
    own = met(guest, client)
    relay.unforward(port)
    with socket.socket(type=socket.SOCK_DGRAM) as taker, connect(other) as second:
        taker.bind(port.address)
        guest.answer(53, own, b"too late")
        guest.answer(514, met(guest, second), b"in time")
        assert second.recv(100) == b"in time"
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)


def test_closing_frees_the_ports_and_ends_the_thread():
    before = held()
    relay, port = UdpRelay(), free_port(53)
    relay.forward(port)
    assert held() - before
    relay.close()
    relay.close()  # again is no error
    with socket.socket(type=socket.SOCK_DGRAM) as taker:
        taker.bind(port.address)
    assert held() <= before


def test_a_guest_that_does_not_read_loses_datagrams_and_nothing_else(relay, guest, client):
    def lost():
        client.send(bytes(65507))
        return relay.dropped

    until(lost, 60, "the link takes everything")
    guest.link.settimeout(1)
    with contextlib.suppress(TimeoutError):  # the guest reads up
        while guest.link.recv(65536):
            pass
    guest.link.settimeout(SECONDS)
    guest.answer(53, met(guest, client), b"still here")
    assert client.recv(100) == b"still here"


def test_a_client_that_cannot_be_reached_is_the_only_one_to_lose(relay, guest, port, client):
    own = met(guest, client)
    # Sending to everybody is refused to a socket that has not asked for it.
    lost = dataclasses.replace(relay._by_own_port[own], client=("255.255.255.255", 9))
    relay._by_own_port[own] = lost
    relay._conversations[lost] = own
    guest.answer(53, own, b"to nobody")
    with connect(port) as second:
        guest.answer(53, met(guest, second), b"for you")
        assert second.recv(100) == b"for you"
    assert relay.dropped == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux can filter")
def test_what_is_for_others_does_not_wake_the_relay(guest, client, monkeypatch):
    """A hub shows it all of the guest's TCP."""
    seen = []
    monkeypatch.setattr(udp_relay, "arp_answer", seen.append)  # which is asked about each frame
    mine, arp = frame(udp(53, met(guest, client), b"mine")), EVERYBODY + GUEST_MAC + b"\x08\x06 ?"
    almost = RELAY_MAC[:5] + b"\xfe"
    for mac in (EVERYBODY, GUEST_MAC, almost, b"\x00" + RELAY_MAC[1:]):
        guest.send(mac + mine[6:])
    guest.send(b"short", arp, mine)
    assert client.recv(100) == b"mine"
    assert seen == [arp, mine]


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(EVERYBODY + GUEST_MAC + b"\x08\x00", id="to another card"),
        pytest.param(RELAY_MAC + RELAY_MAC + b"\x08\x00", id="from another card"),
        pytest.param(RELAY_MAC + GUEST_MAC + b"\x86\xdd", id="not IPv4"),
    ],
)
def test_only_ipv4_between_the_guest_and_the_relay_is_read(beginning):
    """What the kernel lets pass is looked at all the same."""
    good = frame(udp(53, 40000, b"payload"))
    read = udp_frames.Receiver().read
    assert read(good) == udp_frames.Datagram(53, 40000, b"payload")
    assert read(beginning + good[14:]) is None


def test_fragments_that_overlap_and_leave_a_hole_make_nothing():
    packet = bytearray(udp(53, 40000, bytes(24)))
    packet[6:8] = b"\x00\x00"  # no checksum, so that it cannot be what tells
    read = udp_frames.Receiver().read
    assert read(frame(packet[:16], more=True)) is None
    assert read(frame(packet[8:16], offset=8, more=True)) is None
    assert read(frame(packet[24:], offset=24)) is None  # 32 bytes in all, as many as there are


def test_fragments_without_a_checksum_are_taken():
    packet = bytearray(udp(53, 40000, bytes(24)))
    packet[6:8] = b"\x00\x00"
    read = udp_frames.Receiver().read
    assert read(frame(packet[:16], more=True)) is None
    assert read(frame(packet[16:], offset=16)) == udp_frames.Datagram(53, 40000, bytes(24))


def test_a_checksum_of_zero_is_written_so_that_it_does_not_mean_none():
    head = struct.pack("!3H", 40000, 53, 10)
    payload = checksum(pseudo(RELAY, GUEST, 10) + head).to_bytes(2, "big")
    assert checksum(pseudo(RELAY, GUEST, 10) + head + payload) == 0
    (made,) = udp_frames.to_guest(40000, 53, payload, 1)
    assert made[34:] == head + b"\xff\xff" + payload


@given(st.binary(max_size=80), st.sampled_from([b"", frame(b"")[:14], frame(b"", more=True)]))
def test_no_frame_is_too_strange_to_be_read(noise, beginning):
    udp_frames.arp_answer(beginning + noise)
    udp_frames.Receiver().read(beginning + noise)


def test_datagrams_that_never_become_whole_are_bounded():
    receiver = udp_frames.Receiver()
    for ident in range(40):
        for offset in range(8, 65535, 80):  # overlapping, and without a beginning
            receiver.read(frame(bytes(1480), ident=ident, offset=offset, more=True))
    held = [sum(map(len, f.parts.values())) for f in receiver._incomplete.values()]
    assert 0 < len(held) <= 16 and max(held) < 65536


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_rfc(data):
    assert udp_frames.checksum(data) == checksum(data)

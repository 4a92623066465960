"""The network behind the second card, with frames in place of guests; real ones elsewhere.

The frames are made and read here by code of its own, so that a mistake is not made twice.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import struct

import pytest
from held import held
from hypothesis import given
from hypothesis import strategies as st
from vm_helpers import until

from pytest_vmports.errors import MachineError, MissingWallError, OpenHostError, SettingError
from pytest_vmports.network import host_frames, seal, walls
from pytest_vmports.network.choose import open_host
from pytest_vmports.network.lan import Lan
from pytest_vmports.network.links import Pump
from pytest_vmports.settings import options, parse
from pytest_vmports.system import gate, landlock
from pytest_vmports.system.programs import Qemu

HOST, HOST_MAC = "192.168.128.1", bytes.fromhex("5255c0a88001")
FIRST, FIRST_MAC = "192.168.128.2", bytes.fromhex("5a94efe40d02")
TEMPLATE_MAC = bytes.fromhex("5a94efe40dfd")
SECOND_MAC = bytes.fromhex("5a94efe40d03")
EVERYBODY = b"\xff" * 6
GUEST = socket.inet_aton(FIRST)
PORTS = {8000: 45123, 9000: 1}
BACK = {45123: 8000, 1: 9000}
SYN, ACK, RST = 0x02, 0x10, 0x04
QEMU = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "from PATH")
SECONDS = 60


def checksum(data):
    """Return the checksum as RFC 1071 spells it out: 0 for what has a right one in it."""
    padded = data + b"\x00" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def tcp(source_port, target_port, flags=SYN, payload=b"", *, source=FIRST, target=HOST, **header):
    """Return a TCP packet's frame; ``header`` overrules fields of IP's."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    pseudo = addresses + struct.pack("!HH", header.get("protocol", 6), 20 + len(payload))
    fields = source_port, target_port, 7, 0, 5 << 12 | flags, 1024
    part = struct.pack("!HHIIHH", *fields)
    check = checksum(pseudo + part + bytes(4) + payload)
    part += struct.pack("!HH", check, 0) + payload
    total = header.get("total", 20 + len(part))
    start = struct.pack(
        "!BBHHHBB", header.get("version", 0x45), 0, total, 1, header.get("fragment", 0), 64,
        header.get("protocol", 6),
    )  # fmt: skip
    ip = start + checksum(start + addresses).to_bytes(2, "big") + addresses
    macs = HOST_MAC + FIRST_MAC if target == HOST else FIRST_MAC + HOST_MAC
    return macs + header.get("kind", b"\x08\x00") + ip + part


def arp(sender, target, operation=1):
    body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
    body += FIRST_MAC + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return EVERYBODY + FIRST_MAC + b"\x08\x06" + body


def read(frame):
    """Return source port, target port, flags and payload of a frame whose checksums are right."""
    ip, part = frame[14:34], frame[34:]
    assert checksum(ip) == 0
    assert checksum(ip[12:20] + struct.pack("!HH", 6, len(part)) + part) == 0
    source, target = struct.unpack_from("!HH", part)
    return source, target, part[13], part[20:]


@pytest.mark.parametrize("payload", [b"", b"x", b"some text"])
def test_what_passes_leads_to_the_hosts_port_and_back_with_right_checksums(payload):
    passed = host_frames.to_host(tcp(40000, 8000, ACK, payload), GUEST, PORTS)
    assert read(passed) == (40000, 45123, ACK, payload)
    answer = tcp(45123, 40000, ACK, payload, source=HOST, target=FIRST)
    assert read(host_frames.to_guest(answer, GUEST, BACK)) == (8000, 40000, ACK, payload)


@given(port=st.integers(1, 65535), other=st.integers(1, 65535), payload=st.binary(max_size=60))
def test_the_checksum_stays_right_whatever_the_ports(port, other, payload):
    passed = host_frames.to_host(tcp(40000, port, ACK, payload), GUEST, {port: other})
    assert read(passed) == (40000, other, ACK, payload)


def test_the_checksum_stays_right_where_its_sum_overflows_twice():
    frame = tcp(40000, 8000, ACK, (0x9000).to_bytes(2, "big"))
    check = int.from_bytes(frame[50:52], "big")
    other = 0x1FFFF - (~check & 0xFFFF) - (~8000 & 0xFFFF)
    assert 1 <= other <= 65535, "choose another payload"
    assert read(host_frames.to_host(frame, GUEST, {8000: other}))[1] == other


@pytest.mark.parametrize(
    "frame",
    [
        tcp(40000, 8001),
        tcp(40000, 45123),  # the host's number is not the guest's
        tcp(40000, 8000, target="192.168.128.254"),
        tcp(40000, 8000, target="127.0.0.1"),
        tcp(40000, 8000, source="192.168.128.3"),
        tcp(40000, 8000, protocol=17),
        tcp(40000, 8000, fragment=0x2000),
        tcp(40000, 8000, fragment=1),
        tcp(40000, 8000, version=0x46),
        tcp(40000, 8000, version=0x65),
        tcp(40000, 8000, total=39),
        tcp(40000, 8000, total=400),
        tcp(40000, 8000, kind=b"\x86\xdd"),
        tcp(40000, 8000)[:53],
        arp(FIRST, "192.168.128.3"),
        arp("192.168.128.3", HOST),
        b"",
    ],
)
def test_nothing_else_of_the_guests_passes_to_the_host(frame):
    assert host_frames.to_host(frame, GUEST, PORTS) is None


@pytest.mark.parametrize(
    "frame",
    [
        tcp(45124, 40000, ACK, source=HOST, target=FIRST),
        tcp(8000, 40000, ACK, source=HOST, target=FIRST),
        tcp(45123, 40000, ACK, source="192.168.128.3", target=FIRST),
        tcp(45123, 40000, ACK, source=HOST, target="192.168.128.3"),
        arp("192.168.128.254", FIRST),
        b"",
    ],
)
def test_nothing_else_of_the_hosts_passes_to_the_guest(frame):
    assert host_frames.to_guest(frame, GUEST, BACK) is None


def test_the_guest_and_the_host_may_ask_for_each_others_address():
    asked, answered = arp(FIRST, HOST), arp(HOST, FIRST, 2)
    assert host_frames.to_host(asked, GUEST, PORTS) == asked
    assert host_frames.to_guest(answered, GUEST, BACK) == answered


def test_a_wish_to_connect_elsewhere_is_reset_and_nothing_but_a_wish_is():
    reset = host_frames.refusal(tcp(40000, 8001), GUEST)
    assert reset[:12] == FIRST_MAC + HOST_MAC
    assert read(reset) == (8001, 40000, RST | ACK, b"")
    assert struct.unpack_from("!II", reset, 38) == (0, 8)  # it acknowledges the wish
    for flags in (ACK, SYN | ACK, RST):
        assert host_frames.refusal(tcp(40000, 8001, flags), GUEST) is None
    assert host_frames.refusal(arp(FIRST, HOST), GUEST) is None


@given(st.binary(max_size=80), st.sampled_from([tcp(40000, 8000), arp(FIRST, HOST), b""]))
def test_a_guest_may_send_anything(junk, head):
    for frame in (junk, head + junk, head[: len(junk)] + junk):
        host_frames.to_host(frame, GUEST, PORTS)
        host_frames.to_guest(frame, GUEST, BACK)
        host_frames.refusal(frame, GUEST)
        host_frames.asked_for(frame)


@pytest.fixture
def lan():
    """Return a network that must have ended its thread when its last VM leaves."""
    before = held()
    lan, seats = Lan("backend"), []

    def join(ports=None, **place):
        seats.append(lan.join(ports or {}, **place))
        ends = [socket.socket(fileno=os.dup(fd)) for fd in seats[-1].fds]
        for end in ends:
            end.settimeout(SECONDS)
        opened.extend(ends)
        return seats[-1], ends

    opened = []
    yield join
    for end in opened:
        end.close()
    for seat in seats * 2:  # twice is no error
        seat.leave()
    assert held() <= before


def test_a_frame_goes_to_the_one_it_is_for(lan):
    (_, (first,)), (_, (second,)), (_, (third,)) = lan(), lan(), lan()
    first.send(SECOND_MAC + FIRST_MAC + b"for the second")
    first.send(EVERYBODY + FIRST_MAC + b"for all")
    assert second.recv(100).endswith(b"for the second")
    assert second.recv(100).endswith(b"for all")
    assert third.recv(100).endswith(b"for all")
    second.send(FIRST_MAC + SECOND_MAC + b"back")
    assert first.recv(100).endswith(b"back")  # and not what it sent to all


def test_each_has_the_lowest_address_that_is_free(lan):
    seats = [lan()[0] for _ in range(3)]
    assert [seat.values.address for seat in seats] == [f"192.168.128.{n}" for n in (2, 3, 4)]
    assert [seat.values.mac for seat in seats] == [f"5a:94:ef:e4:0d:0{n}" for n in (2, 3, 4)]
    seats[1].leave()
    assert lan()[0].values.address == "192.168.128.3"


def test_one_that_left_is_sent_nothing_and_the_rest_go_on(lan):
    (_, (first,)), (seat, (second,)), (_, (third,)) = lan(), lan(), lan()
    seat.leave()
    assert seat.links[0].fileno() == -1
    first.send(SECOND_MAC + FIRST_MAC + b"lost")
    first.send(EVERYBODY + FIRST_MAC + b"for all")
    assert third.recv(100).endswith(b"for all")
    second.setblocking(False)
    with pytest.raises(BlockingIOError):
        second.recv(100)


def test_a_place_that_was_left_is_given_back_to_who_had_it_while_it_is_free(lan):
    seats = [lan()[0] for _ in range(3)]
    for seat in seats[:2]:
        seat.leave()
    assert lan(number=3)[0].values.address == "192.168.128.3"
    assert lan(number=3)[0].values.address == "192.168.128.2"


def test_what_a_clone_sends_before_it_has_its_own_address_reaches_nobody(lan):
    (seat, (first,)), (_, (second,)) = lan(), lan()
    first.send(EVERYBODY + TEMPLATE_MAC + b"before")
    first.send(SECOND_MAC + TEMPLATE_MAC + b"before")
    first.send(SECOND_MAC + FIRST_MAC + b"after")
    assert second.recv(100).endswith(b"after")
    assert seat.sought is None


def test_it_is_seen_that_a_guest_asks_for_another(lan):
    """And not what each asks: for the host, and whether its own address is anybody else's."""
    own, other = "192.168.128.253", "192.168.128.3"
    (seat, (guest, _)) = lan(PORTS, waits=True)
    assert seat.mac_bytes == TEMPLATE_MAC
    for frame in (
        arp(own, HOST), arp(own, own), arp("0.0.0.0", other), arp(own, other, 2), tcp(1, 2),
        arp(own, other)[:41], EVERYBODY + TEMPLATE_MAC + b"\x86\xdd" + bytes(60),
    ):  # fmt: skip
        guest.send(frame)
    guest.send(tcp(40000, 8001, source=own))
    assert read(guest.recv(100))[2] == RST | ACK  # all before it are read
    assert seat.sought is None
    guest.send(arp(own, other))
    guest.send(arp(own, "192.168.128.4"))
    until(lambda: seat.sought is not None, SECONDS, "it is not seen")
    assert seat.sought == other


def test_one_that_waits_is_there_for_nobody_and_enters_at_the_lowest_place_that_is_free(lan):
    (waiting, (late, door)), (_, (first,)) = lan(PORTS, waits=True), lan()
    for source in (TEMPLATE_MAC, SECOND_MAC):  # the second is what it will have
        late.send(FIRST_MAC + source + b"before")
        late.send(EVERYBODY + source + b"before")
    first.send(EVERYBODY + FIRST_MAC + b"to those who are there")
    late.send(tcp(40000, 8001, source="192.168.128.253"))
    assert read(late.recv(100))[2] == RST | ACK  # all before it are read
    assert waiting.values.address == "192.168.128.253"
    waiting.enter()
    assert (waiting.values.address, waiting.mac_bytes) == ("192.168.128.3", SECOND_MAC)
    waiting.enter()  # twice is no error
    late.send(FIRST_MAC + TEMPLATE_MAC + b"not moved yet")
    late.send(FIRST_MAC + SECOND_MAC + b"after")
    assert first.recv(100).endswith(b"after")
    first.send(EVERYBODY + FIRST_MAC + b"to the one that has come")
    assert late.recv(100).endswith(b"to the one that has come")
    late.send(tcp(40000, 8000, source="192.168.128.3"))
    assert read(door.recv(100))[1] == PORTS[8000]


def test_one_that_waits_needs_no_place_before_it_enters(monkeypatch):
    monkeypatch.setattr("pytest_vmports.network.lan._LAST", 2)
    lan = Lan("backend")
    waiting, other = lan.join({}, waits=True), lan.join({})
    with pytest.raises(MachineError, match="network backend has no address left"):
        waiting.enter()
    other.leave()
    waiting.enter()
    assert waiting.values.address == "192.168.128.2"
    waiting.leave()


def test_a_network_without_an_address_left_says_so(monkeypatch):
    monkeypatch.setattr("pytest_vmports.network.lan._LAST", 2)
    lan = Lan("backend")
    seat = lan.join({})
    with pytest.raises(MachineError, match="network backend has no address left"):
        lan.join({})
    seat.leave()


def test_only_the_asked_ports_pass_the_door_and_a_neighbour_has_none(lan):
    (_, (first, door)), (_, (second,)) = lan(PORTS), lan()
    first.send(tcp(40000, 8001))
    assert read(first.recv(100)) == (8001, 40000, RST | ACK, b"")
    first.send(tcp(40000, 8000))
    assert read(door.recv(100)) == (40000, 45123, SYN, b"")
    door.send(tcp(2, 40000, SYN | ACK, source=HOST, target=FIRST))
    door.send(tcp(45123, 40000, SYN | ACK, source=HOST, target=FIRST))
    assert read(first.recv(100)) == (8000, 40000, SYN | ACK, b"")
    second.send(tcp(40000, 8000))
    first.send(EVERYBODY + FIRST_MAC + b"later")
    assert second.recv(100).endswith(b"later")
    door.setblocking(False)
    with pytest.raises(BlockingIOError):
        door.recv(100)


def test_frames_for_one_that_does_not_read_wait_and_keep_nobody_up(lan):
    """More than a socket holds; the others' frames pass meanwhile."""
    (_, (first,)), (seat, (second,)), (_, (third,)) = lan(), lan(), lan()
    third_mac = bytes.fromhex("5a94efe40d04")
    numbered = [number.to_bytes(1400, "big") for number in range(1500)]
    for text in numbered:
        first.send(SECOND_MAC + FIRST_MAC + text)
        first.send(third_mac + FIRST_MAC + text)
        assert third.recv(2000)[12:] == text
    assert seat.links[0].waiting
    assert [second.recv(2000)[12:] for _ in numbered] == numbered
    # The thread does not go on asking whether it may write.
    selector = seat.links[0]._pump._selector
    until(lambda: selector.get_key(seat.links[0]).events == selectors.EVENT_READ, SECONDS, "rest")


def test_a_pump_can_be_closed_twice_and_closes_its_links():
    pump = Pump("test")
    link = pump.link(lambda _: None)
    beside, other = socket.socketpair()
    pump.add(beside, lambda _: None)
    pump.close()
    pump.close()
    assert (link.fileno(), beside.fileno()) == (-1, -1)
    other.close()


def test_a_pump_reads_other_sockets_beside_its_links_until_they_are_removed():
    heard = queue.SimpleQueue()
    with contextlib.closing(Pump("test")) as pump:
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        pump.add(ours, lambda _: heard.put(ours.recv(100)))
        link = pump.link(heard.put)
        with theirs, socket.socket(fileno=os.dup(link.qemu_fd)) as qemus:
            theirs.send(b"by the socket")
            assert heard.get(timeout=SECONDS) == b"by the socket"
            qemus.send(b"by the link")
            assert heard.get(timeout=SECONDS) == b"by the link"
            pump.remove(ours)
            with pytest.raises(OSError, match=r"refused|reset|not connected"):
                theirs.send(b"too late")


def test_who_holds_a_pumps_lock_is_not_met_by_an_event():
    heard = queue.SimpleQueue()
    with contextlib.closing(Pump("test")) as pump:
        link = pump.link(heard.put)
        with socket.socket(fileno=os.dup(link.qemu_fd)) as qemus:
            with pump.lock:
                qemus.send(b"frame")
                with pytest.raises(queue.Empty):
                    heard.get(timeout=0.1)
            assert heard.get(timeout=SECONDS) == b"frame"


@pytest.mark.parametrize(
    "value", ["8000:45123 9000:1", "8000:45123,9000:1", PORTS, {"8000": "45123", "9000": "1"}]
)
def test_host_ports_are_read_from_text_and_mapping(value):
    assert parse.host_ports(value) == PORTS


@pytest.mark.parametrize("value", ["", None, {}])
def test_no_host_ports(value):
    assert parse.host_ports(value) == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("8000", "'' is no port"),
        ("0:45123", "'0' is no port"),
        ("8000:65536", "'65536' is no port"),
        ({8000: True}, "True is no port"),
        ({8000: -1}, "-1 is no port"),
        ("8000:1 8000:2", "guest's port 8000 is there twice"),
        ("8000:1 8001:1", "host's port 1 is there twice"),
    ],
)
def test_wrong_host_ports_are_named(value, said):
    with pytest.raises(ValueError, match=said):
        parse.host_ports(value)


def test_a_list_of_host_ports_is_told_how_to_write_them():
    with pytest.raises(TypeError, match=r"\{8000: 45123\}"):
        parse.host_ports([8000])


@pytest.mark.parametrize("name", ["with blank", "x" * 41, "a/b"])
def test_a_network_has_a_plain_name(name):
    with pytest.raises(ValueError, match="write a name"):
        parse.network_name(name)
    assert parse.network_name("") is None
    assert parse.network_name("back-end_1.x") == "back-end_1.x"


def test_a_markers_mistake_names_the_setting(request):
    with pytest.raises(SettingError, match="host_ports"):
        options.resolve(request.config, {"host_ports": "8000"}, "the test")


@pytest.mark.parametrize(
    ("network", "backend", "reached"),
    [
        (False, "auto", ""),
        (False, "usernet", ""),
        (True, "usernet", "127.0.0.1, at 192.168.127.1"),
        (True, "auto", ""),
        (False, "gvproxy", ""),
    ],
)
def test_what_leaves_the_host_open_is_known_before_anything_starts(network, backend, reached):
    found = open_host(allow_network=network, backend=backend, qemu=QEMU)
    if not reached:
        assert found is None
        return
    said = str(OpenHostError(**found))
    assert reached in said and found["remedy"] in said


WALLS = {
    "filter": (seal, "API at http://192.168.127.1"),
    "gate": (gate, "services on the host's 127.0.0.1"),
    "Landlock": (landlock, "delete files of yours"),
}


@pytest.mark.parametrize("gone", [[], *([one] for one in WALLS), [*WALLS]], ids="-".join)
def test_which_walls_are_missing_is_known_before_anything_starts(gone, monkeypatch):
    """Faked: which walls this host has."""
    for name, (module, _) in WALLS.items():
        problem = f"why no {name}" if name in gone else None
        monkeypatch.setattr(module, "problem", lambda problem=problem: problem)
    found = walls.missing()
    if not gone:
        assert found is None
        return
    said = str(MissingWallError(**found))
    for name, (_, without) in WALLS.items():
        assert (f"no {name} (why no {name})" in said) == (without in said) == (name in gone)

"""A guest with raw packets, and name servers that lie: questions and answers as no library asks."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import pytest
from frames import ACK, EVERYBODY, GATEWAY_MAC, GUEST, SYN, arp, ip, ping, tcp
from name_server import saying, serving

from pytest_vmports import ExposedPort, PortAllocator
from pytest_vmports.constants import GATEWAY_IP, GUEST_IP, HOST_ALIAS_IP
from pytest_vmports.errors import GuestSaidError
from pytest_vmports.network import names
from pytest_vmports.network.destinations import Destinations, read
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.names import MOST_AT_ONCE, MOST_WAITING, Names
from pytest_vmports.network.outgoing import Outgoing
from pytest_vmports.network.udp_frames import checksum
from pytest_vmports.system import clock, resolving
from pytest_vmports.system.gate import Asked
from pytest_vmports.system.programs import find_gvproxy
from pytest_vmports.system.run_dir import RunDir

A, AAAA, IN, CHAOS, HESIOD = 1, 28, 1, 3, 4
NAME = b"\1a\7example\0"
KINDS = [A, AAAA, 5, 255, 41, 250, 251, 252, 0, 33, 16, 65, 64, 65280]
CLASSES = [IN, IN, IN, CHAOS, HESIOD, 0, 254, 255, 65280]


def asking(kind=A, group=IN, *, name=NAME, flags=0x0100, more=b"", additional=0, number=7):
    """Return a question as bytes."""
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, additional)
    return head + name + struct.pack("!HH", kind, group) + more


@pytest.fixture
def errors(monkeypatch):
    """Return what threads of ours raised."""
    found = []
    monkeypatch.setattr(threading, "excepthook", lambda told: found.append(told.exc_value))
    return found


@pytest.fixture
def made(monkeypatch):
    """Return a function that makes what decides for a guest, before a name server."""
    monkeypatch.setattr(resolving, "known_names", list)
    with contextlib.ExitStack() as stack:

        def make(answer, *allowed):
            server = stack.enter_context(serving(answer))
            monkeypatch.setattr(names, "upstream", lambda: [server])
            listed = read(allowed) if allowed else None
            one = Outgoing(listed, strict=False, log=NetworkLog())
            stack.callback(one.close)
            return one

        yield make


def told(asker, one, *questions):
    """Send questions as one guest's, then a right one; return what comes back until its answer."""
    asker.settimeout(60)
    asker.connect(one._names.address("udp"))
    for question in questions:
        asker.send(question)
    asker.send(asking(number=9))
    came = []
    while not came or came[-1].id != 9:
        came.append(dns.message.from_wire(asker.recv(65535), ignore_trailing=True))
    return came[:-1]


A_HERE = saying("a.example. 60 IN A 203.0.113.9")


@pytest.mark.parametrize(
    "question",
    {
        "an answer": asking(flags=0x8180), "an answer of another class": asking(A, 4, flags=0x8100),
        "an update": asking(flags=5 << 11), "an unknown opcode": asking(flags=15 << 11),
        "no name": asking(name=b""), "a name that points to itself": asking(name=b"\xc0\x0c"),
        "a name that points ahead": asking(name=b"\xc0\xff"),
        "a signature": asking(additional=1, more=b"\0\0\xfa\0\xff" + bytes(6)),
        "a label that is cut": asking(name=b"\x3fabc"), "a label of old": asking(name=b"\x41\x08"),
        "two names": struct.pack("!HHHHHH", 7, 0x0100, 2, 0, 0, 0) + asking()[12:] * 2,
        "ten thousand names": struct.pack("!HHHHHH", 7, 0x0100, 10_000, 0, 0, 0) + asking()[12:],
    }.items(),
    ids=lambda one: one[0],
)  # fmt: skip
def test_a_question_that_is_none_is_answered_by_nobody_and_breaks_nothing(made, errors, question):
    one = made(A_HERE, "a.example")
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        came = told(asker, one, question[1])
    assert errors == []
    assert not any(answer.answer for answer in came)
    assert not one._log.entries().refused


@pytest.mark.parametrize("group", [CHAOS, HESIOD, 65280])
@pytest.mark.parametrize("kind", [A, AAAA])
def test_addresses_of_another_class_are_none(made, errors, group, kind):
    """Those of CHAOS are of another shape, those of an unknown one are bytes."""

    def lies(question):
        answer = dns.message.make_response(question).to_wire()
        chaos = b"\1b\0\0\x09" if kind == A else bytes(16)
        body = chaos if group == CHAOS else bytes([203, 0, 113, 9]) if kind == A else bytes(16)
        record = b"\xc0\x0c" + struct.pack("!HHIH", kind, group, 60, len(body)) + body
        return answer[:6] + b"\0\1" + bytes(4) + answer[12:27] + record

    one = made(lies, "a.example")
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(60)
        asker.connect(one._names.address("udp"))
        asker.send(asking(kind, group))
        assert dns.message.from_wire(asker.recv(65535)).id == 7
    assert errors == [] and one._led == {}


def odd_question(seeded):
    flags = seeded.choice([0x0100, 0x0100, 0x8100, seeded.randrange(65536)])
    name = seeded.choice([NAME, b"\0", b"\7a.b.exa\0", b"\5" + seeded.randbytes(5) + b"\0"])
    kind = seeded.choice([*KINDS, seeded.randrange(65536)])
    more, additional = b"", 0
    if seeded.random() < 0.3:
        option = seeded.randbytes(seeded.randrange(20))
        additional = 1
        more = b"\0\0\x29" + struct.pack(
            "!HI", seeded.randrange(65536), seeded.choice([0, 1 << 15])
        )
        more += struct.pack("!HHH", len(option) + 4, seeded.choice([3, 8, 10, 15]), len(option))
        more += option
    return asking(kind, seeded.choice(CLASSES), name=name, flags=flags, more=more,
                  additional=additional)  # fmt: skip


def odd_answer(seeded, question):
    """Return an answer with records of any kind and class, of what was asked for or anything."""
    wire = question.to_wire()
    kind, group = wire[-4:-2], wire[-2:]
    records, number = b"", seeded.randint(0, 3)
    for _ in range(number):
        data = seeded.choice([b"\x7f\0\0\1", bytes(16), b"", b"\xc0\x0c", b"\3abc\0\x12\x34"])
        records += seeded.choice([b"\xc0\x0c", b"\1b\xc0\x0e", b"\0"])
        records += seeded.choice([kind, kind, b"\0\5", b"\0\1", bytes([0, seeded.randrange(70)])])
        records += seeded.choice([group, group, b"\0\1", b"\0\3"])
        records += struct.pack("!IH", 60, len(data)) + data
    flags = seeded.choice([0x8180, 0x8180, 0x8183, 0x8000 | seeded.randrange(1 << 15)])
    return wire[:2] + struct.pack("!HHHHH", flags, 1, number, 0, 0) + wire[12:] + records


def test_ten_thousand_odd_questions_with_odd_answers_raise_nothing_but_our_errors(monkeypatch):
    seeded, answered = random.Random(11), 0

    def by_udp(query, _server):
        query.use_edns(-1)
        return names._parsed(odd_answer(seeded, query), "a test")

    monkeypatch.setattr(names, "_by_udp", by_udp)
    monkeypatch.setattr(names, "_by_tcp", by_udp)
    learned = []
    one = Names(None, NetworkLog(), lambda _, addresses: learned.extend(addresses))
    for _ in range(10_000):
        with contextlib.suppress(GuestSaidError):
            names._wire(one.answer(names._parsed(odd_question(seeded), "a test")))
            answered += 1
    assert answered > 1000
    assert set(learned) <= {"127.0.0.1", "::"}


def test_a_name_within_a_label_of_another_is_not_listed(made):
    asked = []
    one = made(asked.append, "*.example.org", "example.org")
    for name in (b"\x0cevil.example\3org\0", b"\x0bexample.org\0", b"\7example\x04org.\0"):
        question = asking(name=name)
        answer = one._names.answer(names._parsed(question, "a test"))
        assert answer.rcode() == dns.rcode.NXDOMAIN
    assert asked == [] and len(one._log.entries().refused) == 3


def test_names_in_any_case_with_a_dot_at_the_end_are_one(made):
    one = made(A_HERE, "A.Example.")
    for name in (b"\1A\7eXaMpLe\0", NAME):
        answer = one._names.answer(names._parsed(asking(name=name), "a test"))
        assert answer.rcode() == dns.rcode.NOERROR
    (entry,) = one._log.entries()
    assert entry.name == "a.example" and entry.times == 2
    assert one(Asked("connect", ("203.0.113.9", 80), "tcp")) == 0


def test_a_name_of_control_characters_is_one_line_of_the_log(made):
    one = made(A_HERE, "a.example")
    for name in (b"\n::add-mask::x", b"\x1b]0;owned\7", b"\xe2\x80\xae", b"a b\r\0", b"x" * 63):
        wire = asking(name=bytes([len(name)]) + name + b"\7example\0")
        one._names.answer(names._parsed(wire, "a test"))
    shown = [str(entry) for entry in one._log.entries()]
    assert len(shown) == 5 and all(line.isascii() and line.isprintable() for line in shown)


def test_more_names_at_once_than_threads_are_all_answered(made, monkeypatch):
    """As a package manager asks, which looks for all its servers in the same moment."""
    held, threads = threading.Event(), threading.active_count()
    monkeypatch.setattr(names, "_SERVER_SECONDS", 60.0)
    monkeypatch.setattr(names, "_CLIENT_SECONDS", 60.0)

    def slow(question):
        held.wait(60)
        return A_HERE(question)

    one, many = made(slow, "a.example"), 3 * MOST_AT_ONCE
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(60)
        asker.connect(one._names.address("udp"))
        for number in range(many):
            asker.send(asking(number=number))
        deadline = clock.now() + 60
        while len(one._names._waiting) < many - MOST_AT_ONCE:
            assert clock.now() < deadline
        assert threading.active_count() <= threads + 2 * MOST_AT_ONCE + 4
        held.set()
        came = {dns.message.from_wire(asker.recv(65535)).id for _ in range(many)}
    assert came == set(range(many))


def test_a_question_that_has_waited_too_long_is_dropped(made, monkeypatch):
    monkeypatch.setattr(names, "_CLIENT_SECONDS", 0.0)
    one = made(A_HERE, "a.example")._names
    ran = []
    monkeypatch.setattr(one, "_answering", MOST_AT_ONCE)
    for number in range(MOST_WAITING):
        assert one._begin(lambda number=number: ran.append(number), MOST_WAITING)
    assert not one._begin(ran.clear, MOST_WAITING) and not one._begin(ran.clear)
    assert one._next() is None and not one._waiting and one._answering == MOST_AT_ONCE - 1
    assert ran == []


def test_where_no_thread_can_be_had_a_question_is_lost_and_the_next_one_is_answered(
    made, monkeypatch, errors
):
    one = made(A_HERE, "a.example")
    one._names.address("udp")
    start = threading.Thread.start

    def refuse(thread):
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.connect(one._names.address("udp"))
        monkeypatch.setattr(names.threading.Thread, "start", refuse)
        asker.send(asking(number=1))
        deadline = clock.now() + 60
        while names.threading.Thread.start is refuse:
            assert clock.now() < deadline
        assert told(asker, one) == []
    assert errors == [] and one._names._answering <= 1


# --- frames, before the real gvproxies ----------------------------------------------------------

TARGETS = [GATEWAY_IP] * 6 + [
    HOST_ALIAS_IP, "192.168.127.0", "192.168.127.255", "0.0.0.0", "127.0.0.1", "255.255.255.255",
    "224.0.0.1", GUEST_IP,
]  # fmt: skip
SOURCES = [GUEST_IP] * 6 + ["192.168.127.3", GATEWAY_IP, HOST_ALIAS_IP, "127.0.0.1", "0.0.0.0"]
ROUTES = [
    b"", b"", b"\x01" * 40, b"\x83\x07\x04" + socket.inet_aton(GATEWAY_IP) + b"\0",
    b"\x89\x07\x04" + socket.inet_aton(GATEWAY_IP) + b"\0", b"\x07\x07\x04" + bytes(5),
    b"\x44\x04\x05\0", b"\x94\x04\0\0", b"\xff" * 8,
]  # fmt: skip


def summed(frame):
    """Return a frame whose IP header's checksum is right, if there is such a header."""
    end = 14 + (frame[14] & 0xF) * 4
    bare = frame[:24] + b"\0\0" + frame[26:]
    return bare[:24] + checksum(bare[14:end]).to_bytes(2, "big") + bare[26:]


def odd_frames(seeded, port):
    """Return frames that may lead to gvproxy's API if they are read otherwise than we read them."""
    target, whole = seeded.choice(TARGETS), {
        "options": seeded.choice(ROUTES), "source": seeded.choice(SOURCES),
        "mac": seeded.choice([GATEWAY_MAC] * 6 + [EVERYBODY, GUEST, b"\1\0\x5e\0\0\1", bytes(6)]),
    }  # fmt: skip
    frame = tcp(
        target, 80, source_port=port, version=seeded.choice([4] * 8 + [0, 5, 6]),
        fragment=seeded.choice([0] * 6 + [0x2000, 0x4000, 0x8000, 1, 0x1FFF, 0x2001]),
        kind=seeded.choice([0x0800] * 8 + [0x8100, 0x88A8, 0x86DD, 0x0806, 46, 0x8847]), **whole,
    )  # fmt: skip
    how, body = seeded.randrange(9), frame[34 + len(whole["options"]) :]
    frames = [frame]
    if how == 0:  # within one VLAN or two
        tag = seeded.choice([b"\x81\0\0\1", b"\x88\xa8\0\1\x81\0\0\1"])
        frames = [frame[:12] + tag + frame[12:]]
    elif how == 1:  # a byte or two are others, and the sum is right again
        changed = bytearray(frame)
        for _ in range(seeded.randint(1, 2)):
            changed[seeded.randrange(12, len(frame))] = seeded.randrange(256)
        frames = [summed(bytes(changed))]
    elif how == 2:  # a header that says that it is shorter, or longer
        frames = [summed(frame[:14] + bytes([0x40 | seeded.randrange(16)]) + frame[15:])]
    elif how == 3:  # cut, or with more behind it than it says
        frames = [frame[: seeded.randrange(len(frame))], frame + seeded.randbytes(60_000)]
    elif how == 4:  # in fragments that overlap, or leave the port to a later one
        other = struct.pack("!HH", port, 53) + body[4:]
        cuts = [(other, 0x2000), (body, 0), (body[:16], 0x2000), (body[16:], 2), (body[8:], 1)]
        parts = [ip(target, 6, part, fragment=fragment, **whole) for part, fragment in cuts]
        frames = seeded.sample(parts, len(parts))
    elif how == 5:  # a packet within a packet
        frames = [ip(target, seeded.choice([4, 41, 47]), frame[14:], **whole)]
    return frames


@pytest.fixture
def before_gvproxy(any_gvproxy):
    """Yield a guest's end before a gvproxy that may connect to nothing, and gvproxy."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunDir()).path
        allocator = stack.enter_context(PortAllocator())
        (lease,) = allocator.acquire()
        port = ExposedPort(internal=8080, external=lease.port)
        wiring = GvproxyWiring(
            (port,), find_gvproxy(str(any_gvproxy)), folder, allocator, allowed=Destinations()
        )
        stack.callback(wiring.stop)
        wiring.start([lease.fileno()])
        guest = stack.enter_context(socket.socket(fileno=os.dup(wiring._qemu_fd)))
        guest.setblocking(False)
        yield guest, wiring


def speak(guest, frames):
    """Send frames; return who accepted a connection until the gateway answers a last ping."""
    came, waiting, deadline = set(), [*frames, ping(GATEWAY_IP)], clock.now() + 120
    waiting.reverse()
    while clock.now() < deadline:
        readable, writable, _ = select.select([guest], [guest] if waiting else [], [], 10)
        if writable:
            guest.send(waiting.pop())
        if readable:
            frame = guest.recv(65536)
            if frame[6:14] != GATEWAY_MAC + b"\x08\0":
                continue
            if frame[23] == socket.IPPROTO_ICMP and frame[34] == 0 and not waiting:
                return came
            if frame[23] == socket.IPPROTO_TCP and frame[47] & 0x3F == SYN | ACK:
                came.add((socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[34:36], "big")))
    raise TimeoutError("the gateway is silent")


def test_no_odd_frame_is_one_for_the_api(before_gvproxy):
    """As gvproxy reads them, not as we do: it lives, and serves names by TCP and nothing else."""
    guest, wiring = before_gvproxy
    seeded = random.Random(3)
    odd = [one for number in range(4000) for one in odd_frames(seeded, 20_000 + number)]
    accepted = speak(guest, [arp(GATEWAY_IP), tcp(GATEWAY_IP, 53, source_port=999), *odd])
    assert accepted == {(GATEWAY_IP, 53)}
    assert wiring._process.wait(0) is None

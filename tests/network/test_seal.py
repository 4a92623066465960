"""What a guest may send to gvproxy: the filter in the kernel, alone and before real gvproxies."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time

import pytest
from frames import ACK, EVERYBODY, SYN, arp, ip, ping, tcp, udp
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_vmports import ExposedPort, PortAllocator
from pytest_vmports.constants import GATEWAY_IP, HOST_ALIAS_IP
from pytest_vmports.errors import LaunchError
from pytest_vmports.network import seal
from pytest_vmports.network.guest_frames import program
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.system.programs import find_gvproxy
from pytest_vmports.system.run_dir import RunDir

ELSEWHERE = "203.0.113.9"
MORE = 0x2000
NOBODY = "0.0.0.0"

PASSING = {
    "who has the gateway": arp(GATEWAY_IP),
    "a ping of the gateway": ping(GATEWAY_IP),
    "a name by UDP": udp(GATEWAY_IP, 53),
    "a name by TCP": tcp(GATEWAY_IP, 53),
    "DHCP to everybody": udp("255.255.255.255", 67, source=NOBODY, mac=EVERYBODY),
    "DHCP's renewal": udp(GATEWAY_IP, 67),
    "an answer to a forward's client": tcp(GATEWAY_IP, 41234, flags=SYN | ACK, source_port=8080),
    "an answer to a UDP forward": udp(GATEWAY_IP, 41234, source_port=53),
    "a web server elsewhere": tcp(ELSEWHERE, 80),
    "a fragment to elsewhere": ip(ELSEWHERE, 17, bytes(64), fragment=MORE),
    "UDP to elsewhere": udp(ELSEWHERE, 443),
    "a ping of elsewhere": ping(ELSEWHERE),
    "a large frame": udp(ELSEWHERE, 443, bytes(1472)),
}
STOPPED = {
    "the API": tcp(GATEWAY_IP, 80),
    "the API, within a connection": tcp(GATEWAY_IP, 80, flags=ACK),
    "the API, by another source": tcp(GATEWAY_IP, 80, source="192.168.127.77"),
    "the API, to everybody's MAC": tcp(GATEWAY_IP, 80, mac=EVERYBODY),
    "the API, behind options of IP": tcp(GATEWAY_IP, 80, options=b"\x01" * 40),
    "the API, a first fragment": tcp(GATEWAY_IP, 80, fragment=MORE),
    "a port that a later fragment may overwrite": tcp(GATEWAY_IP, 53, fragment=MORE),
    "a later fragment": ip(GATEWAY_IP, 6, bytes(64), fragment=1),
    "TCP too short for a port": ip(GATEWAY_IP, 6, b"\x00\x00"),
    "the host's alias": tcp(HOST_ALIAS_IP, 8000),
    "the host's alias by UDP": udp(HOST_ALIAS_IP, 8000),
    "who has the host's alias": arp(HOST_ALIAS_IP),
    "0.0.0.0 by UDP": udp(NOBODY, 8000),
    "0.0.0.0 by TCP": tcp(NOBODY, 8000),
    "its net": udp("0.1.2.3", 8000),
    "loopback": tcp("127.0.0.1", 8000),
    "loopback by UDP": udp("127.8.7.6", 8000),
    "loopback's broadcast": udp("127.255.255.255", 8000),
    "everybody, not DHCP": udp("255.255.255.255", 5353, mac=EVERYBODY),
    "everybody, a fragment": udp("255.255.255.255", 67, fragment=MORE),
    "everybody, not UDP": ping("255.255.255.255"),
    "the subnet's broadcast": udp("192.168.127.255", 137),
    "multicast": udp("224.0.0.251", 5353),
    "reserved": udp("240.0.0.1", 1),
    "another version in IPv4's place": tcp(GATEWAY_IP, 80, version=6),
    "IPv6": ip(ELSEWHERE, 6, bytes(64), kind=0x86DD),
    "a VLAN": ip(ELSEWHERE, 6, bytes(64), kind=0x8100),
    "nothing": b"",
    "a head alone": udp(ELSEWHERE, 443)[:14],
}
SENTINEL = ping(ELSEWHERE)


@contextlib.contextmanager
def sealed_pair():
    """Yield a guest's end and that of a receiver behind the filter."""
    guest, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with guest, receiver:
        seal.attach(receiver)
        receiver.setblocking(False)
        yield guest, receiver


def passes(guest, receiver, frame):
    """Whether a frame comes through; what is sent after it always does."""
    guest.send(frame)
    guest.send(SENTINEL)
    first = receiver.recv(65536)
    if first == SENTINEL and frame != SENTINEL:
        return False
    assert first == frame
    assert receiver.recv(65536) == SENTINEL
    return True


@pytest.mark.parametrize("what", PASSING)
def test_what_a_guest_with_network_was_given_passes(what):
    with sealed_pair() as pair:
        assert passes(*pair, PASSING[what])


@pytest.mark.parametrize("what", STOPPED)
def test_what_leads_to_the_api_or_to_the_host_does_not(what):
    with sealed_pair() as pair:
        assert not passes(*pair, STOPPED[what])


@pytest.mark.parametrize("what", ["the API", "a name by UDP"])
def test_a_frame_that_is_cut_anywhere_is_looked_at_no_less(what):
    frame = {**PASSING, **STOPPED}[what]
    with sealed_pair() as pair:
        # Protocol and ports are there from byte 38 on.
        assert not any(passes(*pair, frame[:size]) for size in range(34))
        assert {passes(*pair, frame[:size]) for size in range(38, len(frame))} <= {what in PASSING}


def leads_to_the_host(frame):
    """Whether gvproxy would take a frame for its API or the host's loopback: said once more."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return False
    target = socket.inet_ntoa(frame[30:34])
    if target == HOST_ALIAS_IP or target.split(".")[0] in {"0", "127"}:
        return True
    header = (frame[14] & 0xF) * 4
    port = frame[14 + header + 2 : 14 + header + 4]
    split = struct.unpack_from("!H", frame, 20)[0] & 0x3FFF
    return target == GATEWAY_IP and frame[23] == 6 and (split != 0 or port == b"\x00P")


@given(
    which=st.sampled_from(sorted({**PASSING, **STOPPED})),
    changes=st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 80),
)
@example(which="a name by TCP", changes=[(37, 80)], cut=0)
def test_no_change_of_a_frame_brings_it_to_the_host(which, changes, cut):
    frame = bytearray({**PASSING, **STOPPED}[which])
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    frame = bytes(frame[: len(frame) - cut])
    with sealed_pair() as pair:
        if leads_to_the_host(frame):
            assert not passes(*pair, frame)


def test_nobody_takes_the_filter_off_again():
    with sealed_pair() as (_, receiver):
        for option in (27, 26):  # SO_DETACH_FILTER, SO_ATTACH_FILTER
            with pytest.raises(PermissionError):
                receiver.setsockopt(socket.SOL_SOCKET, option, bytes(16))


def test_the_filter_is_as_the_kernel_takes_it():
    assert len(program()) % 8 == 0 and len(program()) // 8 < 64


def test_this_host_can_have_it(qemu_binary):
    """Where it cannot, the tests below would prove nothing."""
    assert seal.problem() is None


# --- before the real gvproxies ------------------------------------------------------------------


@pytest.fixture
def gvproxy(any_gvproxy):
    """Return a function that starts a gvproxy with one forward, and gives the guest's end of it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunDir()).path
        allocator = stack.enter_context(PortAllocator())

        def start():
            (lease,) = allocator.acquire()
            port = ExposedPort(internal=8080, external=lease.port)
            wiring = GvproxyWiring((port,), find_gvproxy(str(any_gvproxy)), folder, allocator)
            stack.callback(wiring.stop)
            wiring.start([lease.fileno()])
            return wiring, socket.socket(fileno=os.dup(wiring._qemu_fd))

        yield start


def answers(guest, *frames, seconds=0.5):
    """Return the frames that come back until the gateway answers a ping that is sent last."""
    for frame in (*frames, ping(GATEWAY_IP)):
        guest.send(frame)
    came, deadline = [], time.monotonic() + 60
    guest.setblocking(True)
    while time.monotonic() < deadline:
        ready, _, _ = select.select([guest], [], [], seconds)
        if not ready and any(is_pong(frame) for frame in came):
            break
        if ready:
            came.append(guest.recv(65536))
    assert any(is_pong(frame) for frame in came)
    return [frame for frame in came if not is_pong(frame)]


def is_pong(frame):
    return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0


def accepted(frames):
    """Whether one of them accepts a connection."""
    return any(f[23:24] == b"\x06" and f[47] & 0x3F == SYN | ACK for f in frames)


def asks(guest):
    """Teach gvproxy the guest's address, as any first packet does."""
    guest.send(arp(GATEWAY_IP))


def test_the_api_answers_an_unsealed_guest(gvproxy, unsealed):
    """So the next test can see what it denies."""
    _, guest = gvproxy()
    with guest:
        asks(guest)
        assert accepted(answers(guest, STOPPED["the API"]))


def test_a_sealed_gvproxy_never_hears_of_the_api(gvproxy, ungated, unwalled):
    """By the filter alone."""
    _, guest = gvproxy()
    with guest:
        asks(guest)
        attempts = [frame for what, frame in STOPPED.items() if "API" in what or "fragment" in what]
        assert not accepted(answers(guest, *attempts))


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def service(request):
    """Return a UDP service of the host."""
    with socket.socket(type=socket.SOCK_DGRAM) as service:
        service.bind((request.param, 0))
        service.settimeout(5)
        yield service


TO_THE_HOST = [HOST_ALIAS_IP, NOBODY, "127.0.0.1", "127.255.255.255"]


def test_an_unsealed_guest_reaches_udp_services_of_the_host(gvproxy, unsealed, ungated, service):
    """So the next test can see what it denies."""
    _, guest = gvproxy()
    with guest:
        asks(guest)
        guest.send(udp(NOBODY, service.getsockname()[1], b"let me in"))
        assert service.recv(100) == b"let me in"


def test_a_sealed_guest_reaches_no_udp_service_of_the_host(gvproxy, ungated, unwalled, service):
    """Likewise."""
    _, guest = gvproxy()
    with guest:
        asks(guest)
        answers(guest, *(udp(host, service.getsockname()[1]) for host in TO_THE_HOST))
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(100)


def test_a_gvproxy_whose_end_cannot_be_fetched_is_not_used(gvproxy, ungated, monkeypatch):
    """Faked: the host lets us fetch a child's descriptor, and gvproxy's not."""

    def refuse(_pidfd, _number):
        raise PermissionError(1, "pidfd_getfd: Operation not permitted")

    assert seal.problem() is None
    monkeypatch.setattr(seal.foreign, "fetch", refuse)
    with pytest.raises(LaunchError, match=r"no connection behind a filter.*not permitted"):
        gvproxy()


def test_a_host_without_the_filter_says_what_it_lacks(monkeypatch):
    """Faked: what pidfd_getfd(2) answers in a container without CAP_SYS_PTRACE."""

    def refuse(_pidfd, _number):
        raise PermissionError(1, "pidfd_getfd: Operation not permitted")

    monkeypatch.setattr(seal.foreign, "fetch", refuse)
    assert "pidfd_getfd: Operation not permitted" in seal.problem.__wrapped__()
    monkeypatch.setattr(seal.sys, "platform", "darwin")
    assert "darwin" in seal.problem.__wrapped__()


def test_where_no_proc_tells_of_sockets_there_is_no_filter_and_that_is_said(monkeypatch):
    """Faked: a host without /proc. Else each start of a gvproxy would fail."""

    def refuse(path):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(seal.os, "listdir", refuse)
    assert "No such file" in seal.problem.__wrapped__()

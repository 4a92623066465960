"""How long an allocator tries and waits; its clock is the test's."""

import socket
import types

import pytest

from pytest_vmports.errors import PortInUseError, PortsExhaustedError
from pytest_vmports.leases import FreePortFactory, PortAllocator, free_port, leased_ports
from pytest_vmports.leases import allocator as port_allocator
from pytest_vmports.leases import guard as port_guard
from pytest_vmports.leases.free_ports import process_allocator

FIRST = 5600


class Clock:
    """Time passes only while the allocator sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.began = self.now
        self.due = []

    @property
    def passed(self):
        return self.now - self.began

    def at(self, seconds, action):
        self.due.append((seconds, action))

    def sleep(self, seconds):
        self.now += seconds
        for entry in [entry for entry in self.due if self.passed >= entry[0]]:
            self.due.remove(entry)
            entry[1]()

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake = types.SimpleNamespace(sleep=clock.sleep, now=clock.monotonic)
    monkeypatch.setattr(port_allocator, "clock", fake)
    return clock


@pytest.fixture(autouse=True)
def own_state_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path))
    process_allocator.cache_clear()  # it may have another test's folder
    yield
    process_allocator.cache_clear()


@pytest.fixture
def allocator():
    with PortAllocator(port_range=(FIRST, FIRST + 4)) as allocator:
        yield allocator


@pytest.fixture
def rounds(allocator, monkeypatch):
    """Return what each look at all candidates found."""
    look, found = allocator._one_round, []

    def noted(*request):
        found.append(look(*request))
        return found[-1]

    monkeypatch.setattr(allocator, "_one_round", noted)
    return found


def bound(host, port, protocol="tcp"):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    stranger = socket.socket(type=kind)
    try:
        stranger.bind((host, port))
    except OSError:
        stranger.close()
        raise
    return stranger


def test_a_holder_is_told_of_once_and_only_after_a_moment(allocator, clock):
    lease, told = allocator.acquire_fixed(FIRST, label="before"), []
    clock.at(2.0, lease.release)
    with allocator.acquire_fixed(
        FIRST, on_wait=lambda holder: told.append((clock.passed, holder.test))
    ):
        ((after, holder),) = told
    assert holder == "before"
    assert 0.25 <= after < 0.3


def test_a_wait_that_ends_within_the_moment_is_not_told(allocator, clock):
    lease, told = allocator.acquire_fixed(FIRST), []
    clock.at(0.2, lease.release)
    allocator.acquire_fixed(FIRST, on_wait=told.append).release()
    assert told == []


@pytest.mark.parametrize("timeout", [0, 3, 90])
def test_a_fixed_port_is_waited_for_as_long_as_was_said(allocator, clock, timeout):
    with (
        allocator.acquire_fixed(FIRST),
        pytest.raises(PortInUseError, match=rf"\(waited {timeout} s\)"),
    ):
        allocator.acquire_fixed(FIRST, timeout=timeout)
    # At least a few tries: somebody may just have been reading who holds it.
    assert max(timeout, 0.05) <= clock.passed < timeout + 0.1


def test_a_stranger_that_is_just_ending_is_given_time(allocator, clock):
    stranger = bound("127.0.0.1", FIRST)
    clock.at(0.9, stranger.close)
    with allocator.acquire_fixed(FIRST, timeout=0) as lease:
        assert lease.held


def test_a_stranger_that_stays_is_not_waited_for_as_long_as_a_lease(allocator, clock):
    with bound("127.0.0.1", FIRST), pytest.raises(PortInUseError, match="cannot be named"):
        allocator.acquire_fixed(FIRST, timeout=60)
    assert 1 <= clock.passed < 1.1
    assert allocator.leases() == []


def test_no_second_look_where_others_hold_everything(allocator, clock, rounds):
    with PortAllocator(port_range=(FIRST, FIRST + 4)) as other:
        other.acquire(5)
        with pytest.raises(PortsExhaustedError, match="5 are leased"):
            allocator.acquire()
    assert rounds == [([], False)]
    assert clock.passed == 0


def test_no_second_look_where_strangers_have_what_is_missing(allocator, clock, rounds):
    with bound("127.0.0.1", FIRST), pytest.raises(PortsExhaustedError):
        allocator.acquire(5)
    assert rounds == [([], False)]


def test_a_request_that_only_rivals_stand_against_is_tried_six_times(allocator, clock, rounds):
    with PortAllocator(port_range=(FIRST, FIRST + 4)) as other:
        other.acquire(2)
        with pytest.raises(PortsExhaustedError, match="2 are leased"):
            allocator.acquire(4)
    assert rounds == [([], True)] * 6
    assert 0 < clock.passed <= 5 * 0.02


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("way", ["free", "fixed"])
def test_a_lease_is_for_the_address_that_was_asked_for(allocator, clock, way, protocol):
    """A stranger on that address keeps it away, and one on another does not."""

    def lease_on(host):
        if way == "fixed":
            return allocator.acquire_fixed(FIRST + 4, protocol=protocol, host=host)
        return allocator.acquire(protocol=protocol, host=host)[0]

    for port in range(FIRST, FIRST + 4):  # the last one is left
        allocator.acquire_fixed(port, protocol=protocol)
    with bound("127.0.0.2", FIRST + 4, protocol):
        with pytest.raises((PortInUseError, PortsExhaustedError)):
            lease_on("127.0.0.2")
        with lease_on("127.0.0.3") as lease:
            assert (lease.port, lease.host) == (FIRST + 4, "127.0.0.3")
            assert {i.host for i in allocator.leases() if i.port == lease.port} == {"127.0.0.3"}


@pytest.mark.parametrize("ipv6", [True, False])
@pytest.mark.parametrize("way", ["free", "fixed"])
def test_the_guard_stands_on_the_leases_address_alone(allocator, monkeypatch, way, ipv6):
    if not ipv6:
        monkeypatch.setattr(port_guard, "dual_stack", lambda: False)
    if way == "fixed":
        lease = allocator.acquire_fixed(FIRST, host="127.0.0.2")
    else:
        (lease,) = allocator.acquire(host="127.0.0.2")
    with pytest.raises(OSError, match="in use"):
        bound("127.0.0.2", lease.port)
    bound("127.0.0.1", lease.port).close()
    lease.release()


def test_all_that_give_free_ports_pass_the_address_on(allocator):
    with FreePortFactory(allocator) as factory, leased_ports(host="127.0.0.3"):
        factory(host="127.0.0.2")
        free_port(host="127.0.0.4")
        hosts = {info.host for info in allocator.leases()}
    assert hosts == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


def test_an_address_that_needs_privileges_is_explained(allocator, monkeypatch):
    sockets = []

    class Refusing(socket.SocketType):
        def bind(self, _address):
            sockets.append(self)
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(port_guard, "_Guard", Refusing)
    with pytest.raises(port_guard.PortError, match=rf"cannot bind 127.0.0.1:{FIRST}/tcp: Perm"):
        allocator.acquire_fixed(FIRST)
    assert [guard.fileno() for guard in sockets] == [-1]
    assert allocator.leases() == []

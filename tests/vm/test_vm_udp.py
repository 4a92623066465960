"""UDP of a guest without network: real VMs, asked over real sockets."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import time

import pytest
from vm_helpers import GUEST, ask_tcp, ask_udp, serve

from pytest_vmports.errors import MachineError
from pytest_vmports.leases import PortAllocator
from pytest_vmports.models import ExposedPort

# One read a datagram, and room for the longest.
LONG_ECHO = "while :; do nc -u -l -p 7000 -e dd bs=65536 count=1; done 2>/dev/null &\n"


@pytest.fixture(scope="module")
def host_services():
    """A TCP and a UDP server on the host's loopback that the guest has no business to reach."""
    with host_pair() as pair:
        yield pair


@contextlib.contextmanager
def host_pair():
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        tcp.setblocking(False)
        udp.setblocking(False)
        yield tcp, udp


def knock(tcp, udp):
    """Return shell text that tries all neighbours of the guest for a way to the host."""
    return f"""
    for host in 192.168.127.1 192.168.127.253 192.168.127.254; do
      (nc -w 2 $host {tcp.getsockname()[1]} </dev/null && echo "$host let me in") &
      nc -u $host {udp.getsockname()[1]} -e echo knock &
      nc -u -p 5353 $host {udp.getsockname()[1]} -e echo knock &
    done
    wait
    """


@pytest.fixture(scope="module")
def vm(boot, host_services):
    setup = knock(*host_services) + serve(8080, "5353/udp") + LONG_ECHO
    with boot(8080, "5353/udp", "7000/udp", setup=setup) as vm:
        yield vm


def test_the_guest_answers_udp_and_tcp_and_still_reaches_nothing(vm, host_services):
    assert "restrict=on" in vm.command_line
    assert ask_udp(vm, 5353, b"a question") == b"a question"
    assert ask_tcp(vm, 8080, b"over tcp") == b"over tcp"
    tcp, udp = host_services
    assert "let me in" not in vm.console
    with pytest.raises(BlockingIOError):
        tcp.accept()
    with pytest.raises(BlockingIOError):
        udp.recv(100)


@pytest.mark.slow
def test_the_same_guest_with_network_would_have_reached_both(boot):
    """Show that the test above can see what it denies."""
    with (
        host_pair() as (tcp, udp),
        boot(backend="usernet", allow_network=True, setup=knock(tcp, udp)) as vm,
    ):
        assert "192.168.127.1 let me in" in vm.console
        udp.settimeout(10)
        assert udp.recv(100) == b"knock\n"


@pytest.mark.parametrize("size", [1, 4000, 65507])
def test_a_datagram_comes_back_whole(vm, size):
    payload = secrets.token_bytes(size)
    with vm.connect("7000/udp", timeout=2) as client:
        for _ in range(10):
            client.send(payload)
            with contextlib.suppress(TimeoutError):
                assert client.recv(65536) == payload
                return
    pytest.fail("no answer")


def test_forwards_come_and_go_while_the_guest_runs(boot):
    """As they do for a guest that is kept ready for the next test."""
    with (
        PortAllocator() as allocator,
        boot(8080, "5353/udp", setup=GUEST, fresh_boot=False) as vm,
    ):
        assert ask_udp(vm, 5353, b"as it started") == b"as it started"
        before = vm["5353/udp"]
        first, monitor = vm._machine.cards.first, vm._machine.monitor
        for port in first.ports:
            first.remove_forward(port, None, monitor)
        with socket.socket(type=socket.SOCK_DGRAM) as taker:
            taker.bind(before.address)  # so it is free
        tcp, udp = allocator.acquire() + allocator.acquire(protocol="udp")
        ports = (
            ExposedPort(internal=8080, external=tcp.port),
            ExposedPort(internal=5353, external=udp.port, protocol="udp"),
        )
        plan = vm._machine.plan.with_forwards(ports)
        vm._machine.hand_over(plan, [tcp.fileno(), udp.fileno()], time.monotonic())
        assert vm.ports == ports
        assert ask_tcp(vm, 8080, b"by another port") == b"by another port"
        assert ask_udp(vm, 5353, b"by another port") == b"by another port"


def test_a_guest_that_started_without_udp_is_not_given_udp_it_could_not_answer(boot):
    with boot(8080, setup=GUEST, fresh_boot=False) as vm:
        port = ExposedPort(internal=53, external=20053, protocol="udp")
        with pytest.raises(MachineError, match="needs a UDP port from its start on"):
            vm._machine.cards.first.add_forward(port, 0, vm._machine.monitor)


def test_a_guest_saved_without_udp_ports_can_be_restored_with_them(boot):
    setup = serve(8080, "5353/udp") + "# of this test alone, so that its first VM saved it\n"
    with boot(8080, setup=setup, fresh_boot=False) as vm:
        without = saved_in(vm)
    with boot(8080, "5353/udp", setup=setup, fresh_boot=False) as vm:
        assert saved_in(vm) == without
        assert ask_udp(vm, 5353, b"restored") == b"restored"
        assert ask_tcp(vm, 8080, b"restored") == b"restored"


def saved_in(vm):
    return re.search(r"mem-path=(\S+)/ram", vm.command_line)[1]

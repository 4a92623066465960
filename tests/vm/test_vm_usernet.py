"""A guest behind QEMU's user network, and one without any: real VMs, asked over real sockets."""

from __future__ import annotations

import os
import socket

import pytest
from vm_helpers import (
    addresses,
    ask_tcp,
    ask_udp,
    assert_a_stranger_is_named,
    fixed_port,
    listening,
    serve,
    where_strangers_are,
)

from pytest_vmports import PortMapping
from pytest_vmports.errors import PortInUseError

FIXED = fixed_port()
# Two servers that say which they are and hang up.
NAMED = """
nc -lk -p 9090 -e echo 9090 &
nc -lk -p 7000 -e echo 7000 &
"""


# The example of the README as it stands there, but for the number of the fixed port: every process
# has its own, so that none waits for another.
@pytest.mark.vmports(
    8080,
    PortMapping(internal=53, protocol="udp"),
    f"{FIXED}:5432",
    setup="nc -lk -p 8080 -e cat &",
)
def test_the_example_of_the_readme_works(qemu_binary, vm_with_ports):
    with vm_with_ports.connect(8080) as s:  # socket to the forwarded port
        s.sendall(b"hi\n")
        assert s.recv(16) == b"hi\n"
    assert vm_with_ports[8080].url == f"http://127.0.0.1:{vm_with_ports[8080].external}"
    assert vm_with_ports[53].url == f"udp://127.0.0.1:{vm_with_ports[53].external}"
    assert vm_with_ports[5432].external == FIXED


@pytest.fixture(scope="module")
def host_service():
    """A server on the host's loopback that the guest has no business to reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def knock(server):
    """Return shell text that tries both addresses of the host."""
    port = server.getsockname()[1]
    return f"""
    for host in 192.168.127.1 192.168.127.254; do
      (nc -w 1 $host {port} </dev/null && echo "$host let me in") &
    done
    wait
    """


@pytest.fixture(scope="module")
def vm(boot, host_service):
    setup = knock(host_service) + serve(8080, "5353/udp") + NAMED
    ports = (8080, "9090", "5353/udp", f"{fixed_port()}:7000")
    with boot(*ports, setup=setup, wait_for="all") as vm:
        yield vm


def test_tcp_is_answered(vm):
    assert ask_tcp(vm, 8080, b"over tcp") == b"over tcp"


@pytest.mark.parametrize("port", [9090, 7000])
def test_each_port_leads_to_its_own_server(vm, port):
    with vm.connect(port) as connection:
        assert connection.recv(16) == b"%d\n" % port


def test_udp_is_answered(vm):
    assert ask_udp(vm, 5353, b"a datagram") == b"a datagram"


def test_it_listens_on_the_asked_ports_and_on_no_other(vm):
    """A restricted guest's UDP ports are this process's, which relays them."""
    by_us = listening(os.getpid()) & addresses(p for p in vm.ports if p.protocol == "udp")
    assert listening(vm.pids["QEMU"]) | by_us == addresses(vm.ports)
    assert vm.pids.keys() == {"QEMU"}


def test_a_guest_without_network_reaches_nothing_on_the_host(vm, host_service):
    assert "let me in" not in vm.console
    with pytest.raises(BlockingIOError):  # nobody is waiting
        host_service.accept()


@pytest.mark.slow
def test_the_same_guest_with_network_would_have_reached_it(boot):
    """Show that the test above can see what it denies."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        boot(backend="usernet", allow_network=True, setup=knock(server)) as vm,
    ):
        assert "192.168.127.1 let me in" in vm.console


def test_without_ports_and_network_there_is_no_card(boot):
    with boot(setup="echo cards: $(ls /sys/class/net)") as vm:
        assert "-nic none" in vm.command_line
        assert "cards: lo\n" in vm.console.replace("\r", "")
        assert listening(vm.pids["QEMU"]) == set()


def test_a_port_that_a_stranger_takes_is_replaced(boot):
    machines, setup = [], serve(8080, "5353/udp")
    with where_strangers_are(boot, 8080, "5353/udp", observe=machines.append, setup=setup) as vm:
        assert ask_tcp(vm, 8080, b"here now") == b"here now"
        assert ask_udp(vm, 5353, b"here too") == b"here too"
    assert [machine.milestones.refused is not None for machine in machines] == [True, False]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fixed_port_that_a_stranger_takes_is_an_error_that_names_it(boot, protocol):
    assert_a_stranger_is_named(boot, protocol, setup="true")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fixed_port_that_is_taken_before_starts_no_vm(boot, protocol):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortInUseError) as caught, boot(f"{port}:8080/{protocol}"):
            pass
    assert caught.value.port == port
    assert "pid " in caught.value.holder

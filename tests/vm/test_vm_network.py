"""VMs that share a network, and what a guest with network opens by itself: real VMs."""

from __future__ import annotations

import contextlib
import socket

import pytest
from vm_helpers import (
    GUEST,
    SHELL,
    SHELL_PORT,
    addresses,
    ask_shell,
    ask_tcp,
    fixed_port,
    host_service,
    listening,
    serve,
)

from pytest_vmports.constants import GATEWAY_IP, GUEST_IP, HOST_IP
from pytest_vmports.errors import GuestForwardError

SUM_PORT = 9001
SETUP = SHELL + serve(8080) + f"nc -lk -p {SUM_PORT} -e sha256sum &\n"
FORWARDER = f"http://{GATEWAY_IP}/services/forwarder"


@pytest.fixture(scope="module")
def pair(boot, gvproxy_089):
    """Return two VMs of one network: one without any other network, one behind gvproxy."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(
            boot(SHELL_PORT, 8080, network="backend", setup=SETUP, wait_for="all")
        )
        port = stack.enter_context(host_service(lambda c: c.sendall(b"for the second\n")))
        second = stack.enter_context(
            boot(
                SHELL_PORT, 8080, network="backend", setup=SETUP, wait_for="all",
                allow_network=True, gvproxy=str(gvproxy_089), host_ports={8000: port},
            )
        )  # fmt: skip
        yield first, second


def address_of(vm):
    return vm.lan_address


def test_each_has_an_address_of_its_own(pair):
    assert [address_of(vm) for vm in pair] == ["192.168.128.2", "192.168.128.3"]


def test_each_reaches_the_other_by_its_address(pair):
    first, second = pair
    for one, other in ((first, second), (second, first)):
        sent = ask_shell(one, f"echo from {address_of(one)} | nc -w 30 {address_of(other)} 8080")
        assert sent == f"from {address_of(one)}\n"


def test_megabytes_go_between_them_whole(pair):
    # One way at a time: an `nc` that sends does not receive meanwhile, and so against
    # an echo both ends could wait for each other to read.
    for one, other in (pair, pair[::-1]):
        said = ask_shell(
            one, "head -c 5000000 /dev/urandom >/tmp/data; sha256sum </tmp/data; "
            f"nc {address_of(other)} {SUM_PORT} </tmp/data",
        )  # fmt: skip
        sent, arrived = said.splitlines()
        assert sent == arrived


def test_each_keeps_its_own_forwards(pair):
    for vm in pair:
        assert ask_tcp(vm, 8080, b"over its own") == b"over its own"
        there = set().union(*(listening(pid) for pid in vm.pids.values()))
        assert there == addresses(vm.ports)


def test_the_host_is_let_in_to_the_one_that_asked_and_not_to_its_neighbour(pair):
    first, second = pair
    assert ask_shell(second, f"nc {HOST_IP} 8000") == "for the second\n"
    assert ask_shell(first, f"nc -w 2 {HOST_IP} 8000") == ""


def test_the_network_leads_nowhere_else(pair):
    """Not through the neighbour, and not to the host."""
    first, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        ask_shell(first, f"nc -w 2 {HOST_IP} {port}; nc -w 2 192.168.128.254 {port}")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.slow
def test_a_network_of_another_name_is_apart_and_outlives_a_reset(boot_and_lines, pair):
    """Its VMs have no forwards and no other network. Those that ask for another are no clones."""
    boot, lines = boot_and_lines
    first, _ = pair
    setup = "nc -lk -p 9000 -e echo here I am &"
    with boot(network="bare", setup=setup, fresh_boot=False) as one:
        assert one.origin == "cloned"
        # Its address is the first's: they are apart, or this would be a clash.
        assert address_of(one) == address_of(first)
        said = one.run("ping -c 1 -w 2 192.168.128.3", check=False).stdout
        assert "100% packet loss" in said
        ask = f"nc -w 20 {address_of(one)} 9000"
        with boot(network="bare", setup=ask, fresh_boot=False) as other:
            assert "here I am" in other.console
            assert address_of(other) == "192.168.128.3"
        one.reset()
        with boot(network="bare", setup=ask, fresh_boot=False) as third:
            assert "here I am" in third.console
            assert address_of(third) == "192.168.128.3"  # which was given back
        assert {vm.origin for vm in (one, other, third)} == {"booted"}
    (line,) = [line for line in lines if " so far" not in line]
    assert "on a shared network boots from cold: while it got ready it asked for" in line
    assert address_of(one) in line


def test_a_host_port_that_the_guest_opens_ends_and_fails_the_test_by_name(
    boot, any_gvproxy, unsealed, ungated
):
    """Whoever ends the VM is told, and a forward that was asked for is no reason."""
    port = fixed_port()
    local = f"127.0.0.1:{port}"
    body = f'{{"local":"{local}","remote":"{GUEST_IP}:{SHELL_PORT}","protocol":"tcp"}}'
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(
            boot(
                SHELL_PORT,
                setup=GUEST,
                fresh_boot=False,
                allow_network=True,
                gvproxy=str(any_gvproxy),
            )
        )
        ask_shell(vm, f"wget -O- --post-data '{body}' {FORWARDER}/expose")
        socket.create_connection(("127.0.0.1", port), timeout=10).close()  # so it was open
        with pytest.raises(GuestForwardError) as caught:
            stack.close()
    assert caught.value.forwards == f"{local}/tcp"
    assert "take allow_network away" in str(caught.value)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)

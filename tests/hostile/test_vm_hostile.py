"""What a real guest with network tries on gvproxy, of both generations, and what it was given."""

from __future__ import annotations

import socket

import pytest
from vm_helpers import (
    GUEST,
    SHELL_PORT,
    addresses,
    ask_shell,
    ask_tcp,
    ask_udp,
    fixed_port,
    host_service,
    listening,
)

from pytest_vmports.constants import GATEWAY_IP, GUEST_IP, HOST_ALIAS_IP

FORWARDER = f"http://{GATEWAY_IP}/services/forwarder"


@pytest.fixture(scope="module")
def vm(boot, any_gvproxy):
    """Return a VM under the strictest rules, a clone: what holds for it holds for a booted one."""
    with boot(
        SHELL_PORT, 8080, "5353/udp", allow_network=True, strict_network=True, setup=GUEST,
        gvproxy=str(any_gvproxy), fresh_boot=False,
    ) as vm:  # fmt: skip
        assert vm.origin == "cloned"
        yield vm


def asking(call, **body):
    """Return shell text that asks gvproxy's API for something."""
    text = ",".join(f'"{name}":"{value}"' for name, value in body.items())
    post = f"--post-data '{{{text}}}'" if body else ""
    return f"wget -T 2 -q -O- {post} {FORWARDER}/{call} 2>/dev/null || echo no answer"


def together(vm, *commands):
    """Run commands in the guest at the same time, as each waits in vain; return what they say."""
    return ask_shell(vm, "".join(f"({one}) & " for one in commands) + "wait").splitlines()


def assert_unanswered(vm, *demands):
    __tracebackhide__ = True
    assert together(vm, *demands) == ["no answer"] * len(demands)


def test_no_file_of_the_host_is_deleted(vm, tmp_path):
    victim = tmp_path / "precious"
    victim.write_text("still here")
    local = {"local": victim, "remote": f"tcp://{GUEST_IP}:22", "protocol": "unix"}
    assert_unanswered(vm, asking("expose", **local), asking("unexpose", **local))
    assert victim.read_text() == "still here"


def test_no_port_of_the_host_is_opened(vm):
    places = {
        f"{host}:{fixed_port()}": protocol
        for host in ("127.0.0.1", "0.0.0.0") for protocol in ("tcp", "udp")
    }  # fmt: skip
    demands = [
        asking("expose", local=local, remote=f"{GUEST_IP}:22", protocol=protocol)
        for local, protocol in places.items()
    ]
    assert_unanswered(vm, *demands)
    assert listening(vm.pids["gvproxy"]) == addresses(vm.ports)


def test_its_own_forwards_stay(vm):
    demands = [
        asking("unexpose", local=f"{port.host}:{port.external}", protocol=port.protocol)
        for port in (vm[8080], vm[5353])
    ]
    assert_unanswered(vm, *demands, asking("all"))
    assert listening(vm.pids["gvproxy"]) == addresses(vm.ports)
    assert ask_tcp(vm, 8080, b"mine") == b"mine"
    assert ask_udp(vm, 5353, b"mine too") == b"mine too"


def test_another_user_of_the_guest_is_not_heard_either(vm):
    said = ask_shell(vm, f"su nobody -s /bin/sh -c 'wget -T 2 -q -O- {FORWARDER}/all' || echo no")
    assert said.endswith("no\n") and "local" not in said


def test_services_of_the_hosts_loopback_hear_nothing(vm):
    heard = []
    with (
        host_service(lambda connection: heard.append(connection.recv(100))) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        knocks = [
            f"echo let me in | nc {how} {address} {port}"
            for address in (HOST_ALIAS_IP, GATEWAY_IP)
            for how, port in (("-w 2", tcp), ("-u -w 1", udp.getsockname()[1]))
        ]
        together(vm, *knocks)
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(100)
    assert heard == []


def test_forwards_come_and_go_and_survive_a_restart(vm):
    added = vm.expose(9090)
    assert ask_tcp(vm, 9090, b"added") == b"added"
    moment = vm.snapshot()
    vm.restore(moment)
    assert ask_tcp(vm, 9090, b"after") == b"after" and vm[9090] == added
    assert_unanswered(vm, asking("all"))
    vm.unexpose(9090)

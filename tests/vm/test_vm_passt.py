"""A guest behind passt, with a network and without; TCP's semantics stand in test_vm_tcp.py."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from vm_helpers import (
    GUEST,
    SHELL_PORT,
    addresses,
    alive,
    ask_shell,
    ask_tcp,
    ask_udp,
    assert_a_stranger_is_named,
    fixed_port,
    listening,
    remains,
    until,
    where_strangers_are,
)

from pytest_vmports.constants import GATEWAY_IP, HOST_ALIAS_IP
from pytest_vmports.errors import (
    MachineDiedError,
    MachineError,
    NetworkUnseenError,
)

pytestmark = pytest.mark.usefixtures("passt")

NETWORKS = {"without network": {}, "with network": {"allow_network": True}}
PORTS = SHELL_PORT, 8080, 9090, "5353/udp"


@pytest.fixture(scope="module", params=NETWORKS)
def by_passt(request):
    """Return the settings that choose passt, with a network or without."""
    return {"backend": "passt", "setup": GUEST, **NETWORKS[request.param]}


@pytest.fixture(scope="module")
def vm(boot, by_passt):
    """Return a clone with forwards of both protocols."""
    fixed = fixed_port()
    with boot(*PORTS, f"{fixed}:7000", fresh_boot=False, wait_for="8080", **by_passt) as vm:
        assert vm[7000].external == fixed
        yield vm


def test_passt_wires_it_and_binds_the_asked_ports_alone(vm):
    assert vm.wiring == "passt" and vm.origin in {"cloned", "restored"}
    assert vm.pids.keys() == {"QEMU", "passt"}
    assert listening(vm.pids["passt"]) == addresses(vm.ports)
    assert listening(vm.pids["QEMU"]) == set()


def test_it_is_in_a_sandbox_of_its_own(vm):
    status = {}
    with open(f"/proc/{vm.pids['passt']}/status") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            status[name] = value.split()
    # Two filters: ours and its own. Of rights it has none.
    assert (status["Seccomp"], status["Seccomp_filters"]) == (["2"], ["2"])
    assert {status[name][0] for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}


def test_tcp_and_udp_are_answered_and_a_client_is_told_from_another(vm):
    assert ask_tcp(vm, 8080, b"over tcp") == b"over tcp"
    with vm.connect("5353/udp") as one, vm.connect("5353/udp") as other:
        for client, said in ((one, b"one"), (other, b"other"), (one, b"again")):
            client.settimeout(0.5)

            def answered(client=client, said=said):
                client.send(said)
                with contextlib.suppress(TimeoutError):
                    return client.recv(100) == said
                return False

            until(answered, 60, "the guest's echo")


def test_no_port_comes_or_goes_while_the_guest_runs(vm):
    for ask in (lambda: vm.expose(9999), lambda: vm.expose("9999/udp")):
        with pytest.raises(MachineError, match=r"while the guest runs: passt.*declare the port"):
            ask()
    assert ask_tcp(vm, 8080, b"still") == b"still"


def test_after_a_reset_and_after_a_restore_it_is_as_before(vm):
    assert ask_shell(vm, "echo here >/tmp/here") == ""
    moment, ports = vm.snapshot(), list(vm.ports)
    vm.reset()
    assert ask_shell(vm, "ls /tmp/here 2>/dev/null") == ""
    vm.restore(moment)
    assert ask_shell(vm, "cat /tmp/here") == "here\n"
    assert list(vm.ports) == ports
    assert ask_udp(vm, 5353, b"a datagram") == b"a datagram"


def test_what_a_guest_asks_of_the_network_is_seen_where_it_has_one(vm, by_passt):
    for nowhere in (GATEWAY_IP, HOST_ALIAS_IP, "169.254.169.254"):
        assert vm.run(f"nc -w 20 {nowhere} 80 </dev/null", check=False).returncode == 1
    if "allow_network" in by_passt:
        refused = [(one.address, one.port, one.protocol) for one in vm.network_log.refused]
        assert refused == [("169.254.169.254", 80, "tcp")]
    else:
        with pytest.raises(NetworkUnseenError, match="passt without allow_network"):
            _ = vm.network_log


def test_nothing_is_left_of_one_that_was_killed(boot, by_passt):
    with (
        contextlib.suppress(MachineDiedError),
        boot(*PORTS, fresh_boot=False, **by_passt) as vm,
    ):
        pids, places = dict(vm.pids), [port.address for port in vm.ports]
        os.kill(pids["passt"], signal.SIGKILL)
        with pytest.raises(MachineDiedError, match="passt ended on its own with signal 9"):
            until(lambda: vm.run("true") and False, 60, "its end")
    assert not any(map(alive, pids.values()))
    assert remains(pids.values(), places) == []


def test_a_port_that_a_stranger_takes_is_replaced(boot, by_passt):
    with where_strangers_are(boot, 8080, "5353/udp", fresh_boot=False, **by_passt) as vm:
        assert ask_tcp(vm, 8080, b"here now") == b"here now"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fixed_port_that_a_stranger_takes_is_an_error_that_names_it(boot, by_passt, protocol):
    assert_a_stranger_is_named(boot, protocol, 9090, **by_passt)


def test_two_vms_and_a_shared_network_beside_it(boot, by_passt):
    settings = {**by_passt, "network": "beside-passt", "fresh_boot": False}
    with boot(SHELL_PORT, 8080, **settings) as one, boot(SHELL_PORT, 8080, **settings) as other:
        for vm in (one, other):
            assert ask_tcp(vm, 8080, b"by its forward") == b"by its forward"
        assert "1 packets received" in one.run(f"ping -c 1 -w 20 {other.lan_address}").stdout


KILLED = """
import os, signal

import pytest

@pytest.mark.vmports(8080, backend="passt", setup="nc -lk -p 8080 -e cat &", template=False)
def test_that_is_killed(vm_with_ports):
    with open("pids", "w") as file:
        print(*vm_with_ports.pids.values(), file=file)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_whoever_started_it_be_that_by_a_signal_that_nobody_hears(pytester):
    pytester.makepyfile(KILLED)
    assert pytester.runpytest_subprocess("-p", "no:xdist").ret == -signal.SIGKILL
    pids = [int(pid) for pid in (pytester.path / "pids").read_text().split()]
    assert len(pids) == 2
    until(lambda: not any(map(alive, pids)), 60, f"{pids} are alive")

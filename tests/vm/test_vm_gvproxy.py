"""A guest behind gvproxy, of the generation with a configuration file and of the one without."""

from __future__ import annotations

import pytest
from vm_helpers import (
    GUEST,
    addresses,
    ask_tcp,
    ask_udp,
    assert_a_stranger_is_named,
    fixed_port,
    listening,
    serve,
    where_strangers_are,
)

from pytest_vmports.constants import GUEST_IP


@pytest.fixture(scope="module")
def gvproxy(any_gvproxy):
    """Return the settings that choose a gvproxy."""
    return {"allow_network": True, "gvproxy": str(any_gvproxy)}


@pytest.fixture(scope="module")
def vm(boot, gvproxy):
    """Return a VM with every kind of forward."""
    setup = serve(8080, "5353/udp") + "nc -lk -p 9090 -e echo 9090 &\nnc -lk -p 7000 -e echo 7000 &"
    fixed = fixed_port()
    ports = (8080, 9090, "5353/udp", f"{fixed}:7000")
    with boot(*ports, **gvproxy, setup=setup, wait_for="all") as vm:
        assert vm[7000].external == fixed
        yield vm


@pytest.fixture(scope="module")
def second(boot, gvproxy, vm):
    """Return a VM without forwards that runs while ``vm`` does."""
    setup = serve("5353/udp") + "ping -c 1 -w 5 192.168.127.1 && echo the network is there"
    with boot(**gvproxy, setup=setup) as second:
        yield second


def test_gvproxy_wires_it(vm):
    assert vm.wiring == "gvproxy"
    assert vm.pids.keys() == {"QEMU", "gvproxy"}


def test_tcp_is_answered(vm):
    assert ask_tcp(vm, 8080, b"over tcp") == b"over tcp"


def test_udp_is_answered(vm):
    assert ask_udp(vm, 5353, b"a datagram") == b"a datagram"


@pytest.mark.parametrize("port", [9090, 7000])
def test_each_port_leads_to_its_own_server(vm, port):
    with vm.connect(port) as connection:
        assert connection.recv(16) == b"%d\n" % port


def test_gvproxy_forwards_the_asked_ports_and_no_other(vm):
    """So also none for ssh, which it adds on its own unless told otherwise."""
    there = {
        (f["protocol"], f["local"], f["remote"]) for f in vm._machine.cards.first._api.forwards()
    }
    assert there == {
        (p.protocol, f"{p.host}:{p.external}", f"{GUEST_IP}:{p.internal}") for p in vm.ports
    }


def test_it_listens_on_the_asked_ports_and_on_no_other(vm):
    assert listening(vm.pids["gvproxy"]) == addresses(vm.ports)
    assert listening(vm.pids["QEMU"]) == set()


def test_network_without_forwards_has_none(second):
    assert "the network is there" in second.console
    assert second._machine.cards.first._api.forwards() == []
    assert listening(second.pids["gvproxy"]) == set()


def test_two_vms_run_at_the_same_time(vm, second):
    assert second.pids["gvproxy"] != vm.pids["gvproxy"]
    assert ask_tcp(vm, 8080, b"still") == b"still"


def test_a_forward_of_udp_that_comes_when_there_was_none_is_answered(second):
    """Its answers are sent by us: what such a gvproxy sends by an address is held."""
    second.expose("5353/udp")
    assert ask_udp(second, 5353, b"a datagram") == b"a datagram"
    second.unexpose("5353/udp")


def test_a_port_that_a_stranger_takes_is_replaced(boot, gvproxy):
    settings = {"setup": GUEST, "fresh_boot": False, **gvproxy}
    with where_strangers_are(boot, 8080, "5353/udp", **settings) as vm:
        assert ask_tcp(vm, 8080, b"here now") == b"here now"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fixed_port_that_a_stranger_takes_is_an_error_that_names_it(boot, gvproxy, protocol):
    assert_a_stranger_is_named(boot, protocol, 9090, "5353/udp", setup="true", **gvproxy)

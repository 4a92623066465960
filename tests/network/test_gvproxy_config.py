"""gvproxy's configuration as a value, and what both generations of the real program make of it."""

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
import yaml
from nasty import EVERYTHING, NASTY
from test_choose import DNS, WEB

from pytest_vmports import ExposedPort, PortAllocator
from pytest_vmports.errors import (
    ForwardError,
    GuestForwardError,
    LaunchError,
    MachineError,
    PortInUseError,
)
from pytest_vmports.network import gvproxy
from pytest_vmports.network.exposed import ExposedPorts
from pytest_vmports.network.gvproxy import GvproxyWiring, card_args, config, port_of
from pytest_vmports.network.usernet import network_card
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.programs import Gvproxy, find_gvproxy
from pytest_vmports.system.run_dir import RunDir


def test_forwards_lead_from_the_hosts_address_to_the_guests():
    assert config([WEB, DNS])["stack"]["forwards"] == {
        "127.0.0.1:20417": "192.168.127.2:8080",
        "udp:127.0.0.1:20418": "192.168.127.2:53",
    }


def test_one_number_for_tcp_and_udp_is_two_forwards():
    both = [DNS.model_copy(update={"protocol": protocol}) for protocol in ("tcp", "udp")]
    assert len(config(both)["stack"]["forwards"]) == 2


def test_the_guests_address_belongs_to_its_card():
    stack = config([])["stack"]
    (card,) = stack["dhcpStaticLeases"].values()
    assert stack["dhcpStaticLeases"] == {"192.168.127.2": card}
    assert f"mac={card}," in network_card()[-1]


def test_the_guest_does_not_reach_the_hosts_loopback():
    stack = config([WEB])["stack"]
    assert stack["gatewayVirtualIPs"] == list(stack["nat"])
    assert "127.0.0.1" not in stack["nat"].values()


def test_nothing_forwards_to_ssh():
    assert "2222" not in json.dumps(config([WEB]))


def test_sockets_are_named_only_when_given():
    assert not {"interfaces", "services"} & set(config([]))
    named = config([], Path("/run/net.sock"), "/run/api.sock")
    assert named["interfaces"] == {"qemu": "unix:///run/net.sock"}
    assert named["services"] == "unix:///run/api.sock"


def test_the_value_is_the_same_as_json_and_as_yaml():
    value = config([WEB, DNS], "/run/net.sock", "/run/api.sock")
    assert json.loads(json.dumps(value)) == value
    assert yaml.safe_load(json.dumps(value)) == value
    assert yaml.safe_load(yaml.safe_dump(value)) == value


def test_a_test_of_its_own_launcher_gets_the_same_value():
    exposed = ExposedPorts([(WEB, None), (DNS, None)])
    assert exposed.gvproxy_config("/q", "/a") == config([WEB, DNS], "/q", "/a")


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("listen tcp 127.0.0.1:20417: bind: address already in use", WEB),
        ("listen udp 127.0.0.1:20418: bind: address already in use", DNS),
        ("listen tcp 127.0.0.1:2041: bind: address already in use", None),
        ("listen tcp 127.0.0.1:204170: bind: address already in use", None),
        ("20417 is a number and no port", None),
        ("", None),
    ],
)
def test_the_forward_that_a_message_names_is_found(text, port):
    assert port_of(text, (WEB, DNS)) == port


def test_one_number_for_tcp_and_udp_is_told_apart_by_the_message():
    tcp = ExposedPort(internal=53, external=20418)
    message = "listen {} 127.0.0.1:20418: bind: address already in use"
    assert port_of(message.format("udp"), (tcp, DNS)) == DNS
    assert port_of(message.format("tcp"), (DNS, tcp)) == tcp
    assert port_of("127.0.0.1:20418 is taken", (tcp, DNS)) == tcp


@pytest.fixture
def folder():
    """Return a private folder with a path short enough for sockets."""
    with RunDir() as run_dir:
        yield run_dir.path


@pytest.fixture
def allocator():
    with PortAllocator() as allocator:
        yield allocator


@pytest.fixture
def ports(allocator):
    """Return a TCP and a UDP forward on leased host ports."""
    (tcp,) = allocator.acquire()
    (udp,) = allocator.acquire(protocol="udp")
    return (
        ExposedPort(internal=8080, external=tcp.port),
        ExposedPort(internal=53, external=udp.port, protocol="udp"),
    )


@pytest.fixture
def start(any_gvproxy, folder, allocator):
    """Return a function that starts the real gvproxy with some forwards."""
    with contextlib.ExitStack() as stack:

        def start(*ports):
            wiring = GvproxyWiring(ports, find_gvproxy(str(any_gvproxy)), folder, allocator)
            stack.callback(wiring.stop)
            wiring.qemu_fds = wiring.start([])
            return wiring

        yield start


def listed(wiring):
    return {(f["local"], f["remote"], f["protocol"]) for f in wiring._api.forwards()}


def expected(ports):
    return {(f"127.0.0.1:{p.external}", f"192.168.127.2:{p.internal}", p.protocol) for p in ports}


def test_gvproxy_forwards_what_was_asked_and_nothing_else(start, ports):
    assert listed(start(*ports)) == expected(ports)


def test_qemu_inherits_the_connection_and_nothing_listens_for_another(start):
    wiring = start()
    (fd,) = wiring.qemu_fds
    with socket.socket(fileno=os.dup(fd)) as qemus:
        assert qemus.getpeername() == str(wiring._guest_socket)
    option, network, *card = card_args(fd)
    assert (option, card[0]) == ("-netdev", "-device")
    assert network == f"dgram,id=n0,local.type=fd,local.str={fd}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second:
        second.settimeout(0.2)
        # It waits in the queue for ever: gvproxy takes one.
        second.connect(str(wiring._guest_socket))
        with pytest.raises(TimeoutError):
            second.recv(1)


def test_gvproxy_without_forwards_has_none(start):
    assert listed(start()) == set()


def test_forwards_come_and_go_while_it_runs(start, ports):
    wiring = start()
    for port in ports:
        wiring.add_forward(port, 0, None)
    assert listed(wiring) == expected(ports)
    wiring.remove_forward(ports[0], None, None)
    assert listed(wiring) == expected(ports[1:])
    assert wiring.ports == ports[1:]
    with pytest.raises(MachineError, match="kept its forward"):
        wiring.remove_forward(ports[0], None, None)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_nobody_asked_us_for_is_seen_and_named(
    start, ports, protocol, host, unsealed, ungated
):
    """As a guest opens one where walls are missing; here it is asked for behind the wiring's back.

    The kernel's tables tell: gvproxy itself is not asked.
    """
    wiring = start(ports[0])
    wiring.look_for_opened()
    opened = ports[1].model_copy(update={"protocol": protocol, "host": host})
    wiring._api.expose(opened)
    wiring._api_socket.unlink()
    with pytest.raises(GuestForwardError) as caught:
        wiring.look_for_opened()
    shown = "::" if host == "0.0.0.0" else host
    assert caught.value.forwards == f"{shown}:{opened.external}/{protocol}"
    wiring.stop()
    wiring.look_for_opened()  # nothing is asked of one that has ended


def test_a_socket_that_nobody_asked_us_for_is_seen_and_named(
    start, folder, unsealed, ungated, unwalled
):
    wiring = start()
    wiring.look_for_opened()
    body = {"local": f"{folder}/x.sock", "remote": "tcp://192.168.127.2:22", "protocol": "unix"}
    assert wiring._api._call("POST", "/services/forwarder/expose", body)[0] == 200
    with pytest.raises(GuestForwardError, match=f"unix:{folder}/x.sock"):
        wiring.look_for_opened()


@pytest.mark.parametrize("which", [0, 1], ids=["tcp", "udp"])
def test_a_gvproxy_that_only_says_it_has_closed_a_port_is_not_believed(
    start, ports, which, monkeypatch
):
    """Faked: an answer without the deed, as from a socket in its place."""
    wiring = start(*ports)
    monkeypatch.setattr(wiring._api, "unexpose", lambda *_: None)
    with pytest.raises(MachineError, match=r"says that it has closed .*, and it has not"):
        wiring.remove_forward(ports[which], None, None)
    assert wiring.ports == ports


@pytest.fixture
def both(allocator):
    """Return a TCP and a UDP forward on one leased number."""
    for _ in range(100):
        (tcp,) = allocator.acquire()
        with contextlib.suppress(PortInUseError):
            allocator.acquire_fixed(tcp.port, protocol="udp", timeout=0)
            one = ExposedPort(internal=8080, external=tcp.port)
            return one, one.model_copy(update={"protocol": "udp"})
        tcp.release()
    pytest.fail("no number is free for both protocols")


@pytest.mark.parametrize("which", [0, 1], ids=["tcp", "udp"])
def test_a_host_port_that_is_taken_is_named_with_its_protocol(start, both, which):
    taken, other = both[which], both[1 - which]  # the other comes first
    kind = socket.SOCK_STREAM if taken.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as stranger:
        if kind == socket.SOCK_STREAM:
            # Beside our own guard, which waits for whoever the port was leased for.
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(taken.address)
        if kind == socket.SOCK_STREAM:
            stranger.listen()
        with pytest.raises(ForwardError) as caught:
            start(other, taken)
    assert (caught.value.port, caught.value.protocol) == (taken.external, taken.protocol)
    assert "in use" in caught.value.detail
    assert "gvproxy could not bind host port" in str(caught.value)


def test_gvproxy_is_gone_after_the_stop_and_so_are_its_sockets(start, ports, folder):
    wiring = start(*ports)
    (process,) = wiring.processes()
    assert process.running
    wiring.stop()
    assert not process.running
    assert not list(folder.glob("*.sock"))
    wiring.stop()  # again is no error


def test_a_gvproxy_that_ends_says_why_at_once(folder, allocator):
    fake = folder / "gvproxy"
    fake.write_text("#!/bin/sh\necho 'it is broken'\nexit 3\n")
    fake.chmod(0o755)
    wiring = GvproxyWiring((), Gvproxy(str(fake), "0", has_config=True), folder, allocator)
    with pytest.raises(LaunchError) as caught:
        wiring.start([])
    assert (caught.value.program, caught.value.returncode) == ("gvproxy", 3)
    assert "it is broken" in str(caught.value)
    assert "-config" in caught.value.command


@pytest.mark.parametrize("name", [*NASTY.values(), EVERYTHING], ids=[*NASTY, "everything"])
def test_gvproxy_listens_in_a_folder_of_any_name_and_nowhere_else(
    any_gvproxy, allocator, ports, name
):
    name = os.fsdecode(as_bytes(name)[:24])
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        folder = Path(base) / name / "v"
        folder.mkdir(parents=True)
        wiring = GvproxyWiring(ports, find_gvproxy(str(any_gvproxy)), folder, allocator)
        with contextlib.ExitStack() as stack:
            stack.callback(wiring.stop)
            os.close(os.dup(*wiring.start([])))
            assert listed(wiring) == expected(ports)
            made = {path for path in Path(base).rglob("*") if not path.is_dir()}
            assert {path.parent for path in made} == {folder}
            assert {"net.sock", "api.sock"} <= {path.name for path in made}


@pytest.mark.parametrize(("cpus", "used"), [(1, "1"), (2, "1"), (5, "2"), (None, "1")])
def test_gvproxy_leaves_half_of_the_processors_to_qemu(monkeypatch, cpus, used):
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    monkeypatch.setattr(gvproxy.os, "cpu_count", lambda: cpus)
    assert gvproxy._environment()["GOMAXPROCS"] == used


OURS = "multipathtcp=0,netdns=go"


def test_gvproxy_takes_what_the_user_has_told_go(monkeypatch):
    monkeypatch.setenv("GOMAXPROCS", "7")
    monkeypatch.setenv("GODEBUG", "multipathtcp=1,netdns=cgo")
    # Of two words for one thing Go takes the last.
    told = {"GOMAXPROCS": "7", "GODEBUG": f"multipathtcp=1,netdns=cgo,{OURS}"}
    assert gvproxy._environment() == told

"""The four ways of connecting a guest, chosen in one place."""

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.errors import HostError, SettingError
from pytest_vmports.host import Gvproxy, Qemu
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.network.relayed import RelayedUsernetWiring
from pytest_vmports.network.usernet import NoNetwork, UsernetWiring
from pytest_vmports.network.wiring import choose_wiring, port_of, wants_gvproxy

WEB = ExposedPort(internal=8080, external=20417)
DNS = ExposedPort(internal=53, external=20418, protocol="udp")
GVPROXY = Gvproxy("/usr/bin/gvproxy", "0.8.9", has_config=True)
QEMU = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "from PATH")


@pytest.fixture
def choose(tmp_path):
    def choose(*ports, network=False, backend="auto", gvproxy=GVPROXY, qemu=QEMU):
        return choose_wiring(
            ports, allow_network=network, backend=backend, qemu=qemu, gvproxy=gvproxy,
            workdir=tmp_path, allocator=None,
        )  # fmt: skip

    return choose


MODES = [
    # ports, network, backend, wiring
    ((), False, "auto", NoNetwork),
    ((WEB,), False, "auto", UsernetWiring),
    ((WEB,), True, "auto", GvproxyWiring),
    ((), True, "auto", GvproxyWiring),
    ((WEB, DNS), False, "auto", RelayedUsernetWiring),
    ((WEB, DNS), True, "auto", GvproxyWiring),
    ((), False, "usernet", NoNetwork),
    ((WEB,), False, "usernet", UsernetWiring),
    ((WEB,), True, "usernet", UsernetWiring),
    ((WEB, DNS), True, "usernet", UsernetWiring),
    ((DNS,), False, "usernet", RelayedUsernetWiring),
    ((), True, "usernet", UsernetWiring),
    ((), False, "gvproxy", GvproxyWiring),
    ((WEB,), False, "gvproxy", GvproxyWiring),
]


@pytest.mark.parametrize(("ports", "network", "backend", "wiring"), MODES)
def test_each_wish_has_its_wiring(choose, ports, network, backend, wiring):
    chosen = choose(*ports, network=network, backend=backend)
    assert type(chosen) is wiring
    assert chosen.ports == ports


@pytest.mark.parametrize("network", [True, False])
def test_a_user_network_lets_the_guest_out_only_when_allowed(choose, network):
    chosen = choose(WEB, network=network, backend="usernet")
    assert chosen.restrict is not network


@pytest.mark.parametrize(("ports", "network", "backend", "wiring"), MODES)
def test_whoever_starts_a_vm_knows_beforehand_whether_gvproxy_is_needed(
    choose, ports, network, backend, wiring
):
    needed = wants_gvproxy(allow_network=network, backend=backend)
    assert needed == (wiring is GvproxyWiring)
    if not needed:
        assert type(choose(*ports, network=network, backend=backend, gvproxy=None)) is wiring


def test_gvproxy_that_is_not_there_is_told(choose):
    with pytest.raises(SettingError, match="a gvproxy is needed"):
        choose(WEB, network=True, gvproxy=None)


def test_a_qemu_too_old_for_udp_without_network_is_told_and_enough_for_tcp(choose):
    old = Qemu("/usr/bin/qemu-system-x86_64", (7, 1, 9), "from PATH")
    with pytest.raises(HostError, match=r"need QEMU 7\.2 or later.*7\.1\.9"):
        choose(DNS, qemu=old)
    assert type(choose(WEB, qemu=old)) is UsernetWiring
    assert type(choose(DNS, qemu=old, network=True)) is GvproxyWiring


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

"""The four ways of connecting a guest, chosen in one place."""

import functools

import pytest

from pytest_vmports import ExposedPort, PortMapping
from pytest_vmports.errors import HostError, SettingError
from pytest_vmports.network import destinations, usernet
from pytest_vmports.network.cards import masked_args
from pytest_vmports.network.choose import Network, choose_network, make_wiring, wants_gvproxy
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.network.relayed import RelayedUsernetWiring
from pytest_vmports.network.usernet import NoNetwork, UsernetWiring
from pytest_vmports.system.programs import Gvproxy, Qemu

WEB = ExposedPort(internal=8080, external=20417)
DNS = ExposedPort(internal=53, external=20418, protocol="udp")
GVPROXY = Gvproxy("/usr/bin/gvproxy", "0.8.9", has_config=True)
QEMU = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "from PATH")


def choose(*ports, network=False, backend="auto", qemu=QEMU, host_ports=None, lan=None):
    return choose_network(
        ports, allow_network=network, backend=backend, qemu=qemu, host_ports=host_ports,
        network=lan,
    )  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def make(network, *ports, gvproxy=GVPROXY):
        return make_wiring(network, ports, gvproxy=gvproxy, workdir=tmp_path, allocator=None)

    return make


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
def test_each_wish_has_its_wiring(make, ports, network, backend, wiring):
    made = make(choose(*ports, network=network, backend=backend), *ports)
    assert type(made) is wiring
    assert made.ports == ports


@pytest.mark.parametrize(("ports", "network", "backend", "wiring"), MODES)
def test_a_network_is_the_same_before_and_after_its_ports_are_leased(
    ports, network, backend, wiring
):
    wanted = [PortMapping(internal=port.internal, protocol=port.protocol) for port in ports]
    chosen = choose(*wanted, network=network, backend=backend)
    assert chosen == choose(*ports, network=network, backend=backend)
    kinds = {NoNetwork: "none", GvproxyWiring: "gvproxy"}
    assert chosen.kind == kinds.get(wiring, "usernet")
    assert chosen.relayed == (wiring is RelayedUsernetWiring)


@pytest.mark.parametrize("network", [True, False])
def test_a_user_network_lets_the_guest_out_only_when_allowed(make, network):
    chosen = choose(WEB, network=network, backend="usernet")
    assert chosen.restrict is not network
    assert make(chosen, WEB).restrict is not network
    word = "on" if chosen.restrict else "off"
    assert f",restrict={word}," in chosen.first_card_args([WEB], [])[1]


@pytest.mark.parametrize(("ports", "network", "backend", "wiring"), MODES)
def test_whoever_starts_a_vm_knows_beforehand_whether_gvproxy_is_needed(
    make, ports, network, backend, wiring
):
    needed = wants_gvproxy(allow_network=network, backend=backend)
    assert needed == (wiring is GvproxyWiring)
    if not needed:
        chosen = choose(*ports, network=network, backend=backend)
        assert type(make(chosen, *ports, gvproxy=None)) is wiring


def test_gvproxy_that_is_not_there_is_told(make):
    with pytest.raises(SettingError, match="a gvproxy is needed"):
        make(choose(WEB, network=True), WEB, gvproxy=None)


def test_a_qemu_too_old_for_udp_without_network_is_told_and_enough_for_tcp():
    old = Qemu("/usr/bin/qemu-system-x86_64", (7, 1, 9), "from PATH")
    with pytest.raises(HostError, match=r"UDP ports .* need QEMU 7\.2 or later.*7\.1\.9"):
        choose(DNS, qemu=old)
    assert choose(WEB, qemu=old).kind == "usernet"
    assert choose(DNS, qemu=old, network=True).kind == "gvproxy"


@pytest.mark.parametrize("more", [{"host_ports": {80: 9}}, {"lan": "backend"}], ids=str)
def test_a_qemu_too_old_for_a_second_card_is_told(more):
    old = Qemu("/usr/bin/qemu-system-x86_64", (7, 1, 9), "from PATH")
    with pytest.raises(HostError, match=r"host_ports and network need QEMU 7\.2.*7\.1\.9"):
        choose(WEB, qemu=old, **more)
    assert choose(WEB, **more).second_card


@pytest.mark.parametrize(
    ("network", "dns", "binds", "netdev"),
    [
        (Network(), None, True, None),
        (Network(lan="x"), None, True, "lan"),
        (Network("usernet"), "192.168.127.3", True, "n0"),
        (Network("usernet", lan="x"), "192.168.127.3", True, "n0"),
        (Network("usernet", relayed=True), "192.168.127.3", True, "h2"),
        (Network("gvproxy", restrict=False), "192.168.127.1", False, "n0"),
    ],
    ids=str,
)
def test_what_follows_from_a_networks_shape(network, dns, binds, netdev):
    assert (network.dns, network.qemu_binds, network.card_netdev) == (dns, binds, netdev)


@pytest.mark.parametrize(
    "network",
    [
        Network("usernet"),
        Network("usernet", relayed=True),
        Network("gvproxy", restrict=False),
        Network(lan="x"),
    ],
    ids=str,
)
def test_the_first_card_hangs_on_the_netdev_that_is_named(network):
    """Packets are captured there."""
    (card, *_) = [word for word in masked_args(network, [WEB, DNS]) if "virtio-net" in word]
    assert f"netdev={network.card_netdev}," in card


def test_the_first_cards_arguments_name_the_descriptors_they_are_given():
    assert Network().first_card_args([], []) == ["-nic", "none"]
    assert Network("usernet").first_card_args([WEB], []) == usernet.card_args([WEB], restrict=True)
    gvproxy, relay = Network("gvproxy", restrict=False), Network("usernet", relayed=True)
    for network in (gvproxy, relay):
        named = [w for w in network.first_card_args([WEB, DNS], ["FD"]) if "local.str=FD" in w]
        assert len(named) == 1


def test_doors_have_one_order_whatever_the_order_they_were_asked_for_in():
    one, other = choose(host_ports={80: 1, 90: 2}), choose(host_ports={90: 2, 80: 1})
    assert one == other and hash(one) == hash(other)
    assert one.host_ports == ((80, 1), (90, 2))


def test_a_network_that_was_not_asked_for_reaches_nothing_and_a_list_no_more_than_it_says():
    listed = destinations.read(["a.example"])
    by = functools.partial(choose_network, [], qemu=QEMU)
    assert by(allow_network=False, backend="gvproxy").allowed == destinations.Destinations()
    assert by(allow_network=True, backend="auto").allowed is None
    assert by(allow_network=listed, backend="auto").allowed == listed
    assert by(allow_network=destinations.Destinations(), backend="auto").kind == "gvproxy"
    # Which settings refuse, and which then opens nothing.
    assert by(allow_network=listed, backend="usernet").restrict

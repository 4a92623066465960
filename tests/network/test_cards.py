"""A guest's cards together: what QEMU inherits, what it is told, and what a failure leaves."""

from __future__ import annotations

import itertools

import pytest
from held import held

from pytest_vmports import ExposedPort
from pytest_vmports.errors import LaunchError
from pytest_vmports.network import cards as module
from pytest_vmports.network.cards import Cards, masked_args, masked_words
from pytest_vmports.network.choose import Network, make_wiring
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.network.lan import Lan
from pytest_vmports.system.programs import Gvproxy

HOST, FIRST, TEMPLATE = "192.168.128.1", "192.168.128.2", "192.168.128.253"
DOORS = ((8000, 45123), (9000, 1))
WEB = ExposedPort(internal=80, external=20080)
FIRST_MAC, SECOND_MAC = "mac=5a:94:ef:e4:0c:ee", "mac=5a:94:ef:e4:0d:02"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts cards; when they have stopped nothing must be left."""
    before = held()
    made = []

    def start(network, *forwards, shared=None, **what):
        wiring = make_wiring(network, forwards, gvproxy=None, workdir=tmp_path, allocator=None)
        made.append(Cards(network, wiring, shared, **what))
        return made[-1], made[-1].start([7])

    yield start
    for cards in made * 2:  # twice is no error
        cards.stop()
    assert held() <= before


def named(args):
    """Return the descriptors that QEMU's arguments name."""
    return [int(word.rpartition("=")[2]) for word in args if "local.type=fd" in word]


def macs(args):
    cards = [value for name, value in itertools.pairwise(args) if name == "-device"]
    return [card.split(",")[2] for card in cards]


def test_one_card_is_the_wirings_and_qemu_inherits_the_leases_it_binds(start):
    network = Network("usernet")
    cards, fds = start(network, WEB)
    assert fds == [7]
    assert cards.qemu_args() == network.first_card_args([WEB], [])
    assert cards.kernel_words() == []
    assert (cards.second, cards.lan_address, cards.lan_mac) == (None, None, None)
    assert network.host_address is None


@pytest.mark.parametrize(
    "network",
    [Network(), Network("usernet"), Network("usernet", relayed=True)],
    ids=str,
)
def test_the_first_card_is_as_without_a_second_and_qemu_inherits_what_both_need(start, network):
    both = Network(network.kind, network.restrict, network.relayed, DOORS)
    cards, fds = start(both, WEB)
    args = cards.qemu_args()
    assert fds[0] == 7 and fds[1:] == named(args)
    assert len(fds) == (4 if network.relayed else 3)
    first = network.first_card_args([WEB], fds[1:])
    assert args[: len(first)] == first
    assert macs(args) == [*([] if network.kind == "none" else [FIRST_MAC]), SECOND_MAC]
    assert cards.kernel_words() == [
        f"vmports.lan_ip={FIRST}", f"vmports.lan_{SECOND_MAC}",
    ]  # fmt: skip
    assert (cards.lan_address, both.host_address) == (FIRST, HOST)
    assert f"mac={cards.lan_mac}" == SECOND_MAC


def test_the_second_cards_address_is_known_after_the_end_too(start):
    """Reports are written then."""
    cards, _ = start(Network(lan="x"), shared=Lan("x"))
    cards.stop()
    assert cards.lan_address == FIRST


def test_cards_start_again_with_links_of_their_own(start):
    cards, _ = start(Network("usernet", relayed=True, host_ports=DOORS), WEB)
    first = cards.second
    cards.stop()
    fds = cards.start([])
    assert cards.second is not first
    assert named(cards.qemu_args()) == fds


def test_two_guests_of_one_network_have_addresses_of_their_own_and_no_way_to_the_host(start):
    shared, network = Lan("x"), Network(lan="x")
    one, other = (start(network, shared=shared)[0] for _ in range(2))
    assert (one.lan_address, other.lan_address) == (FIRST, "192.168.128.3")
    assert "user" not in " ".join(one.qemu_args() + other.qemu_args())
    assert network.host_address is None


def test_a_guest_that_is_to_be_a_template_is_on_no_network_and_at_no_vms_address(start):
    shared, network = Lan("x"), Network(lan="x", host_ports=DOORS)
    cards = [start(network, shared=shared, template=template)[0] for template in (True, False)]
    assert [one.lan_address for one in cards] == [TEMPLATE, FIRST]
    assert cards[0].kernel_words()[0] == f"vmports.lan_ip={TEMPLATE}"
    alone, _ = start(Network(host_ports=DOORS), template=True)
    assert alone.lan_address == FIRST and alone.move(cloned=True) is None


def test_a_guest_that_waits_has_the_templates_place_until_it_takes_one_of_its_own(start):
    shared, network = Lan("x"), Network(lan="x", host_ports=DOORS)
    waiting, _ = start(network, shared=shared, waits=True)
    other, _ = start(network, shared=shared)
    assert [one.lan_address for one in (waiting, other)] == [TEMPLATE, FIRST]
    assert waiting.move(cloned=True) is None
    there, back = waiting.rehearsal()
    assert there.before == back.after and there.after == back.before
    assert there.before.address == TEMPLATE
    (move,) = waiting.take_place()
    assert (move.before.address, move.after.address) == (TEMPLATE, "192.168.128.3")
    assert waiting.lan_address == "192.168.128.3"
    assert waiting.take_place() == waiting.rehearsal() == []
    waiting.stop()
    waiting.start([])  # as a reset does
    assert waiting.lan_address == "192.168.128.3" and waiting.move(cloned=False) is None


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (Network(host_ports=DOORS), {"waits": True}),
        (Network(), {"waits": True}),
        (Network(lan="x"), {"template": True}),
        (Network(lan="x"), {}),
    ],
)
def test_who_does_not_wait_for_a_place_has_nowhere_to_move_to(start, network, what):
    cards, _ = start(network, shared=Lan("x") if network.lan else None, **what)
    before = cards.lan_address
    assert cards.take_place() == cards.rehearsal() == []
    assert cards.lan_address == before


def test_a_clone_moves_from_the_templates_place_to_its_own_and_a_restored_guest_stays(start):
    shared, network = Lan("x"), Network(lan="x")
    first, second = (start(network, shared=shared)[0] for _ in range(2))
    move = second.move(cloned=True)
    assert (move.before.address, move.after.address) == (TEMPLATE, "192.168.128.3")
    first.stop()
    for _ in range(2):
        second.stop()
        second.start([])
        assert second.lan_address == "192.168.128.3"  # and not the first's, which is free
        assert second.move(cloned=False) is None


def test_a_restored_guest_whose_place_was_taken_moves_to_another(start):
    shared, network = Lan("x"), Network(lan="x")
    cards, _ = start(network, shared=shared)
    cards.stop()
    start(network, shared=shared)
    cards.start([])
    move = cards.move(cloned=False)
    assert (move.before.address, move.after.address) == (FIRST, "192.168.128.3")


def test_qemu_does_not_inherit_the_leases_of_what_gvproxy_binds():
    class Wiring:
        ports = (WEB,)

        def start(self, lease_fds):
            self.got = list(lease_fds)
            return (9,)

    wiring = Wiring()
    cards = Cards(Network("gvproxy", restrict=False), wiring)
    assert cards.start([7]) == [9]
    assert wiring.got == [7]
    assert named(cards.qemu_args()) == [9]


def test_a_wiring_that_does_not_start_leaves_the_network(tmp_path):
    lan = Lan("x")
    fake = tmp_path / "gvproxy"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    first = GvproxyWiring((), Gvproxy(str(fake), "0", has_config=True), tmp_path, None)
    with pytest.raises(LaunchError):
        Cards(Network("gvproxy", restrict=False, lan="x"), first, lan).start([])
    seat = lan.join({})
    assert seat.values.address == FIRST
    seat.leave()


@pytest.mark.parametrize(
    "network",
    [
        Network(),
        Network("usernet", host_ports=DOORS),
        Network("usernet", relayed=True, host_ports=DOORS),
        Network("usernet", relayed=True, lan="x"),
        Network(host_ports=DOORS),
    ],
    ids=str,
)
def test_what_a_network_will_tell_qemu_is_known_before_it_starts(start, network):
    args, words = masked_args(network, [WEB]), masked_words(network)
    cards, fds = start(network, WEB, template=True)
    live = cards.qemu_args()
    for fd in fds[1:]:
        live = [word.replace(f"local.str={fd}", f"local.str={module.PLACEHOLDER}") for word in live]
    assert (args, words) == (live, cards.kernel_words())

"""Further cards: how many, and that nobody is reached by them."""

import itertools

import pytest

from pytest_vmports.network import more_cards
from pytest_vmports.network.cards import masked_args
from pytest_vmports.network.choose import Network

KINDS = {
    "none": Network(),
    "usernet": Network("usernet"),
    "passt": Network("passt"),
    "and a door": Network("usernet", host_ports=((80, 9),)),
    "a door": Network(host_ports=((80, 9),)),
}


def values(command, option):
    return [value for name, value in itertools.pairwise(command) if name == option]


@pytest.mark.parametrize("network", KINDS.values(), ids=KINDS)
def test_a_guest_has_as_many_cards_as_it_is_given_or_as_it_needs(network):
    needed = sum("virtio-net" in one for one in masked_args(network, ()))
    for count in (None, *range(1, 9)):
        command = masked_args(network.with_cards(count), ())
        cards = [one for one in values(command, "-device") if "virtio-net" in one]
        assert len(cards) == max(needed, count or 0)
        macs = [one.partition("mac=")[2].partition(",")[0] for one in cards]
        assert len(set(macs)) == len(macs)
        assert command[: len(masked_args(network, ()))] == masked_args(network, ())


def test_each_is_on_a_network_of_its_own_that_leads_nowhere():
    networks = values(more_cards.card_args(7), "-netdev")
    assert all(",restrict=on,ipv6=off," in one for one in networks)
    assert len({one.partition("net=")[2] for one in networks}) == 7
    assert not any("hostfwd" in one for one in networks)

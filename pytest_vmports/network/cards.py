"""A guest's network cards: the first with its forwards, and a second for the host and other VMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.network import lan, more_cards
from pytest_vmports.network.moving import Move

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.choose import Network
    from pytest_vmports.network.lan import Lan, Seat, SeatValues
    from pytest_vmports.network.wiring import Wiring

PLACEHOLDER = "FD"
"""What stands for a descriptor where only the shape of the arguments is wanted."""


class Cards:
    """The cards of one guest: what connects them, started and stopped together.

    Args:
        network: the shape that was chosen.
        first: what connects the first card, and carries the forwards.
        shared: the network that the second card is on; None for one of its own, where its address
            is always the same.
        template: this guest is to be saved, for VMs of any network: it is on none of them.
        waits: this guest waits for the test that needs it: it is not yet there for others.

    Attributes:
        network: as given.
        first: as given.
        second: the second card's place, from the start on; None without such a card.
    """

    def __init__(
        self,
        network: Network,
        first: Wiring,
        shared: Lan | None = None,
        *,
        template: bool = False,
        waits: bool = False,
    ) -> None:
        self.network = network
        self.first = first
        self.second: Seat | None = None
        self._before: SeatValues | None = None
        self._lan = shared
        self._of_template = template and network.lan is not None
        self._waits = waits and network.lan is not None
        if self._of_template or (shared is None and network.second_card):
            self._lan = lan.Lan("of one VM")
        self._first_fds: Sequence[int] = ()

    @property
    def lan_address(self) -> str | None:
        """The guest's address on its second card, from the start on; None when it has none."""
        return None if self.second is None else self.second.values.address

    @property
    def lan_mac(self) -> str | None:
        """The second card's own address, from the start on; None when it has none."""
        return None if self.second is None else self.second.values.mac

    def start(self, lease_fds: Collection[int]) -> list[int]:
        """Join the second card's network and start the first's wiring.

        Args:
            lease_fds: descriptors of the ports' leases, for the process that binds the ports.

        Returns:
            the descriptors that QEMU has to inherit, leases among them where it is QEMU that binds.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: gvproxy did not come up.
            MachineError: the network is full.
        """
        if self._lan is not None:
            # One that begins anew may have been restored: then its guest knows its address.
            before = None if self.second is None else self.second.number
            self._before = self._seat
            self.second = self._lan.join(
                dict(self.network.host_ports), before, waits=self._waits or self._of_template
            )
        try:
            self._first_fds = self.first.start(lease_fds)
        except BaseException:
            self.stop()
            raise
        leases = lease_fds if self.network.qemu_binds else ()
        links = [] if self.second is None else self.second.fds
        return [*leases, *self._first_fds, *links]

    def stop(self) -> None:
        """End the wiring and leave the second card's network. Safe to call again."""
        self.first.stop()
        if self.second is not None:
            self.second.leave()

    def check(self) -> None:
        """Raise where a guest that is to become a template, and is alone, has asked for others.

        Raises:
            NeighbourSoughtError: it has; as a clone it would go on from their absence.
        """
        if self._of_template and self.second is not None and self.second.sought is not None:
            raise lan.NeighbourSoughtError(self.second.sought)

    def move(self, *, cloned: bool) -> Move | None:
        """Return how a guest that was restored gets its own address here; None where it has that.

        Args:
            cloned: from a template; else it had been here before, at a place that somebody else may
                have taken meanwhile.
        """
        if self.network.lan is None or self._seat is None:
            return None
        before = lan.template_seat(()) if cloned else self._before
        return None if before is None or before.mac == self._seat.mac else Move(before, self._seat)

    def take_place(self) -> list[Move]:
        """Take a place on the shared network, where the guest has waited for it.

        Returns:
            how the guest gets its address; empty where it has that.

        Raises:
            MachineError: the network is full.
        """
        if not self._waits or self.second is None:
            return []
        self.second.enter()
        self._waits = False
        return [Move(lan.template_seat(()), self.second.values)]

    def rehearsal(self) -> list[Move]:
        """Return moves after which all is as before, for a guest that waits on a shared network."""
        if not self._waits:
            return []
        here, there = lan.template_seat(()), lan.rehearsal_seat(())
        return [Move(here, there), Move(there, here)]

    def qemu_args(self) -> list[str]:
        """Return QEMU's arguments for all cards, between `start` and `stop`."""
        return network_args(self.network, self.first.ports, self._first_fds, self._seat)

    def kernel_words(self) -> list[str]:
        """Return what the boot script of a prepared guest has to be told of the second card."""
        return network_words(self._seat)

    @property
    def _seat(self) -> SeatValues | None:
        return None if self.second is None else self.second.values


def network_args(
    network: Network,
    forwards: Sequence[ExposedPort],
    fds: Sequence[int | str],
    seat: SeatValues | None,
) -> list[str]:
    """Return QEMU's arguments for a guest's cards.

    Args:
        network: their shape.
        forwards: the first card's, in their order.
        fds: what the first card's wiring opened for QEMU.
        seat: the second card's; None without.
    """
    second = [] if seat is None else lan.card_args(seat.mac, seat.fds)
    first = network.first_card_args(forwards, fds)
    return [*first, *second, *more_cards.card_args(network.more_cards)]


def network_words(seat: SeatValues | None) -> list[str]:
    """Return the words of the kernel's command line that tell a guest of its second card."""
    return [] if seat is None else lan.kernel_words(seat.address, seat.mac)


def masked_seat(network: Network) -> SeatValues | None:
    """Return the second card's place as a template has it, its descriptors masked."""
    if not network.second_card:
        return None
    door = [PLACEHOLDER] if network.host_ports else []
    fds = [PLACEHOLDER, *door]
    return lan.seat_values(fds) if network.lan is None else lan.template_seat(fds)


def masked_args(network: Network, forwards: Sequence[ExposedPort]) -> list[str]:
    """Return what `network_args` would for a live network, descriptors masked; starts nothing."""
    return network_args(network, forwards, [PLACEHOLDER], masked_seat(network))


def masked_words(network: Network) -> list[str]:
    """Return what `network_words` would for a network of one VM; starts nothing."""
    return network_words(masked_seat(network))

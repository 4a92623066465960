"""The network behind a guest's second card: other VMs of its name, and a door to the host.

It is a switch in our process, with no way out. Every VM has an address of its own on it. It exists
in this process alone, so neither another worker's VMs nor another run's can see it.

The door leads to services of the host that were asked for. Behind it stands a second user network
of the guest's QEMU, which turns TCP to `HOST_IP` into connections to the host's 127.0.0.1, at any
port. In front of it stands this switch: only TCP to the asked ports passes, with the port exchanged
for the host's. So a connection is the service's own from end to end: one that is down refuses it,
and there may be any number at a time. QEMU's own ``guestfwd`` would start a program a connection,
which its sandbox forbids, and answers before the service does.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.constants import (
    HOST_IP,
    LAN_DNS_IP,
    LAN_MAC_PREFIX,
    LAN_PREFIX,
    LAN_SUBNET,
)
from pytest_vmports.errors import MachineError
from pytest_vmports.network import host_frames
from pytest_vmports.network.host_frames import mac_bytes
from pytest_vmports.network.links import Link, Pump
from pytest_vmports.network.usernet import network_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIRST, _LAST = 2, 252
_OF_TEMPLATES, _OF_REHEARSALS = 253, 254
_MAC_LENGTH = 6
_GROUP_BIT = 1
CARD_NETDEV = "lan"
"""What the guest's second card is connected to."""
_DOOR_ID, _STACK_ID = "door", "host"
_STACK = f"user,id={_STACK_ID},net={LAN_SUBNET},host={HOST_IP},dns={LAN_DNS_IP},ipv6=off"


@dataclass(frozen=True)
class SeatValues:
    """What QEMU and the guest get to know of a VM's place on a network.

    Attributes:
        address: the VM's, ``192.168.128.2`` for the first.
        mac: its card's.
        fds: QEMU's ends of the card's link and, with a door, of the door's; or what stands for
            them.
    """

    address: str
    mac: str
    fds: tuple[int | str, ...]


def seat_values(fds: Sequence[int | str], number: int = _FIRST) -> SeatValues:
    """Return the values of a place; by default of the first, which a VM alone always has.

    Args:
        fds: see `SeatValues`.
        number: the last part of its address.
    """
    return SeatValues(f"{LAN_PREFIX}{number}", f"{LAN_MAC_PREFIX}{number:02x}", tuple(fds))


def card_args(mac: str, fds: Sequence[int | str]) -> list[str]:
    """Return the arguments of the second card, and of the user network behind the door.

    Args:
        mac: the card's.
        fds: see `SeatValues`.
    """
    card, *door = (f"local.type=fd,local.str={fd}" for fd in fds)
    arguments = ["-netdev", f"dgram,id={CARD_NETDEV},{card}", *network_card(CARD_NETDEV, mac)]
    for back in door:
        # Networks are joined by a hub only.
        arguments += [
            *("-netdev", f"dgram,id={_DOOR_ID},{back}"),
            *("-netdev", _STACK),
            *("-netdev", f"hubport,id={_DOOR_ID}0,hubid=1,netdev={_DOOR_ID}"),
            *("-netdev", f"hubport,id={_DOOR_ID}1,hubid=1,netdev={_STACK_ID}"),
        ]
    return arguments


def kernel_words(address: str, mac: str) -> list[str]:
    """Return what tells a prepared guest's boot script to configure the second card."""
    return [f"vmports.lan_ip={address}", f"vmports.lan_mac={mac}"]


def template_seat(fds: Sequence[int | str]) -> SeatValues:
    """Return the values of the place that templates of shared networks are made at.

    No VM has it, so whoever still shows its address was not given his own.
    """
    return seat_values(fds, _OF_TEMPLATES)


def rehearsal_seat(fds: Sequence[int | str]) -> SeatValues:
    """Return the values of the place that whoever waits moves to, and back, to know the way."""
    return seat_values(fds, _OF_REHEARSALS)


_TEMPLATE_MAC = mac_bytes(template_seat(()).mac)


class NeighbourSoughtError(Exception):
    """A guest that is to become a template has asked for another VM of its network."""


class Seat:
    """A VM's place on a network. Made by `Lan.join`.

    Attributes:
        values: what QEMU and the guest get to know of it.
        number: the last part of its address.
        mac_bytes: its card's address as frames have it.
        links: its card's frames and, with a door, those of the host's side.
        sought: the first address of another VM that the guest has asked for, or None.
    """

    def __init__(self, lan: Lan, pump: Pump, number: int, host_ports: Mapping[int, int]) -> None:
        self.links: list[Link] = [pump.link(self._from_guest)]
        if host_ports:
            self.links.append(pump.link(self._from_host))
        self.sought: str | None = None
        self._lan = lan
        self._ports = dict(host_ports)
        self._back = {host: guest for guest, host in host_ports.items()}
        self.take(number)

    def take(self, number: int) -> None:
        """Have the values of this place; called before others on the network know of it."""
        self.values: SeatValues = seat_values(self.fds, number)
        self.number = number
        self.mac_bytes: bytes = mac_bytes(self.values.mac)
        self._ip = socket.inet_aton(self.values.address)

    @property
    def fds(self) -> list[int]:
        """What QEMU has to inherit."""
        return [link.qemu_fd for link in self.links]

    def enter(self) -> None:
        """Take a place of one's own, if this is one of those who wait; see `Lan.join`.

        Raises:
            MachineError: there is none.
        """
        self._lan.enter(self)

    def leave(self) -> None:
        """Give the place up. Safe to call again."""
        self._lan.leave(self)

    def deliver(self, frame: bytes) -> None:
        """Send the guest a frame."""
        self.links[0].send(frame)

    def _from_guest(self, frame: bytes) -> None:
        target = frame[:_MAC_LENGTH]
        to_all = bool(target[:1]) and bool(target[0] & _GROUP_BIT)
        if target == host_frames.MAC or to_all:
            self._to_host(frame)
        if self.sought is None and (asked := host_frames.asked_for(frame)) is not None:
            self.sought = socket.inet_ntoa(asked)
        # A clone that has not its own address yet is not there for others.
        if frame[_MAC_LENGTH : 2 * _MAC_LENGTH] != _TEMPLATE_MAC:
            self._lan.switch(self, frame, to_all=to_all)

    def _to_host(self, frame: bytes) -> None:
        passed = host_frames.to_host(frame, self._ip, self._ports)
        if passed is not None:
            for door in self.links[1:]:
                door.send(passed)
        elif (answer := host_frames.refusal(frame, self._ip)) is not None:
            self.deliver(answer)

    def _from_host(self, frame: bytes) -> None:
        passed = host_frames.to_guest(frame, self._ip, self._back)
        if passed is not None:
            self.deliver(passed)


class Lan:
    """A switch for VMs. Its thread runs while there is one.

    Args:
        name: of the network, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._pump: Pump | None = None
        # By the last part of the address. Never changed but replaced: the thread reads it.
        self._seats: dict[int, Seat] = {}
        self._waiting: list[Seat] = []

    def join(
        self, host_ports: Mapping[int, int], number: int | None = None, *, waits: bool = False
    ) -> Seat:
        """Return a place for a VM, with the lowest address that is free.

        Args:
            host_ports: its door: port at `HOST_IP` to port of the host's 127.0.0.1.
            number: of the place that it had before, which it gets again while that is free.
            waits: the VM is to become a template, or waits for the test that needs it: it has the
                place of templates, and is not there for others before `Seat.enter`.

        Raises:
            MachineError: there are no more.
        """
        with self._lock:
            number = _OF_TEMPLATES if waits else self._free(number)
            if self._pump is None:
                self._pump = Pump("vmports-lan")
            seat = Seat(self, self._pump, number, host_ports)
            if waits:
                self._waiting.append(seat)
            else:
                self._seats = {**self._seats, number: seat}
            return seat

    def enter(self, seat: Seat) -> None:
        """Give one who waits the lowest address that is free.

        Raises:
            MachineError: there are no more.
        """
        with self._lock:
            if seat in self._waiting:
                seat.take(self._free(None))
                self._waiting.remove(seat)
                self._seats = {**self._seats, seat.number: seat}

    def leave(self, seat: Seat) -> None:
        """Take a VM off. Safe to call again."""
        with self._lock:
            if self._pump is None or seat not in (*self._seats.values(), *self._waiting):
                return
            self._seats = {n: other for n, other in self._seats.items() if other is not seat}
            self._waiting = [other for other in self._waiting if other is not seat]
            for link in seat.links:
                self._pump.remove(link)
            if not self._seats and not self._waiting:
                self._pump.close()
                self._pump = None

    def switch(self, sender: Seat, frame: bytes, *, to_all: bool) -> None:
        """Deliver a frame to the VM it is for, or to all but its sender; none of one who waits."""
        seats = self._seats
        if seats.get(sender.number) is not sender:
            return
        for seat in seats.values():
            if seat is not sender and (to_all or frame.startswith(seat.mac_bytes)):
                seat.deliver(frame)

    def _free(self, number: int | None) -> int:
        if number is not None and number not in self._seats:
            return number
        for free in range(_FIRST, _LAST + 1):
            if free not in self._seats:
                return free
        raise MachineError(f"the network {self._name} has no address left: end a VM of it")

"""A guest's further cards, which lead nowhere: for tests of bonds, bridges, routes and names.

Each is on a user network of QEMU's that nobody else is on. It gives an address by DHCP, and neither
a gateway nor a name server, and answers for itself alone. Source: the invocation chapter of QEMU's
documentation, ``-netdev user``, ``restrict``.
"""

from __future__ import annotations

from pytest_vmports.network.usernet import network_card

_MAC_PREFIX = "5a:94:ef:e4:0f:"


def card_args(count: int) -> list[str]:
    """Return QEMU's arguments for so many further cards."""
    return [word for number in range(1, count + 1) for word in _one(number)]


def _one(number: int) -> list[str]:
    netdev = f"user,id=more{number},restrict=on,ipv6=off,net=10.127.{number}.0/24"
    return ["-netdev", netdev, *network_card(f"more{number}", mac_of(number))]


def mac_of(number: int) -> str:
    """Return the address of a further card, the first being 1."""
    return f"{_MAC_PREFIX}{number:02x}"

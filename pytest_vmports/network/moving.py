"""How a guest that was restored gets the address of its own place on a shared network. Pure.

Its template was booted on a wire that leads nowhere, at an address that no VM has. Order matters:
the card's own address is the last to change, because the switch passes nothing on that comes from
the template's, so no VM sees a guest that is half moved. Meanwhile the card is never without an
address, for with the last one the kernel would take away every route that leads by it.

Sources: rtnetlink(7); RFC 4291, appendix A (the link-local address that a card's own leads to).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.network.host_frames import mac_bytes

if TYPE_CHECKING:
    from pytest_vmports.network.lan import SeatValues

_NEW_LINK, _NEW_ADDRESS, _DELETE_ADDRESS = 16, 20, 21
_REQUEST, _ANSWERED, _CREATED = 0x1, 0x4, 0x400
_LINK_ADDRESS, _ADDRESS, _LOCAL = 1, 1, 2
_IPV4, _IPV6, _ANY = 2, 10, 0
_WITHIN_LINK, _KNOWN_UNIQUE = 253, 0x02
_HOST_BITS, _NETWORK_BITS = 32, 24


@dataclass(frozen=True)
class Move:
    """From the template's place on a network to a VM's.

    Attributes:
        before: the template's.
        after: the VM's.
    """

    before: SeatValues
    after: SeatValues

    def requests(self) -> bytes:
        """Return the card's present address, and what our agent is to ask of its kernel.

        The number of the card stands for itself as 0, and a sequence number of 0 says that the
        kernel may refuse: a guest may have no IPv6.
        """
        old, new = (ipaddress.ip_address(one.address) for one in (self.before, self.after))
        old_link, new_link = (_link_local(one.mac) for one in (self.before, self.after))
        return b"".join(
            (
                mac_bytes(self.before.mac),
                _address(_NEW_ADDRESS, new, _HOST_BITS),
                _address(_DELETE_ADDRESS, old, _NETWORK_BITS),
                _address(_NEW_ADDRESS, new, _NETWORK_BITS),
                _address(_DELETE_ADDRESS, new, _HOST_BITS),
                _address(_NEW_ADDRESS, new_link, 64),
                _address(_DELETE_ADDRESS, old_link, 64),
                _hardware_address(mac_bytes(self.after.mac)),
            )
        )

    def script(self) -> str:
        """Return the same for a shell, of a guest that has its addresses from whoever made it.

        One that it was not given from our side stays: whoever chose it knows the VM that he chose
        it for.
        """
        old, new = self.before.address, self.after.address
        old_link, new_link = (_link_local(one.mac) for one in (self.before, self.after))
        return f"""
for card in /sys/class/net/*; do
  [ "$(cat "$card/address")" = {self.before.mac} ] || continue
  card=${{card##*/}}
  if ip -o -4 addr show dev "$card" | grep -q ' {old}/{_NETWORK_BITS} '; then
    ip addr add {new}/{_HOST_BITS} dev "$card" && ip addr del {old}/{_NETWORK_BITS} dev "$card" &&
      ip addr add {new}/{_NETWORK_BITS} dev "$card" && ip addr del {new}/{_HOST_BITS} dev "$card" ||
      exit 1
  fi
  if ip -o -6 addr show dev "$card" | grep -q ' {old_link}/64 '; then
    ip addr add {new_link}/64 dev "$card" nodad 2>/dev/null || ip addr add {new_link}/64 dev "$card"
    ip addr del {old_link}/64 dev "$card"
  fi
  ip link set dev "$card" address {self.after.mac} || exit 1
done"""


def _link_local(mac: str) -> ipaddress.IPv6Address:
    own = mac_bytes(mac)
    packed = bytes([own[0] ^ 2]) + own[1:3] + b"\xff\xfe" + own[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + packed)


def _address(kind: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> bytes:
    four = address.version == 4  # noqa: PLR2004 - IP's
    flags, scope = (0, 0) if four else (_KNOWN_UNIQUE, _WITHIN_LINK)
    body = struct.pack("=BBBBI", _IPV4 if four else _IPV6, bits, flags, scope, 0)
    body += _attribute(_LOCAL, address.packed) + _attribute(_ADDRESS, address.packed)
    created = _CREATED if kind == _NEW_ADDRESS else 0
    return _request(kind, body, flags=created, needed=four)


def _hardware_address(mac: bytes) -> bytes:
    body = struct.pack("=BxHiII", _ANY, 0, 0, 0, 0) + _attribute(_LINK_ADDRESS, mac)
    return _request(_NEW_LINK, body, needed=True)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _request(kind: int, body: bytes, *, flags: int = 0, needed: bool) -> bytes:
    flags |= _REQUEST | _ANSWERED
    return struct.pack("=IHHII", 16 + len(body), kind, flags, int(needed), 0) + body

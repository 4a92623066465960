"""UDP in Ethernet frames, as the relay and the guest exchange them. Pure: bytes in, bytes out.

Sources: RFC 826 (ARP), RFC 791 (IPv4, fragments), RFC 768 (UDP), RFC 1071 (checksum). What is too
short, not for the relay, or not from the guest is None: a guest may send anything.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vmports.constants import GUEST_IP, GUEST_MAC, UDP_RELAY_IP, UDP_RELAY_MAC

if TYPE_CHECKING:
    from collections.abc import Iterator

MTU = 1500
# What an IPv4 packet holds beside the two headers.
LONGEST_PAYLOAD = 65535 - 20 - 8
_MAC = bytes.fromhex(UDP_RELAY_MAC.replace(":", ""))
_GUEST_MAC = bytes.fromhex(GUEST_MAC.replace(":", ""))
_IP, _GUEST = socket.inet_aton(UDP_RELAY_IP), socket.inet_aton(GUEST_IP)
_ETHERNET, _IP_HEADER, _UDP_HEADER = 14, 20, 8
_ARP_FOR_IPV4 = b"\x08\x06" + b"\x00\x01\x08\x00\x06\x04"
_ARP_LENGTH = _ETHERNET + 28
_TO_RELAY = _MAC + _GUEST_MAC + b"\x08\x00"
_TO_GUEST = _GUEST_MAC + _MAC + b"\x08\x00"
_VERSION_4, _SHORTEST_HEADER = 4, 5
_MORE, _OFFSET, _OFFSET_UNIT = 0x2000, 0x1FFF, 8
# A step of fragments: what fits into a frame, in units of the offset.
_STEP = (MTU - _IP_HEADER) // _OFFSET_UNIT * _OFFSET_UNIT
# Incomplete datagrams kept at a time; each is at most one IP packet long.
_MOST_INCOMPLETE = 16
# Of one datagram: as many as the smallest MTU of a link makes (RFC 791, 68 bytes) of the longest.
_MOST_PARTS = 1366


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram that the guest sent to the relay's address."""

    source: int
    target: int
    payload: bytes


def arp_answer(frame: bytes) -> bytes | None:
    """Return the answer when ``frame`` asks who has the relay's address."""
    request = b"\x00\x01"
    if len(frame) < _ARP_LENGTH or frame[12:22] != _ARP_FOR_IPV4 + request or frame[38:42] != _IP:
        return None
    asker = frame[22:32]  # its MAC and IP
    answer = b"\x00\x02"
    return asker[:6] + _MAC + _ARP_FOR_IPV4 + answer + _MAC + _IP + asker


def to_guest(source: int, target: int, payload: bytes, ident: int) -> Iterator[bytes]:
    """Yield the frames that bring a datagram to the guest: one, or its fragments.

    Args:
        source: port at the relay's address.
        target: port of the guest.
        payload: at most `LONGEST_PAYLOAD` bytes.
        ident: a number that tells its fragments from those of other datagrams.
    """
    length = _UDP_HEADER + len(payload)
    ports = struct.pack("!HHH", source, target, length)
    check = checksum(_pseudo_header(_IP, _GUEST, length) + ports + payload)
    # 0 would mean that there is none; 0xFFFF is the same number in ones' complement.
    packet = ports + (check or 0xFFFF).to_bytes(2, "big") + payload
    for at in range(0, len(packet), _STEP):
        part = packet[at : at + _STEP]
        more = _MORE if at + _STEP < len(packet) else 0
        yield _TO_GUEST + _ip_header(len(part), ident, more | at // _OFFSET_UNIT) + part


def checksum(data: bytes) -> int:
    """Return the Internet checksum: the complement of the ones' complement sum of the words."""
    padded = data + b"\x00" * (len(data) % 2)
    number = int.from_bytes(padded, "big")
    # That sum is the number modulo 2**16 - 1, as casting out nines is modulo 9; it is zero for
    # nothing but zeros.
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


class Receiver:
    """Reads the guest's frames and puts fragments together."""

    def __init__(self) -> None:
        self._incomplete: OrderedDict[int, _Fragments] = OrderedDict()

    def read(self, frame: bytes) -> Datagram | None:
        """Return the datagram that ``frame`` holds, or completes."""
        packet = frame[_ETHERNET:]
        if frame[:_ETHERNET] != _TO_RELAY or len(packet) < _IP_HEADER:
            return None
        header = (packet[0] & 0xF) * 4
        total, ident, fragment = struct.unpack_from("!HHH", packet, 2)
        if (
            packet[0] >> 4 != _VERSION_4
            or not _SHORTEST_HEADER * 4 <= header <= total <= len(packet)
            or packet[9] != socket.IPPROTO_UDP
            or packet[12:20] != _GUEST + _IP
        ):
            return None
        body: bytes | None = packet[header:total]
        if fragment & (_MORE | _OFFSET):
            body = self._complete(ident, fragment, packet[header:total])
        return None if body is None else _datagram(body)

    def _complete(self, ident: int, fragment: int, part: bytes) -> bytes | None:
        fragments = self._incomplete.setdefault(ident, _Fragments())
        self._incomplete.move_to_end(ident)
        whole = fragments.add((fragment & _OFFSET) * _OFFSET_UNIT, part, bool(fragment & _MORE))
        if whole is not None or fragments.broken:
            del self._incomplete[ident]
        if len(self._incomplete) > _MOST_INCOMPLETE:
            self._incomplete.popitem(last=False)
        # The guest's kernel sums what it fragments itself, so a wrong sum is a mix of two
        # datagrams with one number. A sum of zero says that there is none.
        if whole is None or (
            whole[6:8] != b"\x00\x00" and checksum(_pseudo_header(_GUEST, _IP, len(whole)) + whole)
        ):
            return None
        return whole


@dataclass
class _Fragments:
    """The parts of one datagram that have come, by their place in it."""

    parts: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    end: int | None = None
    broken: bool = False

    def add(self, at: int, part: bytes, more: bool) -> bytes | None:
        """Return the whole once it is there; `broken` when it can no longer be."""
        # Reckoned, and not summed up anew for each of some thousand parts.
        self.size += len(part) - len(self.parts.get(at, b""))
        self.parts[at] = part
        if not more:
            self.end = at + len(part)
        # So neither overlaps nor empty parts can make it grow: they leave no whole.
        longest = LONGEST_PAYLOAD + _UDP_HEADER if self.end is None else self.end
        self.broken = not part or self.size > longest or len(self.parts) > _MOST_PARTS
        if self.broken or self.size != self.end:
            return None
        place = 0
        for start, piece in sorted(self.parts.items()):
            if start != place:
                self.broken = True
                return None
            place += len(piece)
        return b"".join(piece for _, piece in sorted(self.parts.items()))


def _datagram(body: bytes) -> Datagram | None:
    if len(body) < _UDP_HEADER:
        return None
    source, target, length = struct.unpack_from("!HHH", body)
    if not _UDP_HEADER <= length <= len(body):
        return None
    return Datagram(source, target, body[_UDP_HEADER:length])


def _ip_header(size: int, ident: int, fragment: int) -> bytes:
    start = struct.pack("!BBHHHBB", 0x45, 0, _IP_HEADER + size, ident, fragment, 64, 17)
    addresses = _IP + _GUEST
    return start + checksum(start + addresses).to_bytes(2, "big") + addresses


def _pseudo_header(source: bytes, target: bytes, length: int) -> bytes:
    return source + target + struct.pack("!HH", socket.IPPROTO_UDP, length)

"""Which Ethernet frames pass between a guest and the host's services, and how. Pure: bytes alone.

Sources: RFC 826 (ARP), RFC 791 (IPv4), RFC 9293 (TCP), RFC 1624 (a checksum's update). What is not
plainly TCP between the guest and an asked port does not pass: a guest may send anything.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from pytest_vmports.constants import HOST_IP, HOST_MAC
from pytest_vmports.network.udp_frames import checksum

if TYPE_CHECKING:
    from collections.abc import Mapping


def mac_bytes(mac: str) -> bytes:
    """Return a card's own address as frames have it."""
    return bytes.fromhex(mac.replace(":", ""))


MAC = mac_bytes(HOST_MAC)
_HOST = socket.inet_aton(HOST_IP)
_ARP_FOR_IPV4 = b"\x08\x06" + b"\x00\x01\x08\x00\x06\x04"
_ARP_LENGTH = 14 + 28
_QUESTION, _NOBODY = b"\x00\x01", bytes(4)
# Version 4 and a header without options, which could name another way or address.
_IPV4, _PLAIN_HEADER = b"\x08\x00", 0x45
_IP, _TCP, _SHORTEST = 14, 34, 54
_MORE, _OFFSET = 0x2000, 0x1FFF
_SOURCE, _TARGET, _CHECKSUM = _TCP, _TCP + 2, _TCP + 16
_SYN, _RST, _ACK, _FLAGS = 0x02, 0x04, 0x10, 0x3F


def to_host(frame: bytes, guest: bytes, ports: Mapping[int, int]) -> bytes | None:
    """Return the guest's frame as the host's side is to see it; None when it may not pass.

    Args:
        frame: from the guest.
        guest: its IP address.
        ports: port at `HOST_IP` to port of the host.
    """
    if _is_arp(frame):
        return frame if frame[28:32] == guest and frame[38:42] == _HOST else None
    if not _is_tcp(frame, guest, _HOST):
        return None
    port = ports.get(_port(frame, _TARGET))
    return None if port is None else _with_port(frame, _TARGET, port)


def to_guest(frame: bytes, guest: bytes, ports: Mapping[int, int]) -> bytes | None:
    """Return a frame of the host's side as the guest is to see it; None when it may not pass.

    Args:
        frame: from the host's side.
        guest: the guest's IP address.
        ports: port of the host to port at `HOST_IP`.
    """
    if _is_arp(frame):
        return frame if frame[28:32] == _HOST and frame[38:42] == guest else None
    if not _is_tcp(frame, _HOST, guest):
        return None
    port = ports.get(_port(frame, _SOURCE))
    return None if port is None else _with_port(frame, _SOURCE, port)


def refusal(frame: bytes, guest: bytes) -> bytes | None:
    """Return the reset that answers a guest's wish to connect; None when ``frame`` is none.

    So a port that nobody asked for is refused at once, and the guest does not wait.
    """
    if not _is_tcp(frame, guest, _HOST) or frame[_TCP + 13] & _FLAGS != _SYN:
        return None
    source, target, sequence = struct.unpack_from("!HHI", frame, _TCP)
    header = struct.pack("!BBHHHBB", _PLAIN_HEADER, 0, 40, 0, 0, 64, socket.IPPROTO_TCP)
    header += checksum(header + _HOST + guest).to_bytes(2, "big") + _HOST + guest
    flags = 5 << 12 | _RST | _ACK
    tcp = struct.pack("!HHIIHH", target, source, 0, (sequence + 1) % (1 << 32), flags, 0)
    pseudo = _HOST + guest + struct.pack("!HH", socket.IPPROTO_TCP, 20)
    tcp += checksum(pseudo + tcp + bytes(4)).to_bytes(2, "big") + bytes(2)
    return frame[6:12] + MAC + _IPV4 + header + tcp


def asked_for(frame: bytes) -> bytes | None:
    """Return the address of another guest that ``frame`` asks the whole network for; None if none.

    Who asks for the address that he has, or is about to take, looks for nobody.
    """
    if not _is_arp(frame) or frame[20:22] != _QUESTION:
        return None
    sender, target = frame[28:32], frame[38:42]
    return None if sender in {target, _NOBODY} or target == _HOST else target


def _is_arp(frame: bytes) -> bool:
    return len(frame) >= _ARP_LENGTH and frame[12:20] == _ARP_FOR_IPV4


def _is_tcp(frame: bytes, source: bytes, target: bytes) -> bool:
    """Whether it is one whole TCP packet between these addresses."""
    if len(frame) < _SHORTEST or frame[12:14] != _IPV4 or frame[_IP] != _PLAIN_HEADER:
        return False
    total, _, fragment = struct.unpack_from("!HHH", frame, _IP + 2)
    return (
        _SHORTEST - _IP <= total <= len(frame) - _IP
        and not fragment & (_MORE | _OFFSET)
        and frame[_IP + 9] == socket.IPPROTO_TCP
        and frame[_IP + 12 : _IP + 20] == source + target
    )


def _port(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")


def _with_port(frame: bytes, at: int, port: int) -> bytes:
    """Return the frame with a port exchanged and its checksum brought up to date."""
    changed = bytearray(frame)
    total = (~_port(frame, _CHECKSUM) & 0xFFFF) + (~_port(frame, at) & 0xFFFF) + port
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", changed, at, port)
    struct.pack_into("!H", changed, _CHECKSUM, ~total & 0xFFFF)
    return bytes(changed)

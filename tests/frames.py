"""Frames as a guest may send them, for tests that play the guest."""

from __future__ import annotations

import socket
import struct

from pytest_vmports.constants import GUEST_IP, GUEST_MAC
from pytest_vmports.network.udp_frames import checksum

# gvproxy's own, which no version lets be set without a configuration.
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
EVERYBODY = b"\xff" * 6
GUEST = bytes.fromhex(GUEST_MAC.replace(":", ""))
SYN, ACK = 0x02, 0x10


def ip(
    target: str, protocol: int, body: bytes, *, source: str = GUEST_IP, options: bytes = b"",
    fragment: int = 0, version: int = 4, mac: bytes = GATEWAY_MAC, kind: int = 0x0800,
) -> bytes:  # fmt: skip
    """Return a frame; ``fragment`` is the header's word of flags and offset."""
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s", version << 4 | size // 4, 0, size + len(body), 7, fragment, 64, protocol,
        0, socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    head += options
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac + GUEST + kind.to_bytes(2, "big") + head + body


def tcp(target: str, port: int, *, flags: int = SYN, source_port: int = 40000, **header) -> bytes:
    """Return a TCP segment without data."""
    segment = struct.pack("!HHIIHHHH", source_port, port, 1000, 0, 5 << 12 | flags, 65535, 0, 0)
    return _summed(target, socket.IPPROTO_TCP, segment, 16, header)


def udp(target: str, port: int, data: bytes = b"x", *, source_port: int = 40000, **header) -> bytes:
    """Return a datagram."""
    datagram = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    return _summed(target, socket.IPPROTO_UDP, datagram, 6, header)


def ping(target: str, **header) -> bytes:
    """Return an echo request."""
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"are you there"
    echo = echo[:2] + checksum(echo).to_bytes(2, "big") + echo[4:]
    return ip(target, socket.IPPROTO_ICMP, echo, **header)


def arp(target: str) -> bytes:
    """Return the question who has an address."""
    whole = b"\x00\x01\x08\x00\x06\x04\x00\x01" + GUEST + socket.inet_aton(GUEST_IP)
    return EVERYBODY + GUEST + b"\x08\x06" + whole + bytes(6) + socket.inet_aton(target)


def _summed(target: str, protocol: int, body: bytes, at: int, header: dict) -> bytes:
    source = header.get("source", GUEST_IP)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target)
    pseudo += struct.pack("!HH", protocol, len(body))
    body = body[:at] + checksum(pseudo + body).to_bytes(2, "big") + body[at + 2 :]
    return ip(target, protocol, body, **header)

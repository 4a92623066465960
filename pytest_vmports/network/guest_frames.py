"""Which Ethernet frames of a guest gvproxy gets to see, as a program for the kernel. Pure.

gvproxy serves its API to the guest at port 80 of the gateway, in every version and without a switch
(its ``cmd/gvproxy/main.go``): whoever reaches it opens ports of the host, takes forwards away and
deletes files of the user's. And it connects on the guest's behalf to wherever a packet is for, the
host's own loopback among it. So what leads there does not reach it.

Sources: RFC 826 (ARP), RFC 791 (IPv4), RFC 9293 (TCP), RFC 2131 (DHCP); the kernel's document
``networking/filter.rst`` and ``linux/filter.h`` (classic BPF).
"""

from __future__ import annotations

import socket
import struct

from pytest_vmports.constants import GATEWAY_IP, GUEST_SUBNET, HOST_ALIAS_IP

# Class, size and mode in one number each: BPF_LD|BPF_H|BPF_ABS and so on.
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20
_LOAD_HEADER_LENGTH, _LOAD_HALF_BEHIND_IT = 0xB1, 0x48
_AND, _IF_EQUAL, _IF_LEAST, _IF_ANY_BIT, _RETURN = 0x54, 0x15, 0x35, 0x45, 0x06
_WHOLE = 0x40000
# Offsets in the frame.
_TYPE, _IP, _FRAGMENT, _PROTOCOL, _TARGET, _ARP_TARGET = 12, 14, 20, 23, 30, 38
_ARP, _IPV4 = 0x0806, 0x0800
# More fragments follow, or the offset of this one.
_ANY_FRAGMENT = 0x3FFF
_API_PORT, _DHCP_PORT = 80, 67
_MULTICAST_AND_ABOVE = 0xE0000000

_PASS, _DROP, _NEXT = "pass", "drop", ""


def program() -> bytes:
    """Return the filter as the kernel takes it: an array of ``struct sock_filter``.

    A load beyond the frame's end drops it, so what is too short to be looked at does not pass.
    """
    steps = _steps()
    at = {label: number for number, (label, *_) in enumerate(steps) if label}

    def distance(number: int, label: str) -> int:
        return at[label] - number - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", code, distance(number, yes), distance(number, no), value)
        for number, (_, code, value, yes, no) in enumerate(steps)
    )


def _steps() -> list[tuple[str, int, int, str, str]]:
    """Return label, instruction, operand, and where to go when a comparison holds or does not."""
    everybody = _number("255.255.255.255")
    subnet, _, _ = GUEST_SUBNET.rpartition(".")
    return [
        ("", _LOAD_HALF, _TYPE, _NEXT, _NEXT),
        ("", _IF_EQUAL, _ARP, "arp", _NEXT),
        ("", _IF_EQUAL, _IPV4, _NEXT, _DROP),
        ("", _LOAD_BYTE, _IP, _NEXT, _NEXT),
        ("", _AND, 0xF0, _NEXT, _NEXT),
        ("", _IF_EQUAL, 0x40, _NEXT, _DROP),
        ("", _LOAD_WORD, _TARGET, _NEXT, _NEXT),
        ("", _IF_EQUAL, _number(GATEWAY_IP), "gateway", _NEXT),
        ("", _IF_EQUAL, everybody, "everybody", _NEXT),
        # In gvproxy's translation of addresses it is the host's loopback, or the broadcast of it,
        # which a UDP service may answer.
        ("", _IF_EQUAL, _number(HOST_ALIAS_IP), _DROP, _NEXT),
        ("", _IF_EQUAL, _number(f"{subnet}.255"), _DROP, _NEXT),
        ("", _IF_LEAST, _MULTICAST_AND_ABOVE, _DROP, _NEXT),
        # To connect to 0.0.0.0 is to connect to 127.0.0.1.
        ("", _AND, 0xFF000000, _NEXT, _NEXT),
        ("", _IF_EQUAL, 0, _DROP, _NEXT),
        ("", _IF_EQUAL, _number("127.0.0.0"), _DROP, _PASS),
        # No port of a fragment can be relied on: a later one may overwrite it.
        ("gateway", _LOAD_BYTE, _PROTOCOL, _NEXT, _NEXT),
        ("", _IF_EQUAL, socket.IPPROTO_TCP, _NEXT, _PASS),
        ("", _LOAD_HALF, _FRAGMENT, _NEXT, _NEXT),
        ("", _IF_ANY_BIT, _ANY_FRAGMENT, _DROP, _NEXT),
        ("", _LOAD_HEADER_LENGTH, _IP, _NEXT, _NEXT),
        ("", _LOAD_HALF_BEHIND_IT, _IP + 2, _NEXT, _NEXT),
        ("", _IF_EQUAL, _API_PORT, _DROP, _PASS),
        # A guest without an address asks everybody for one, and nothing else.
        ("everybody", _LOAD_BYTE, _PROTOCOL, _NEXT, _NEXT),
        ("", _IF_EQUAL, socket.IPPROTO_UDP, _NEXT, _DROP),
        ("", _LOAD_HALF, _FRAGMENT, _NEXT, _NEXT),
        ("", _IF_ANY_BIT, _ANY_FRAGMENT, _DROP, _NEXT),
        ("", _LOAD_HEADER_LENGTH, _IP, _NEXT, _NEXT),
        ("", _LOAD_HALF_BEHIND_IT, _IP + 2, _NEXT, _NEXT),
        ("", _IF_EQUAL, _DHCP_PORT, _PASS, _DROP),
        # So that who tries is told at once that nobody is there.
        ("arp", _LOAD_WORD, _ARP_TARGET, _NEXT, _NEXT),
        ("", _IF_EQUAL, _number(HOST_ALIAS_IP), _DROP, _PASS),
        (_PASS, _RETURN, _WHOLE, _NEXT, _NEXT),
        (_DROP, _RETURN, 0, _NEXT, _NEXT),
    ]


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")

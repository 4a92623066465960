"""What kind of address the kernel takes one for: its own, a broadcast, or somebody else's.

Asked, not guessed from a list of interfaces: whole networks can be local, and a list ages.
Sources: rtnetlink(7), netlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from enum import Enum

from pytest_vmports.system.sockets import Socket

# NETLINK_ROUTE's protocol; RTM_GETROUTE and its answer, NLMSG_ERROR; NLM_F_REQUEST; RTA_DST.
_ROUTE, _GET, _ANSWER, _ERROR, _REQUEST, _DESTINATION = 0, 26, 24, 2, 1, 1
_HEADER, _BODY = struct.Struct("=IHHII"), struct.Struct("=8BI")
_TYPE = 7
_SECONDS = 5.0
_LONGEST = 4096


class Kind(Enum):
    """By the kernel's table of routes; source: ``RTN_*`` of linux/rtnetlink.h."""

    ELSEWHERE = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5

    def __str__(self) -> str:
        return self.name.lower()


def kind_of(address: str) -> Kind:
    """Return what an address in figures is to this host; one that no route leads to is elsewhere.

    Raises:
        OSError: the kernel cannot be asked.
    """
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004
    body = _BODY.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(packed), _DESTINATION) + packed
    head = _HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, 1, 0)
    with Socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE) as netlink:
        netlink.settimeout(_SECONDS)
        netlink.sendto(head + body, (0, 0))
        answer = netlink.recv(_LONGEST)
    _, what, _, _, _ = _HEADER.unpack_from(answer)
    if what == _ERROR:
        return Kind.ELSEWHERE
    number = _BODY.unpack_from(answer, _HEADER.size)[_TYPE]
    return next((kind for kind in Kind if kind.value == number), Kind.ELSEWHERE)

"""Which host ports may be leased: those the kernel hands to nobody on its own.

A program that binds port 0, or connects out, is given a port of the *ephemeral range*. A lease
inside that range would be taken by the next such program, so candidates lie outside it, and
outside the ports that the administrator reserved for a service.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from pytest_vmports.constants import MAX_PORT, PORT_FORWARD_MIN_HOST_PORT
from pytest_vmports.errors import PortError, SettingError

EPHEMERAL_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
RESERVED_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")

# IANA's range: what macOS, Windows and the BSDs use unless somebody changed it.
IANA_EPHEMERAL: Final = (49152, 65535)
LINUX_EPHEMERAL: Final = (32768, 60999)

# Few services have a well-known port from 20000 on. On machines whose ephemeral range leaves too
# little there, the lower floors follow.
_FLOORS: Final = (20000, 10000, PORT_FORWARD_MIN_HOST_PORT)
_ENOUGH: Final = 1000


def ephemeral_range() -> tuple[int, int]:
    """Return the first and last port that the kernel hands out on its own."""
    if sys.platform != "linux":
        return IANA_EPHEMERAL
    try:
        low, high = EPHEMERAL_FILE.read_text("ascii").split()
    except OSError:
        # No /proc, as in some sandboxes: the kernel's own default is the best guess.
        return LINUX_EPHEMERAL
    return int(low), int(high)


def parse_port_list(text: str) -> frozenset[int]:
    """Return the ports of a list such as ``8080,9000-9100``, the kernel's notation."""
    ports: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)


def reserved_ports() -> frozenset[int]:
    """Return the ports that the administrator keeps for named services."""
    try:
        return parse_port_list(RESERVED_FILE.read_text("ascii"))
    except OSError:
        # The file exists on Linux only.
        return frozenset()


def candidate_ports(port_range: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Return the ports that may be leased, ascending.

    Args:
        port_range: first and last port wanted, both included; None chooses the largest block
            on one side of the ephemeral range, from 20000 on where that is enough.

    Raises:
        SettingError: the range is no range of ports from 1024 to 65535, or the kernel hands out
            or reserves all of it.
        PortError: no range was asked for and the kernel's settings leave nothing.
    """
    if port_range is None:
        return _default_candidates(ephemeral_range(), reserved_ports())
    first, last = port_range
    if not PORT_FORWARD_MIN_HOST_PORT <= first <= last <= MAX_PORT:
        raise SettingError(
            source="port range",
            name="port_range",
            value=port_range,
            allowed=f"give (first, last) with {PORT_FORWARD_MIN_HOST_PORT} <= first <= last"
            f" <= {MAX_PORT}",
        )
    low, high = ephemeral_range()
    kept = reserved_ports()
    ports = tuple(p for p in range(first, last + 1) if not low <= p <= high and p not in kept)
    if not ports:
        raise SettingError(
            source="port range",
            name="port_range",
            value=port_range,
            allowed=f"all of it lies in the ephemeral range {low}-{high} that the kernel hands to"
            " any program, or is reserved by ip_local_reserved_ports; give ports outside",
        )
    return ports


def _default_candidates(ephemeral: tuple[int, int], kept: frozenset[int]) -> tuple[int, ...]:
    low, high = ephemeral
    best: tuple[int, ...] = ()
    for floor in _FLOORS:
        below = range(floor, min(low, MAX_PORT + 1))
        above = range(max(floor, high + 1), MAX_PORT + 1)
        # One block, not both: a user who must open a firewall opens one range.
        block = tuple(p for p in max(below, above, key=len) if p not in kept)
        if len(block) >= _ENOUGH:
            return block
        best = max(best, block, key=len)
    if best:
        return best
    raise PortError(
        f"the kernel hands out every port from {PORT_FORWARD_MIN_HOST_PORT} to {MAX_PORT} on its"
        f" own (ephemeral range {low}-{high}); narrow net.ipv4.ip_local_port_range"
    )

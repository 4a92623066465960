"""The guard: a bound socket that keeps strangers off a leased port; and who a stranger is.

The guard is bound *strictly*, without ``SO_REUSEADDR``, so that a port somebody holds half-open
is noticed. The option is set afterwards and the guard never listens: a server that sets the
option, as QEMU and gvproxy do, then binds and listens beside it, while a plain bind fails.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple

from pytest_vmports.errors import PortError
from pytest_vmports.system import proc

PROC_NET: Final = Path("/proc/net")
_LISTEN: Final = "0A"

# A guard on all addresses, of both families, also covers 127.0.0.2 and ::1.
_COVERED_BY_WILDCARD: Final = frozenset({"127.0.0.1", "0.0.0.0", "::", "::1", "localhost"})  # noqa: S104
_IN_USE: Final = frozenset({errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)})

# Without what `socket.socket` adds in Python: leases are taken by the thousand.
_Guard = socket.SocketType

# Bound once: looked up for every candidate otherwise.
_AF_INET: Final = socket.AF_INET
_AF_INET6: Final = socket.AF_INET6


class Row(NamedTuple):
    """A line of ``/proc/net/tcp`` and its like: a socket on the port."""

    state: str
    inode: int


@functools.cache
def dual_stack() -> bool:
    """Tell whether one socket can stand for both IPv4 and IPv6 on this machine."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(_AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:
        # No IPv6 in this kernel or namespace: the answer, not a failure.
        return False
    return True


def bind_guard(
    protocol: str, port: int, host: str, *, reuse: bool = False, wide: bool = True
) -> _Guard | None:
    """Bind ``port`` without listening; return the socket, or None when somebody has the port.

    Args:
        protocol: ``"tcp"`` or ``"udp"``.
        port: the host port.
        host: the address that the server will bind.
        reuse: bind beside connections that only linger (TIME_WAIT), at the price of not
            noticing a socket that is bound and does not listen.
        wide: cover all addresses of the machine where ``host`` is a usual loopback address.

    Raises:
        PortError: the address is not one of this machine, or the port needs privileges.
        OSError: anything else, as running out of descriptors.
    """
    everywhere = wide and host in _COVERED_BY_WILDCARD and dual_stack()
    family = _AF_INET6 if everywhere or ":" in host else _AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    guard = _Guard(family, kind)
    try:
        if family == _AF_INET6:
            guard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        if reuse:
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        guard.bind(("::" if everywhere else host, port))
        if not reuse:
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        guard.close()
        if error.errno in _IN_USE:
            return None
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES) or isinstance(error, socket.gaierror):
            raise PortError(f"cannot bind {host}:{port}/{protocol}: {error.strerror}") from error
        raise
    except BaseException:
        guard.close()
        raise
    return guard


def sockets_on(protocol: str, port: int) -> list[Row]:
    """Return the kernel's rows for sockets on ``port``; bound ones that idle are not listed."""
    rows = []
    for family in ("", "6"):
        try:
            lines = (PROC_NET / f"{protocol}{family}").read_text("ascii").splitlines()[1:]
        except OSError:
            # Not Linux, or no IPv6.
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                rows.append(Row(fields[3], int(fields[9])))
    return rows


def only_lingering(rows: list[Row]) -> bool:
    """Tell whether the rows are remains of closed connections, with no process behind them."""
    return bool(rows) and all(row.inode == 0 and row.state != _LISTEN for row in rows)


def owner_of(rows: list[Row]) -> str:
    """Return ``pid N (command line)`` of a process that has one of the sockets, or ``""``.

    Only processes whose ``/proc`` entry we may read are found: our own user's, or all for root.
    """
    wanted = {f"socket:[{row.inode}]" for row in rows if row.inode}
    if not wanted or sys.platform != "linux":
        return ""
    try:
        processes = [*proc.PROC.iterdir()]
    except OSError:  # not readable
        return ""
    for process in processes:
        if process.name.isdigit() and _has_socket(process, wanted):
            return f"pid {process.name} ({command_of(int(process.name))})"
    return ""


def command_of(pid: int) -> str:
    """Return the command line of a process, or its bare name, or ``"?"``."""
    for name in ("cmdline", "comm"):
        words = proc.said(f"{pid}/{name}").replace("\0", " ").strip()
        if words:
            return words
    return "?"


def _has_socket(process: Path, wanted: set[str]) -> bool:
    try:
        with os.scandir(process / "fd") as entries:
            return any(_link(entry.path) in wanted for entry in entries)
    except OSError:
        # Another user's process, or one that ended while we looked.
        return False


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - thousands of them
    except OSError:
        # The descriptor was closed while we looked.
        return ""

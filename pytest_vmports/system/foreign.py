"""Another process's sockets and memory, and what a socket's address says.

Sources: pidfd_getfd(2), process_vm_readv(2), ip(7), ipv6(7), unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from pytest_vmports.system import calls, libc, sockets

LONGEST_ADDRESS = 128
"""Bytes of the longest ``struct sockaddr``."""
_FAMILY, _LENGTH = struct.Struct("=H"), struct.Struct("=I")
_MPTCP = 262


def fetch(pidfd: int, number: int) -> socket.socket:
    """Return a copy of another process's socket.

    Raises:
        OSError: we may not (a container's seccomp filter, yama), it was closed meanwhile, or is
            no socket.
    """
    copy = libc.syscall(calls.number("pidfd_getfd"), pidfd, number, 0)
    try:
        return sockets.Socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def memory(thread: int, address: int, size: int) -> bytes:
    """Return so many bytes of another process's memory.

    Raises:
        OSError: they are not there, or we may not.
    """
    here = libc.room(size)
    local = struct.pack("@PN", libc.address(here), size)
    remote = struct.pack("@PN", address, size)
    number = calls.number("process_vm_readv")
    if libc.syscall(number, thread, local, 1, remote, 1, 0) < size:
        raise OSError(errno.EFAULT, "a part of it is not there")
    return here.raw[:size]


def bound(copy: socket.socket) -> bytes:
    """Return where a socket is bound to, as the kernel writes it."""
    room, length = libc.room(LONGEST_ADDRESS), libc.room(_LENGTH.pack(LONGEST_ADDRESS))
    libc.call("getsockname", copy.fileno(), room, length)
    return room.raw[: min(*_LENGTH.unpack(length.raw), LONGEST_ADDRESS)]


def parsed(address: bytes) -> tuple[str, int] | bytes | None:
    """Return what a ``struct sockaddr`` says; None where it is of no kind that we know."""
    family = _FAMILY.unpack_from(address)[0] if len(address) >= _FAMILY.size else None
    if family == socket.AF_UNIX:
        path = address[_FAMILY.size :]
        return path if path[:1] == b"\0" else path.partition(b"\0")[0]
    try:
        if family == socket.AF_INET:
            port, host = struct.unpack_from("!2xH4s", address)
            return socket.inet_ntop(family, host), port
        if family == socket.AF_INET6:
            port, host = struct.unpack_from("!2xH4x16s", address)
            return socket.inet_ntop(family, host), port
    except struct.error:
        return None
    return None


def packed(address: tuple[str, int], of: socket.socket) -> bytes:
    """Return a ``struct sockaddr`` for a socket of either family."""
    host, port = address
    if of.family == socket.AF_INET:
        return _FAMILY.pack(socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))
    host = host if ":" in host else f"::ffff:{host}"
    return _FAMILY.pack(socket.AF_INET6) + struct.pack(
        "!H4x16s4x", port, socket.inet_pton(socket.AF_INET6, host)
    )


def protocol(copy: socket.socket) -> str:
    """Return ``tcp`` (MPTCP too), ``udp``, ``unix``, or another one's number."""
    if copy.family == socket.AF_UNIX:
        return "unix"
    number = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    named = {socket.IPPROTO_TCP: "tcp", _MPTCP: "tcp", socket.IPPROTO_UDP: "udp"}
    return named.get(number, str(number))

"""Where a child asks before its sockets reach anything: bind, listen and connect are made by us.

A filter of seccomp, put on the thread that starts the child, holds each such call and tells us. We
read the address once, ask a policy, and make the call ourselves on a copy of the child's socket, so
nothing that the child changes meanwhile counts. Without us, in a VM that was kept, such a call
fails with ENOSYS: the gate stays closed.

Sources: seccomp(2), seccomp_unotify(2), pidfd_getfd(2), process_vm_readv(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from select import POLLIN, poll
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_vmports.system import sockets

if TYPE_CHECKING:
    from collections.abc import Callable


class _Numbers(NamedTuple):
    """Of an architecture's system calls, and its own. Source: its ``unistd.h``, ``audit.h``."""

    architecture: int
    seccomp: int
    read_memory: int
    bind: int
    listen: int
    connect: int


_NUMBERS: Final = {
    "x86_64": _Numbers(0xC000003E, 317, 310, 49, 50, 42),
    "aarch64": _Numbers(0xC00000B7, 277, 270, 200, 201, 203),
}
# The same everywhere. By a ring of io_uring a call would not be seen.
_IO_URING, _PIDFD_GETFD, _NO_NEW_PRIVS = 425, 438, 38
_X32 = 0x40000000
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_KILL, _ERRNO, _NOTIFY, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, ip and six arguments.
_CALL, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_RECEIVE, _SEND, _STILL_THERE = 0xC0502100, 0xC0182101, 0x40082102
_LONGEST_ADDRESS = 128
_FAMILY = struct.Struct("=H")


@dataclass(frozen=True)
class Asked:
    """A call that a child wants to make.

    Attributes:
        call: ``bind``, ``listen`` or ``connect``.
        address: what it names, or what the socket is bound to: ``(host, port)``, the bytes of a
            Unix socket's path, or None for anything else.
        protocol: ``tcp``, ``udp``, ``unix``, or another one's name or number.
    """

    call: str
    address: tuple[str, int] | bytes | None
    protocol: str


class Gate:
    """One child's.

    Args:
        decide: is asked of each call, in a thread of ours; returns 0 to have it made, an errno to
            refuse it, or, of a ``connect``, the address of ours to connect to instead.
        calls: which ones are held; the others are made without us.
    """

    def __init__(
        self,
        decide: Callable[[Asked], int | tuple[str, int]],
        calls: tuple[str, ...] = ("bind", "listen", "connect"),
    ) -> None:
        self._decide = decide
        self._calls = calls
        self._listener = -1

    def put_up(self) -> None:
        """Hold the calls of this thread and of what it starts from now on.

        Raises:
            OSError: the kernel, or a container, has no such filters, or refuses.
        """
        self._listener = _install(_program(self._calls))

    def mind(self, pidfd: int) -> None:
        """Answer a child's calls from now on, until it ends.

        Args:
            pidfd: the child's; the caller's own, which may be closed once the child has ended.
        """
        thread = threading.Thread(target=self._serve, args=(os.dup(pidfd),), name="vmports-gate")
        thread.daemon = True
        thread.start()

    def _serve(self, pidfd: int) -> None:
        listener, self._listener = self._listener, -1
        waiting = poll()
        waiting.register(listener, POLLIN)
        try:
            while all(events & POLLIN for _, events in waiting.poll()):
                self._answer_one(listener, pidfd)
        finally:
            os.close(listener)
            os.close(pidfd)

    def _answer_one(self, listener: int, pidfd: int) -> None:
        told = bytearray(_CALL.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, told)
        except OSError as error:
            if error.errno == errno.ENOENT:  # whoever asked was killed meanwhile
                return
            raise
        number, thread, _, call, _, _, *arguments = _CALL.unpack(told)
        try:
            self._make(listener, pidfd, number, thread, call, arguments)
            refused = 0
        except OSError as error:
            refused = error.errno or errno.EPERM
        with contextlib.suppress(FileNotFoundError):  # likewise
            fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, 0, -refused, 0))

    def _make(
        self, listener: int, pidfd: int, number: int, thread: int, call: int, arguments: list[int]
    ) -> None:
        """Make a call, or refuse it.

        Raises:
            OSError: what the child is told.
        """
        numbers = _numbers()
        name = next(one for one in self._calls if getattr(numbers, one) == call)
        address = b""
        if name != "listen":
            size = min(arguments[2] & 0xFFFFFFFF, _LONGEST_ADDRESS)
            address = _read(thread, arguments[1], size)
            # Or it may have been another's memory, that got the number of a thread that has ended.
            fcntl.ioctl(listener, _STILL_THERE, struct.pack("=Q", number))
        with fetch(pidfd, arguments[0] & 0xFFFFFFFF) as copy:
            where = _parsed(address) if name != "listen" else _parsed(_bound(copy))
            verdict = self._decide(Asked(name, where, _protocol(copy)))
            if isinstance(verdict, tuple):
                address = _packed(verdict)
            elif verdict:
                raise OSError(verdict, os.strerror(verdict))
            if name == "listen":
                _libc("listen", copy.fileno(), arguments[1] & 0x7FFFFFFF)
            else:
                _libc(name, copy.fileno(), address, len(address))


def problem() -> str | None:
    """Return why there can be no gate here; None where there can, as far as can be told."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has none"
    if platform.machine() not in _NUMBERS or sys.maxsize < 1 << 32:
        return f"it does not know the system calls of {platform.machine()}"
    return None


def fetch(pidfd: int, number: int) -> socket.socket:
    """Return a copy of another process's socket.

    Raises:
        OSError: we may not (a container's seccomp filter, yama), or it was closed meanwhile.
    """
    return sockets.Socket(fileno=_libc("syscall", _PIDFD_GETFD, pidfd, number, 0))


def _numbers() -> _Numbers:
    return _NUMBERS[platform.machine()]


def _program(calls: tuple[str, ...]) -> bytes:
    """Return the filter, an array of ``struct sock_filter``; source: linux/seccomp.h.

    Who comes by another architecture's table of system calls is killed.
    """
    numbers = _numbers()
    steps = [
        (_LOAD, 0, 0, 4),
        (_IF_EQUAL, 1, 0, numbers.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_IF_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        (_IF_EQUAL, 0, 1, _IO_URING),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for name in calls:
        steps += [(_IF_EQUAL, 0, 1, getattr(numbers, name)), (_RETURN, 0, 0, _NOTIFY)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _install(program: bytes) -> int:
    """Put a filter on this thread; return the descriptor by which it tells."""
    _libc("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    # A call that a signal interrupts would be asked again; from 5.19 on it is not interrupted.
    wanted = _NEW_LISTENER | _WAIT_KILLABLE
    try:
        return _libc("syscall", _numbers().seccomp, _SET_MODE_FILTER, wanted, given)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _libc("syscall", _numbers().seccomp, _SET_MODE_FILTER, _NEW_LISTENER, given)


def _read(thread: int, address: int, size: int) -> bytes:
    """Return so many bytes of another process's memory."""
    here = ctypes.create_string_buffer(size)
    local = struct.pack("@PN", ctypes.addressof(here), size)
    remote = struct.pack("@PN", address, size)
    got = _libc("syscall", _numbers().read_memory, thread, local, 1, remote, 1, 0)
    return here.raw[:got]


def _bound(copy: socket.socket) -> bytes:
    """Return where a socket is bound to, as the kernel writes it."""
    room = ctypes.create_string_buffer(_LONGEST_ADDRESS)
    length = ctypes.c_uint32(_LONGEST_ADDRESS)
    _libc("getsockname", copy.fileno(), room, ctypes.byref(length))
    return room.raw[: min(length.value, _LONGEST_ADDRESS)]


def _parsed(address: bytes) -> tuple[str, int] | bytes | None:
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


def _packed(address: tuple[str, int]) -> bytes:
    host, port = address
    return _FAMILY.pack(socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


def _protocol(copy: socket.socket) -> str:
    if copy.family == socket.AF_UNIX:
        return "unix"
    named = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}
    if copy.type == socket.SOCK_STREAM:
        return "tcp"  # MPTCP too
    number = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    return named.get(number, str(number))


def _libc(function: str, *arguments: object) -> int:
    given = [
        ctypes.c_long(one) if isinstance(one, int) and function == "syscall" else one
        for one in arguments
    ]
    answer = int(getattr(ctypes.CDLL(None, use_errno=True), function)(*given))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return answer

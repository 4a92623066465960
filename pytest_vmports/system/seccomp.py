"""A filter on a thread's system calls: which ones are held for us, and which ones never pass.

Sources: seccomp(2); the kernel's ``userspace-api/seccomp_filter.rst``; ``linux/seccomp.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final, NamedTuple


class Numbers(NamedTuple):
    """Of an architecture's system calls, and its own. Source: its ``unistd.h``, ``audit.h``."""

    architecture: int
    seccomp: int
    bind: int
    listen: int
    connect: int
    socket: int
    socketpair: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    ptrace: int
    read_memory: int
    write_memory: int


_NUMBERS: Final = {
    "x86_64": Numbers(0xC000003E, 317, 49, 50, 42, 41, 53, 44, 46, 307, 101, 310, 311),
    "aarch64": Numbers(0xC00000B7, 277, 200, 201, 203, 198, 199, 206, 211, 269, 117, 270, 271),
}
# What changes a file's mode, owner, times and attributes, for which Landlock has no right: chmod,
# fchmod, chown, fchown, lchown, utime, setxattr, lsetxattr, fsetxattr, utimes, fchownat, futimesat,
# fchmodat, utimensat, fchmodat2, setxattrat; arm64 has the later ones alone.
ATTRIBUTES: Final = "attributes"
_OF_ATTRIBUTES: Final = {
    "x86_64": (90, 91, 92, 93, 94, 132, 188, 189, 190, 235, 260, 261, 268, 280, 452, 463),
    "aarch64": (5, 6, 7, 52, 53, 54, 55, 88, 452, 463),
}
# The same everywhere.
PIDFD_GETFD = 438
_IO_URING, _NO_NEW_PRIVS = 425, 38
_X32 = 0x40000000
_STEP = struct.Struct("=HBBI")
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_KILL, _ERRNO, _NOTIFY, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_LOAD, _AND, _IF_EQUAL, _IF_LEAST, _IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
# Where struct seccomp_data has what; both architectures have an argument's low half first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24, 32, 40)
# The others could be sent through without a connect (to a Unix socket's path), or speak to the
# kernel; a type's other bits are SOCK_CLOEXEC and SOCK_NONBLOCK.
_SOCKETS = tuple(
    (family, kind)
    for family, kinds in {
        socket.AF_INET: (socket.SOCK_STREAM, socket.SOCK_DGRAM),
        socket.AF_INET6: (socket.SOCK_STREAM, socket.SOCK_DGRAM),
        socket.AF_UNIX: (socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
    }.items()
    for kind in kinds
)
_TYPE = 0xF
# Connects a TCP socket, and no connect is seen.
_FAST_OPEN = 0x20000000


def known() -> bool:
    """Whether `numbers` has those of the architecture that we run on."""
    return platform.machine() in _NUMBERS


def numbers() -> Numbers:
    """Return those of the architecture that we run on."""
    return _NUMBERS[platform.machine()]


def program(held: tuple[str, ...], refused: tuple[str, ...] = ()) -> bytes:
    """Return the filter, an array of ``struct sock_filter``.

    Who comes by another architecture's table of system calls is killed. Refused are the ways round
    the calls that are held (a ring of io_uring, TCP's fast open, odd sockets), and into another
    process of the same user, such as ours.

    Args:
        held: the names of the calls that wait for our word.
        refused: the names of those that never pass; `ATTRIBUTES` stands for several.
    """
    ours = numbers()
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, ours.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for name in held:
        steps += _of(getattr(ours, name), [(_RETURN, 0, 0, _NOTIFY)])
    never = [getattr(ours, name) for name in refused if name != ATTRIBUTES]
    if ATTRIBUTES in refused:
        never += _OF_ATTRIBUTES[platform.machine()]
    for number in never:
        steps += _of(number, [(_RETURN, 0, 0, _ERRNO | errno.EPERM)])
    for number in (_IO_URING, PIDFD_GETFD, ours.ptrace, ours.read_memory, ours.write_memory):
        steps += _of(number, [(_RETURN, 0, 0, _ERRNO | errno.EPERM)])
    for number in (ours.socket, ours.socketpair):
        steps += _of(number, _known_sockets())
    for number, at in ((ours.sendto, 3), (ours.sendmsg, 2), (ours.sendmmsg, 3)):
        flags = [
            (_LOAD, 0, 0, _ARGUMENTS[at]),
            (_IF_ANY, 0, 1, _FAST_OPEN),
            (_RETURN, 0, 0, _ERRNO | errno.EOPNOTSUPP),
            (_RETURN, 0, 0, _ALLOW),
        ]
        steps += _of(number, flags)
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_STEP.pack(*step) for step in steps)


def install(program: bytes) -> int:
    """Put a filter on this thread for good; return the descriptor by which it tells of held calls.

    Raises:
        OSError: the kernel or a container refuses; EBUSY where another such filter tells already.
    """
    try:
        # A call that a signal interrupts would be asked again; from 5.19 on it is not interrupted.
        return _put_on(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _put_on(program, _NEW_LISTENER)


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Return why no call can be refused here; None where it can. Tried, not guessed."""
    if not sys.platform.startswith("linux") or not known() or sys.maxsize < 1 << 32:
        return f"the system calls of {sys.platform} on {platform.machine()} are not known"
    with ThreadPoolExecutor(1, "vmports-trial") as thread:  # which ends with its filter
        try:
            thread.submit(refuse, ("connect",)).result()
        except OSError as error:
            return f"this host does not let us: {error}"
    return None


def refuse(names: tuple[str, ...]) -> None:
    """Let this thread, and what it starts, never make these calls.

    Raises:
        OSError: the kernel or a container refuses.
    """
    _put_on(program((), names), 0)


def _put_on(program: bytes, flags: int) -> int:
    libc = _libc()
    # Without it only who may administer the system may restrict himself.
    _checked("PR_SET_NO_NEW_PRIVS", libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    code = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    words = map(ctypes.c_long, (numbers().seccomp, _SET_MODE_FILTER, flags))
    return _checked("seccomp", libc.syscall(*words, given))


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _of(number: int, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Return steps that only this system call takes; the last of ``then`` returns."""
    return [(_IF_EQUAL, 0, len(then), number), *then]


def _known_sockets() -> list[tuple[int, int, int, int]]:
    steps = []
    for family, kind in _SOCKETS:
        steps += [
            (_LOAD, 0, 0, _ARGUMENTS[0]),
            (_IF_EQUAL, 0, 4, family),
            (_LOAD, 0, 0, _ARGUMENTS[1]),
            (_AND, 0, 0, _TYPE),
            (_IF_EQUAL, 0, 1, kind),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [*steps, (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]


def _checked(what: str, answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return answer

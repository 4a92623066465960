"""A filter on a thread's system calls: which ones are held for us, and which ones never pass.

Sources: seccomp(2); the kernel's ``userspace-api/seccomp_filter.rst``; ``linux/seccomp.h``.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import socket
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final

from pytest_vmports.system import calls, libc, tools

ATTRIBUTES: Final = "attributes"
"""Stands for what changes a file's mode, owner, times and attributes."""
RIGHTS: Final = "rights"
"""Stands for making files that run as their owner; and what changes a file's mode or times has
nothing done, and is told that it was: whoever serves files cannot make one without."""
FORKS: Final = "forks"
"""Stands for making processes, which kills; threads it may make."""
TCP, UDP, UNIX = "tcp", "udp", "unix"
"""Stand for making such sockets."""
SOCKETS: Final = (TCP, UDP, UNIX, "connect", "bind", "listen")
"""Of who has all that it speaks to from its start."""
ROUTES: Final = "routes"
"""Stands for sockets by which the kernel tells of routes and addresses, and of more."""
_X32 = 0x40000000
_NETLINK = 16
_STEP = struct.Struct("=HBBI")
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_KILL, _ERRNO, _NOTIFY, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_LOAD, _AND, _IF_EQUAL, _IF_LEAST, _IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
# Where struct seccomp_data has what; both architectures have an argument's low half first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24, 32, 40, 48)
_POINTER = 8  # of the instruction
_DENIED = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_LOAD_NUMBER = (_LOAD, 0, 0, _NUMBER)
_PRETENDED = (_RETURN, 0, 0, _ERRNO)
# Which argument has the mode of what is made, and which the flags without which nothing is.
_MAKING: Final = {"open": (2, 1), "openat": (3, 2), "creat": (1, None), "mknod": (1, None),
                  "mknodat": (2, None)}  # fmt: skip
_MAKES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY if hasattr(os, "O_TMPFILE") else 0)
_AS_OWNER = stat.S_ISUID | stat.S_ISGID
_SECONDS = 20.0
# A pointer has two halves.
_ADDRESSED = (
    (_LOAD, 0, 0, _ARGUMENTS[4]),
    (_IF_EQUAL, 0, 2, 0),
    (_LOAD, 0, 0, _ARGUMENTS[4] + 4),
    (_IF_EQUAL, 1, 0, 0),
    (_RETURN, 0, 0, _NOTIFY),
)
# The others could be sent through without a connect (to a Unix socket's path), or speak to the
# kernel; a type's other bits are SOCK_CLOEXEC and SOCK_NONBLOCK.
_SOCKETS: Final = {
    TCP: ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM)),
    UDP: ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM)),
    UNIX: ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_SEQPACKET)),
    ROUTES: ((_NETLINK, socket.SOCK_RAW),),
}
_TYPE = 0xF
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _THREAD = 1, 4, 0x10000
# Connects a TCP socket, and no connect is seen.
_FAST_OPEN = 0x20000000


def program(
    held: tuple[str, ...], refused: tuple[str, ...] = (), *, sandboxes: bool = False
) -> bytes:
    """Return the filter, an array of ``struct sock_filter``.

    Who comes by another architecture's table of system calls is killed. Refused are the ways round
    the calls that are held (a ring of io_uring, TCP's fast open, odd sockets), into and at the cost
    of another process of the same user, such as ours, to what such processes share, and away from
    the signal by which a child ends with us.

    Args:
        held: the names of the calls that wait for our word; of ``sendto`` those with an address.
        refused: the names of those that never pass; `ATTRIBUTES`, `FORKS`, `TCP`, `UDP` and `UNIX`
            stand for several.
        sandboxes: who puts itself into a sandbox of its own may do so, may ask the kernel for the
            host's routes before, and goes on to be looked into by us.
    """
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, calls.architecture()),
        (_RETURN, 0, 0, _KILL),
        _LOAD_NUMBER,
        (_IF_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for name in held:
        steps += _of(name, [(_RETURN, 0, 0, _NOTIFY)] if name != "sendto" else [])
    steps += _rights() if RIGHTS in refused else []
    never = [name for name in refused if name in calls.NUMBERS]
    never += calls.ATTRIBUTES if ATTRIBUTES in refused else ()
    own = calls.SANDBOXES if sandboxes else ()
    for name in (*never, *(one for one in calls.NEVER if one not in own)):
        steps += _of(name, [_DENIED])
    without = refused if sandboxes else (*refused, ROUTES)
    steps += _of("socket", _known_sockets(tuple(one for one in _SOCKETS if one not in without)))
    steps += _of("socketpair", _known_sockets((UNIX,)))
    for name, at in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        steps += _of(name, [
            (_LOAD, 0, 0, _ARGUMENTS[at]),
            (_IF_ANY, 0, 1, _FAST_OPEN),
            (_RETURN, 0, 0, _ERRNO | errno.EOPNOTSUPP),
            *(_ADDRESSED if name == "sendto" and name in held else ()),
            (_RETURN, 0, 0, _ALLOW),
        ])  # fmt: skip
    if FORKS in refused:
        steps += _forks(_KILL)
    steps += _of_itself(sandboxes=sandboxes)
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_STEP.pack(*step) for step in steps)


def _of_itself(*, sandboxes: bool) -> list[tuple[int, int, int, int]]:
    """Return steps by which a child says of itself what it likes, but not that it outlives us."""
    unseen = [(_IF_EQUAL, 0, 1, _SET_DUMPABLE), _PRETENDED] if sandboxes else []
    prctl = [
        (_LOAD, 0, 0, _ARGUMENTS[0]),
        *unseen,
        (_IF_EQUAL, 0, 3, _SET_DEATH_SIGNAL),
        (_LOAD, 0, 0, _ARGUMENTS[1]),
        (_IF_EQUAL, 1, 0, signal.SIGKILL),
        _DENIED,
        (_RETURN, 0, 0, _ALLOW),
    ]
    # By its number a process names others too.
    limits = [
        (_LOAD, 0, 0, _ARGUMENTS[0]),
        (_IF_EQUAL, 1, 0, 0),
        _DENIED,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [*_of("prctl", prctl), *_of("prlimit64", limits)]


def _rights() -> list[tuple[int, int, int, int]]:
    """Return steps that keep files made here from running as their owner; see `RIGHTS`."""
    steps = []
    for name in calls.MODES:
        steps += _of(name, [_PRETENDED])
    # Its mode lies in memory; who hears that there is no such call makes the older one.
    steps += _of("openat2", [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    for name, (mode, flags) in _MAKING.items():
        asked = [(_LOAD, 0, 0, _ARGUMENTS[mode]), (_IF_ANY, 0, 1, _AS_OWNER), _DENIED]
        if flags is not None:
            asked = [(_LOAD, 0, 0, _ARGUMENTS[flags]), (_IF_ANY, 0, len(asked), _MAKES), *asked]
        steps += _of(name, [*asked, (_RETURN, 0, 0, _ALLOW)])
    return steps


def _forks(verdict: int) -> list[tuple[int, int, int, int]]:
    """Return steps that let us start the child, and the child none.

    The call by which we do comes from where our C library lies. Where that is nobody knows who was
    not told, so the child cannot put a call of its own there; a guess is its last.
    """
    code = libc.code()
    if code is None or code[0] >> 32 != code[1] >> 32:
        return []
    first, last = code
    ours = [
        (_LOAD, 0, 0, _POINTER + 4),
        (_IF_EQUAL, 0, 3, first >> 32),
        (_LOAD, 0, 0, _POINTER),
        (_IF_LEAST, 0, 1, first & 0xFFFFFFFF),
        (_IF_LEAST, 0, 1, last & 0xFFFFFFFF),
        (_RETURN, 0, 0, verdict),
        (_RETURN, 0, 0, _ALLOW),
    ]
    thread = [(_LOAD, 0, 0, _ARGUMENTS[0]), (_IF_ANY, 0, 1, _THREAD), (_RETURN, 0, 0, _ALLOW)]
    steps = [*_of("fork", ours), *_of("vfork", ours), *_of("clone", [*thread, *ours])]
    # Its flags lie in memory; who hears that there is no such call makes the older one.
    return [*steps, *_of("clone3", [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])]


def install(program: bytes, *, sandboxes: bool = False) -> int:
    """Put a filter on this thread for good; return the descriptor by which it tells of held calls.

    Args:
        program: the filter.
        sandboxes: see `libc.restrict_myself`.

    Raises:
        OSError: the kernel or a container refuses; EBUSY where another such filter tells already.
    """
    try:
        # A call that a signal interrupts would be asked again; from 5.19 on it is not interrupted.
        return _put_on(program, _NEW_LISTENER | _WAIT_KILLABLE, sandboxes=sandboxes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _put_on(program, _NEW_LISTENER, sandboxes=sandboxes)


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Return why no call can be refused here; None where it can. Tried, not guessed."""
    if not sys.platform.startswith("linux") or not calls.known() or sys.maxsize < 1 << 32:
        return f"the system calls of {sys.platform} on {platform.machine()} are not known"
    with ThreadPoolExecutor(1, "vmports-trial") as thread:  # which ends with its filter
        try:
            thread.submit(refuse, ("connect",)).result()
        except OSError as error:
            return f"this host does not let us: {error}"
    return None


@lru_cache(maxsize=1)
def forks_problem() -> str | None:
    """Return why no child can be kept from making others; None where it can. Tried, not guessed.

    Were our own call taken for a child's, it would be we who are killed. So here it is refused.
    """
    if (why := problem()) is not None:
        return why
    steps = _forks(_DENIED[-1])
    if not steps:
        return "where our own C library lies is not known"
    tried = b"".join(_STEP.pack(*step) for step in [_LOAD_NUMBER, *steps, (_RETURN, 0, 0, _ALLOW)])
    with ThreadPoolExecutor(1, "vmports-trial") as thread:
        try:
            thread.submit(_put_on, tried, 0).result()
            thread.submit(tools.run, ["true"], timeout=_SECONDS).result()
        except (OSError, subprocess.SubprocessError) as error:
            return f"our own call is taken for a child's: {error}"
    return None


def refuse(names: tuple[str, ...], *, sheds: bool = False) -> None:
    """Let this thread, and what it starts, never make these calls.

    Args:
        names: as for `program`.
        sheds: see `libc.restrict_myself`.

    Raises:
        OSError: the kernel or a container refuses.
    """
    _put_on(program((), names), 0, sheds=sheds)


def _put_on(program: bytes, flags: int, *, sheds: bool = False, sandboxes: bool = False) -> int:
    libc.restrict_myself(sheds=sheds, sandboxes=sandboxes)
    code = libc.room(program)
    given = struct.pack("@HP", len(program) // _STEP.size, libc.address(code))
    return libc.syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, flags, given)


def _of(name: str, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Return steps that only this system call takes; the last of ``then`` returns."""
    number = calls.number(name)
    return [(_IF_EQUAL, 0, len(then), number), *then] if then and number >= 0 else []


def _known_sockets(kinds: tuple[str, ...]) -> list[tuple[int, int, int, int]]:
    steps = []
    for family, kind in (one for name in kinds for one in _SOCKETS[name]):
        steps += [
            (_LOAD, 0, 0, _ARGUMENTS[0]),
            (_IF_EQUAL, 0, 4, family),
            (_LOAD, 0, 0, _ARGUMENTS[1]),
            (_AND, 0, 0, _TYPE),
            (_IF_EQUAL, 0, 1, kind),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [*steps, (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]

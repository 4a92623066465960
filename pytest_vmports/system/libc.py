"""The C library, for what Python has no name for.

Sources: prctl(2), syscall(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import lru_cache

from pytest_vmports.system import proc

_NO_NEW_PRIVILEGES, _RENOUNCE = 38, 24
# CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE; there are 41 of 64.
_OF_FILES_AND_PORTS, _RIGHTS = {1, 2, 10}, 64
_SET_RIGHTS = 8
# CAP_SETGID, CAP_SETUID: to say who is who in a namespace of users.
_OF_USERS = {6, 7}


def call(function: str, *arguments: object) -> int:
    """Return what a function answers; a whole number is an int to it.

    Raises:
        OSError: it answers with an error.
    """
    answer = int(getattr(_library(), function)(*arguments))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return answer


def syscall(number: int, *arguments: bytes | int | None) -> int:
    """Return what a system call answers.

    Raises:
        OSError: it answers with an error.
    """
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return call("syscall", ctypes.c_long(number), *given)


def restrict_myself(*, sheds: bool = False, sandboxes: bool = False) -> None:
    """Renounce, for this thread and what it starts, to have more rights by a program that is run.

    Without it only who may administer the system may restrict himself. Where we are root, what is
    run from now on has of root's rights those to files, for which it has other walls, and to ports.

    Args:
        sheds: it may renounce more of them itself, as some programs insist to at their start.
        sandboxes: it may make namespaces of users, and renounces all itself.

    Raises:
        OSError: that cannot be done.
    """
    call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if os.geteuid() == 0:
        # The first that fails is behind the kernel's last, or we may renounce none.
        kept = _OF_FILES_AND_PORTS | ({_SET_RIGHTS} if sheds else set())
        kept |= _OF_USERS if sandboxes else set()
        with contextlib.suppress(OSError):
            for right in range(_RIGHTS):
                if right not in kept:
                    call("prctl", _RENOUNCE, right, 0, 0, 0)


def room(content: bytes | int) -> ctypes.Array[ctypes.c_char]:
    """Return memory that holds these bytes, or so many."""
    if isinstance(content, int):
        return ctypes.create_string_buffer(content)
    return ctypes.create_string_buffer(content, len(content))


def address(of: ctypes.Array[ctypes.c_char]) -> int:
    """Return where it lies."""
    return ctypes.addressof(of)


@lru_cache(maxsize=1)
def code() -> tuple[int, int] | None:
    """Return from where to where its code lies in our memory; None where that cannot be told."""
    try:
        there = ctypes.cast(_library().vfork, ctypes.c_void_p).value or 0
    except AttributeError:
        return None
    for line in proc.said("self/maps").splitlines():
        first, last = (int(end, 16) for end in line.partition(" ")[0].split("-"))
        if first <= there < last:
            return first, last
    return None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

"""What a child may do to the host's files and ports: Landlock, put on the thread that starts it.

The rules hold for a thread and what it starts, from then on and for good, and ask for no rights.
Sources: landlock(7); the kernel's document ``userspace-api/landlock.rst``; ``linux/landlock.h``.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_vmports.system import libc, proc
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.probing import is_of_the_host

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_BENEATH = 1
# Rights to files, each with the version of Landlock that brought it.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_THE_FIRST = (1 << 13) - 1
_LATER = {2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_MAKE_SOCKET = 1 << 9
# MAKE_CHAR, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM: whoever reads or writes there would be led elsewhere,
# or would wait.
_NEVER = 1 << 6 | 1 << 10 | 1 << 11 | 1 << 12
_BIND_TCP, _CONNECT_TCP, _FIRST_WITH_PORTS = 1, 2, 4
# A socket in no folder, and signals, of processes outside.
_SCOPES, _FIRST_WITH_SCOPES = 3, 6
_FIRST_WITH_CLOSE_RANGE = (3, 11)  # of Python


@dataclass(frozen=True)
class Walls:
    """What a child may use of the host; nothing else of its files.

    Attributes:
        read: files and folders with all that is below; programs there may be run.
        write: likewise, and to make, change and remove in; no devices, pipes and links.
        change: files that are there, to read and to write.
        sockets: folders to make Unix sockets in, and nothing else.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    change: tuple[Path, ...] = ()
    sockets: tuple[Path, ...] = ()


@lru_cache(maxsize=1)
def version() -> int:
    """Return which Landlock the kernel has; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Return why there is no Landlock here; None where there is. Tried, not guessed."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has none"
    with ThreadPoolExecutor(1, "vmports-trial") as thread:  # which ends within its walls
        try:
            thread.submit(confine, Walls(), binds=False).result()
        except OSError as error:
            return f"this kernel, or the container, has none: {error}"
    return None


def confine(walls: Walls, *, binds: bool, connects: bool = True, sheds: bool = False) -> None:
    """Put walls around this thread and whatever it starts from now on.

    Args:
        walls: what may be used of the host's files.
        binds: it may bind TCP ports, which only later versions of Landlock prevent.
        connects: likewise, it may connect by TCP.
        sheds: see `libc.restrict_myself`.

    Raises:
        OSError: the kernel refuses.
    """
    known = version()
    files = _OF_THE_FIRST | sum(right for since, right in _LATER.items() if known >= since)
    ports = (0 if binds else _BIND_TCP) | (0 if connects else _CONNECT_TCP)
    ports = ports if known >= _FIRST_WITH_PORTS else 0
    scopes = _SCOPES if known >= _FIRST_WITH_SCOPES else 0
    attributes = struct.pack("=QQQ", files, ports, scopes)
    length = 24 if scopes else 16 if ports else 8
    rules = libc.syscall(_CREATE_RULESET, attributes, length, 0)
    try:
        _allow(rules, walls.read, files & (_EXECUTE | _READ | _LIST))
        _allow(rules, walls.change, files & (_READ | _WRITE | _TRUNCATE | _IOCTL))
        _allow(rules, walls.write, files & ~_NEVER)
        _allow(rules, walls.sockets, files & _MAKE_SOCKET)
        if sys.version_info < _FIRST_WITH_CLOSE_RANGE:
            # There a child closes what it inherits by the list in /proc/self/fd, and without that
            # one by one up to the limit, which may be a thousand million: so it may list, not read.
            _allow(rules, (proc.PROC,), files & _LIST)
        libc.restrict_myself(sheds=sheds)
        libc.syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        try:
            place = os.open(as_bytes(path), os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if is_of_the_host(error):  # too many are open: it is there all the same
                raise
            continue  # what we cannot reach, the child cannot either
        try:
            is_folder = stat.S_ISDIR(os.fstat(place).st_mode)
            given = rights if is_folder else rights & _OF_FILES
            libc.syscall(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", given, place), 0)
        finally:
            os.close(place)

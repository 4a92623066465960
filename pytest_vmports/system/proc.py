"""What Linux tells of a process and of the machine: nothing where there is no ``/proc`` to read.

A container, a chroot or a sandbox may have an empty one, or one that may not be read.
"""

from __future__ import annotations

import contextlib
import os
import signal
from io import FileIO
from pathlib import Path

# Source: Linux's include/linux/sched.h: PF_EXITING and PF_SIGNALED (killed by a signal).
_ON_ITS_WAY = 0x4 | 0x400
_FLAGS = 6
_KILL = 1 << (signal.SIGKILL - 1)


PROC = Path("/proc")


def said(name: str) -> str:
    """Return the text of a file below ``/proc``; nothing where it is not there, or not readable."""
    return raw(name).decode("utf-8", "replace")


def raw(name: str) -> bytes:
    """Return its bytes likewise."""
    try:
        # It tells what a test has put in the place of all other ways to read a file.
        with FileIO(PROC / name) as file:
            return file.readall()
    except OSError:
        return b""


def stat_fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on; none when it is gone or not Linux.

    Source: proc(5), which counts from 1: its field 3 is the first here.
    """
    # The command's name, in brackets, may hold anything: count from the last bracket.
    return said(f"{pid}/stat").rpartition(")")[2].split()


def sockets(pid: int) -> dict[int, int] | None:
    """Return the sockets that a process has: descriptor to inode.

    None where that cannot be told: it is gone, or not ours to look at.
    """
    found = {}
    try:
        for number in os.listdir(PROC / f"{pid}/fd"):  # noqa: PTH208 - numbers, no paths
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                kind, _, inode = os.readlink(PROC / f"{pid}/fd/{number}").partition(":[")  # noqa: PTH115
                if kind == "socket":
                    found[int(number)] = int(inode[:-1])
    except OSError:
        return None
    return found


def process_start(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it is gone or unknown."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def pidfd(pid: int) -> int | None:
    """Return a descriptor that can be read from once a process has ended, to be closed.

    None where the kernel has none to give, or a container forbids it (ENOSYS, EPERM).

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return stat_fields(pid)[:1] != ["Z"]


def ending(pid: int) -> bool:
    """Whether a process has begun to end, though it may not have ended; False where not known.

    One that is killed has the signal from that moment on, but dies when it next gets a processor:
    on a busy host some milliseconds later. One of many threads, as QEMU or gvproxy, then takes a
    moment longer (source: proc(5), ``Z`` and ``SigPnd``).
    """
    status = said(f"{pid}/status").splitlines()
    pending = (line.split()[1] for line in status if line.startswith("SigPnd:"))
    if int(next(pending, "0"), 16) & _KILL:
        return True
    # In this order: the signal is taken away before the flag is set, and is not seen after it.
    fields = stat_fields(pid)
    return fields[:1] == ["Z"] or (bool(fields) and bool(int(fields[_FLAGS]) & _ON_ITS_WAY))

"""What a lease file says about its holder, and whether that holder still lives.

The file's content is one JSON line. The lock is the truth, the content only describes it: it
stays behind when a holder dies, and describes the previous holder for the microseconds between
locking and writing. So a reader believes it only together with the kernel's list of locks.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_vmports.system import clock
from pytest_vmports.system.proc import process_start
from pytest_vmports.system.small_file import open_regular, parse_object

if sys.platform != "win32":
    import fcntl

LOCKS: Final = Path("/proc/locks")
FORMAT_VERSION: Final = 1
BLANK: Final = b"\n"
PASSING: Final = "a VM that is made ready for the next test"
"""The label of leases that last for a moment, and that others therefore wait for."""
_MAX_RECORD: Final = 4096
_NAME: Final = re.compile(r"(tcp|udp)-\d{1,5}")
# Not there, a link, a folder or FIFO, a socket, another user's.
_NO_LEASE: Final = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EACCES, errno.EPERM}
)
# A parametrised test's id can be arbitrarily long. At JSON's worst, six bytes a character, the
# record still stays within one page.
_MAX_TEXT: Final = 500
_MAX_WORKER: Final = 60
# More is no process's number, and no time that can be told.
_LARGEST: Final = (1 << 40) - 1


@dataclass(frozen=True)
class LeaseInfo:
    """Who holds a port.

    Attributes:
        port: the host port.
        protocol: ``"tcp"`` or ``"udp"``.
        host: the address the server is to bind.
        pid: the process that took the lease.
        process_start: when that process started, in clock ticks since boot; 0 where unknown.
        test: the test's id, or the label given with the lease; may be empty.
        worker: the xdist worker's name; may be empty.
        since: when the lease was taken, in seconds since the epoch.
        by_child: the process has ended, and a child that was handed the lease holds it.
    """

    port: int
    protocol: str
    host: str
    pid: int
    process_start: int
    test: str
    worker: str
    since: float
    by_child: bool = False

    def describe(self) -> str:
        """Return the holder as text, for messages."""
        who = f"pid {self.pid}" if self.pid else "a process of another plugin version"
        if self.by_child:
            who = f"a program that {who}, which has ended, started"
        details = ", ".join(part for part in (self.worker, self.test) if part)
        when = time.strftime("%H:%M:%S", time.localtime(self.since)) if self.since else "?"
        return f"{who}{f' ({details})' if details else ''} since {when}"


def current_test() -> str:
    """Return the id of the test that runs now, or ``""``."""
    # pytest writes "path::test (setup)"; an id may itself hold blanks and brackets.
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


@functools.lru_cache(maxsize=64)
def _prefix(pid: int, raw_test: str, worker: str, label: str | None, host: str) -> bytes:
    test = raw_test.rpartition(" (")[0] if label is None else label
    if len(test) > _MAX_TEXT:
        test = test[: _MAX_TEXT - 1] + "…"
    head = {
        "v": FORMAT_VERSION,
        "pid": pid,
        "start": process_start(pid),
        "pidns": pid_namespace(),
        "host": host,
        "worker": worker[:_MAX_WORKER],
        "test": test,
    }
    return json.dumps(head, ensure_ascii=False)[:-1].encode("utf-8", "replace") + b', "since": '


def make_record(host: str, label: str | None) -> bytes:
    """Return the line that describes a lease taken now by this process."""
    environ = os.environ
    return b"%s%.3f}\n" % (
        _prefix(
            os.getpid(),
            environ.get("PYTEST_CURRENT_TEST", ""),
            environ.get("PYTEST_XDIST_WORKER", ""),
            label,
            host,
        ),
        clock.wall(),
    )


@functools.cache
def pid_namespace() -> int:
    """Return the inode of our pid namespace; 0 where there is none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def locked_files() -> set[tuple[int, int]]:
    """Return (inode, pid of the locker) of all exclusive file locks the kernel shows us."""
    try:
        rows = LOCKS.read_text("ascii").splitlines()
    except OSError:
        # No /proc: the reader probes instead.
        return set()
    found = set()
    for row in rows:
        fields = row.split()
        # A waiter's row has "->" in the second place; a shared lock is a reader's, see _is_locked.
        if fields[1] == "FLOCK" and fields[3] == "WRITE":
            found.add((int(fields[5].rpartition(":")[2]), int(fields[4])))
    return found


def read_live(directory: Path, name: str, locks: set[tuple[int, int]]) -> LeaseInfo | None:
    """Return who holds the lease file ``name`` now, or None when nobody does.

    Args:
        directory: the state directory.
        name: the file's name, ``tcp-PORT`` or ``udp-PORT``.
        locks: what `locked_files` returned.

    Raises:
        OSError: the system has no more descriptors, or the like. What is no lease's file, or
            cannot be read, is nobody's: we make such files ourselves, and only for us.
    """
    if not _NAME.fullmatch(name):
        return None
    try:
        fd = open_regular(directory / name)
    except OSError as error:
        if error.errno in _NO_LEASE:
            return None
        raise
    try:
        return _read_live(fd, name, locks)
    finally:
        os.close(fd)


def _read_live(fd: int, name: str, locks: set[tuple[int, int]]) -> LeaseInfo | None:
    inode = os.fstat(fd).st_ino
    info: LeaseInfo | None = None
    line = b""
    for _ in range(3):
        line = _first_line(fd)
        info = _parse(name, line)
        listed = info is not None and (inode, info.pid) in locks
        if info and listed:
            info = _as_of_now(info, line)
            if not info.by_child:
                return info
        # Not listed, or its process has ended: the lock itself tells.
        if not line or not _is_locked(fd):
            return None
        if listed:
            return info
        # Locked, and not by the pid that is written there, as far as that list knows: a new
        # holder that is about to write, a list read too early, or a lock that the list does
        # not show (a pid namespace). Look again.
        locks = locked_files()
    others = {pid for ino, pid in locks if ino == inode}
    if info and _foreign(line):
        # A container's: its number there means nothing here, what it says about the test does.
        pid = min(others, default=info.pid)
        return replace(info, pid=pid, process_start=process_start(pid) if others else 0)
    if info is None or others:
        return _unknown(name, min(others, default=0))
    return _as_of_now(info, line)


def _first_line(fd: int) -> bytes:
    return os.pread(fd, _MAX_RECORD, 0).partition(b"\n")[0].strip(b"\0 ")


def _parse(name: str, line: bytes) -> LeaseInfo | None:
    protocol, _, port = name.partition("-")
    try:
        record = parse_object(line)
        numbers = [int(record["pid"]), int(record["start"]), int(record["since"])]
        if not all(0 <= number <= _LARGEST for number in numbers):
            return None
        return LeaseInfo(
            port=int(port),
            protocol=protocol,
            host=str(record["host"]),
            pid=int(record["pid"]),
            process_start=int(record["start"]),
            test=str(record["test"]),
            worker=str(record["worker"]),
            since=float(record["since"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        # Torn by a crash, written by a later version, or by a QEMU or gvproxy that was taken over,
        # which has the file open: the lock still counts.
        return None


def _unknown(name: str, pid: int) -> LeaseInfo:
    protocol, _, port = name.partition("-")
    return LeaseInfo(int(port), protocol, "", pid, process_start(pid), "", "", 0.0)


def _foreign(line: bytes) -> bool:
    return bool(parse_object(line).get("pidns") != pid_namespace())


def _as_of_now(info: LeaseInfo, line: bytes) -> LeaseInfo:
    if not info.process_start or _foreign(line):
        # Nothing to compare with: no /proc, or a number of another pid namespace.
        return info
    return replace(info, by_child=process_start(info.pid) != info.process_start)


def _is_locked(fd: int) -> bool:
    """Tell whether somebody holds the lock, by asking for a shared one for a moment.

    That never takes a lease from its holder. An acquirer that comes in this very moment sees
    the file as locked and goes on to its next candidate, or tries a fixed port again.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        raise
    return False

"""What is said when a lease cannot be had."""

from __future__ import annotations

import errno
import os
import resource
from collections import Counter
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import PortError, PortsExhaustedError, StateDirError
from pytest_vmports.leases.lock_file import NO_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.leases.record import LeaseInfo

_NAMED: Final = 5
_REMEDIES: Final = {
    errno.ENOSPC: "make room on that file system, or set VMPORTS_STATE_DIR to another",
    errno.EDQUOT: "free some of your quota, or set VMPORTS_STATE_DIR to another file system",
    errno.EROFS: "set VMPORTS_STATE_DIR to a directory on a writable file system",
    errno.EACCES: "see who owns the files in it, or set VMPORTS_STATE_DIR to a directory of yours",
    errno.ENOENT: "it was removed while in use: exclude it from whatever cleans it",
    errno.ELOOP: "a lease file was replaced by a symbolic link: remove the link",
    **dict.fromkeys(NO_FILE, "something that is no file has a lease file's name: remove it"),
    errno.ENOLCK: "its file system refuses locks: set VMPORTS_STATE_DIR to a local one",
    errno.ENOSYS: "its file system has no locks: set VMPORTS_STATE_DIR to a local one",
}


def exhausted(
    count: int, protocol: str, ports: Sequence[int], leases: Sequence[LeaseInfo]
) -> PortsExhaustedError:
    """Return what to raise when no ``count`` of ``ports`` are free.

    Args:
        count: how many were wanted.
        protocol: of which kind.
        ports: the candidates.
        leases: all live leases of that kind.
    """
    inside = set(ports)
    held = [info for info in leases if info.port in inside]
    by_holder = Counter(f"pid {info.pid} {info.test}".strip() for info in held)
    named = [f"{who} ({number})" for who, number in by_holder.most_common(_NAMED)]
    if len(by_holder) > _NAMED:
        named.append(f"{len(by_holder) - _NAMED} more")
    others = f"other programs have some of the {len(inside)} ports, or they are just closing"
    return PortsExhaustedError(
        wanted=count,
        protocol=protocol,
        range=f"{ports[0]}-{ports[-1]}",
        held=len(held),
        holders=", ".join(named) or f"nobody ({others})",
    )


def explain(error: OSError, directory: Path, held: int) -> PortError:
    """Return what to raise for an error of the system.

    Args:
        error: what the system said.
        directory: where the lease files are.
        held: how many leases this process holds.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return PortError(
            f"no file descriptor left to lease a port: this process holds {held} leases of up to 2"
            f" descriptors each, its limit is {limit}; raise it (ulimit -n) or release leases"
        )
    remedy = _REMEDIES.get(error.errno or 0, "see the system's log")
    if error.errno in {errno.ELOOP, *NO_FILE} and error.filename:
        remedy += f", which is {directory}/{os.fsdecode(error.filename)}"
    return StateDirError(path=str(directory), reason=error.strerror or str(error), remedy=remedy)

"""The file of one lease: opened, made where it is missing, and locked."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from filelock import lock_descriptor

_OPEN_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
# What stands in the place of a lease's file: a folder, a socket, a FIFO or a device.
NO_FILE: Final = frozenset({errno.EISDIR, errno.ENXIO, errno.ENOTSUP})


def lock(name: str, directory: int) -> int:
    """Return a locked descriptor of a lease's file, or -1 when another has the lock.

    Args:
        name: of the file.
        directory: descriptor of the folder that it is in.

    Raises:
        OSError: it cannot be opened; one of `NO_FILE` where something else has its name.
    """
    try:
        # Not at once with O_CREAT: kernels before 6.12 then lock the whole directory.
        fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        fd = os.open(name, _OPEN_FLAGS | os.O_CREAT, 0o600, dir_fd=directory)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.ENOTSUP, "it is no regular file", name)  # noqa: TRY301
        # A cleaner may have removed the file between opening and locking: then the lock is
        # on a file that nobody else will find.
        if lock_descriptor(fd, blocking=False) and os.fstat(fd).st_nlink:
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1


def lock_or_pass(name: str, directory: int) -> int:
    """Return the same for a port that is one of many: -1 also where something else is there."""
    try:
        return lock(name, directory)
    except OSError as error:
        if error.errno in NO_FILE:
            return -1
        raise

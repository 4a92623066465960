"""Reading what others may have put where we look: another version of ours, or anybody's mistake."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 1 << 20
# A FIFO is not waited for, a terminal does not become ours.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_regular(path: Path | str, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Return a descriptor of a regular file, for reading; never waits.

    Args:
        path: the file.
        dir_fd: a folder that it is relative to.
        follow: a link to one is right too. What it leads to is looked at before it is opened, for
            to open a device may do something.

    Raises:
        OSError: it cannot be read, or is a folder, a FIFO or a device, or a link.
    """
    if follow and not stat.S_ISREG(os.stat(path, dir_fd=dir_fd).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    flags = _FLAGS if follow else _FLAGS | getattr(os, "O_NOFOLLOW", 0)
    file = os.open(path, flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_small(path: Path | str, limit: int = LIMIT) -> bytes:
    """Return the content of a regular file that is not larger than it should be.

    Raises:
        OSError: as `open_regular`, or it is larger than ``limit`` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content


def read_object(path: Path | str, limit: int = LIMIT) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        OSError: as `read_small`.
        ValueError: it holds something else.
    """
    return parse_object(read_small(path, limit))


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is no object but {type(found).__name__}")  # noqa: TRY004
    return found

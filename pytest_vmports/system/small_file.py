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
# A FIFO is not waited for, a terminal does not become ours, a link is not followed.
_FLAGS = (
    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_NOFOLLOW", 0)
)  # fmt: skip


def open_regular(path: Path | str, *, dir_fd: int | None = None) -> int:
    """Return a descriptor of a regular file, for reading; never waits.

    Raises:
        OSError: it cannot be read, or is a link, a folder, a FIFO or a device.
    """
    file = os.open(path, _FLAGS, dir_fd=dir_fd)
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

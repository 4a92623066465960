"""Files that take no room where they hold nothing but zeros."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

PIECE: Final = 1 << 20
_BLOCK: Final = 1 << 16
_NOTHING: Final = bytes(PIECE)


def write(file: IO[bytes], piece: bytes) -> None:
    """Write what comes next; of whole blocks of zeros, a hole. `end` has to follow the last."""
    for at in range(0, len(piece), _BLOCK):
        block = piece[at : at + _BLOCK]
        if block == _NOTHING[: len(block)]:
            file.seek(len(block), os.SEEK_CUR)
        else:
            file.write(block)


def end(file: IO[bytes]) -> None:
    """End the file where it is: it may end with a hole."""
    file.truncate()


def pieces(file: int) -> Iterator[tuple[int, bytes]]:
    """Yield what an open file holds, by where: a piece begins at a multiple of `PIECE`.

    Those that are nothing but zeros are left out, and holes are not even read.

    Raises:
        OSError: it cannot be read.
    """
    at = 0
    while (at := _next_data(file, at)) >= 0:
        piece = os.pread(file, PIECE, at)
        if not piece:
            return
        if piece != _NOTHING[: len(piece)]:
            yield at, piece
        at += PIECE


def _next_data(file: int, at: int) -> int:
    """Return the piece in which the next data is; -1 where none is left."""
    try:
        found = os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1
        return at  # a file system that knows no holes
    return found - found % PIECE

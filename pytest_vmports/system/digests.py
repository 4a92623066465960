"""What tells a file's content from any other's, wherever it lies: read once, and remembered."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.system import holes
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.remembered import answer
from pytest_vmports.system.small_file import open_regular

if TYPE_CHECKING:
    from pathlib import Path

# What is smaller is read sooner than what was noted of it is found.
_WORTH_KEEPING: Final = 4 << 20


def content_digest(path: Path) -> str:
    """Return a digest of a file's content, for a key that holds on other machines too.

    It is no sha256 of the file: what holds nothing but zeros has no part in it, so that a disk
    image with holes takes no longer than what is in it. It is read once as long as it looks the
    same (size, inode and times), by all processes of this user.

    Raises:
        OSError: it cannot be read.
    """
    return _digest_of(path, *fingerprint(path))


@lru_cache(maxsize=256)
def _digest_of(path: Path, size: int, *_seen: int) -> str:
    if size < _WORTH_KEEPING:
        return digest_now(path)

    def ask() -> tuple[Any, bool]:
        return digest_now(path), True

    def holds(found: Any) -> bool:
        return bool(re.fullmatch("[0-9a-f]{64}", found))

    found: str = answer(["content", str(path)], [str(path)], ask, holds)
    return found


def digest_now(path: Path) -> str:
    """Return the same of a file's content as it is now, whatever was read of it before.

    Raises:
        OSError: it cannot be read.
    """
    with os.fdopen(open_regular(path, follow=True), "rb") as file:
        digest = Digest(os.fstat(file.fileno()).st_size)
        for at, piece in holes.pieces(file.fileno()):
            digest.add(at, piece)
    return digest.text


class Digest:
    """That of a file whose pieces come one by one; see `holes.pieces`.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._digest = hashlib.sha256(b"%d\n" % size)

    def add(self, at: int, piece: bytes) -> None:
        """Add the next one.

        Args:
            at: where it begins.
            piece: its content.
        """
        self._digest.update(b"%d\n" % at)
        self._digest.update(piece)

    @property
    def text(self) -> str:
        """The digest of what was added."""
        return self._digest.hexdigest()

"""What a command is given as its input: read once, as it takes it, and never as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Given:
    """An input in pieces of whatever size there is room for.

    Args:
        source: all of it, or pieces of any sizes.
    """

    def __init__(self, source: bytes | Iterable[bytes]) -> None:
        self._pieces = iter((source,) if isinstance(source, bytes) else source)
        self._rest = memoryview(b"")

    def fill(self, room: memoryview) -> int:
        """Put the next of it there; return how many bytes, none at its end."""
        at = 0
        while at < len(room):
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            part = self._rest[: len(room) - at]
            room[at : at + len(part)] = part
            self._rest = self._rest[len(part) :]
            at += len(part)
        return at

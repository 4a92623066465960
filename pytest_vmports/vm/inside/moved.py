"""How far a copy is, for the terminal."""

from __future__ import annotations

from pytest_vmports.system import clock

_MB = 1_000_000
_TEN = 10


class Moved:
    """What a copy has moved by now.

    Attributes:
        done: bytes.
        total: how many they will be, where that is known.
    """

    def __init__(self) -> None:
        self.done: int = 0
        self.total: int | None = None
        self._before, self._then = 0, clock.now()

    def add(self, size: int) -> None:
        """Note that so many bytes more were moved."""
        self.done += size

    def so_far(self) -> str:
        """Return how far it is, and how fast it was since this was asked last."""
        done, now = self.done, clock.now()
        speed = (done - self._before) / max(now - self._then, 0.001)
        self._before, self._then = done, now
        of = "" if self.total is None else f" of {_amount(self.total)}"
        return f"{_amount(done)}{of} MB, {_amount(speed)} MB/s"


def _amount(size: float) -> str:
    """Return a number of megabytes."""
    return f"{size / _MB:.1f}" if size < _TEN * _MB else f"{size / _MB:.0f}"

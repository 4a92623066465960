"""How long what is asked now may take in all, however many questions that is.

A report asks a VM in any state: QEMU or the guest's agent may hang, and each question has a limit
of its own. Whoever waits for an answer takes the smaller of both limits.
"""

from __future__ import annotations

import contextlib
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

_until: ContextVar[float] = ContextVar("_until", default=math.inf)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Let all that is asked in the ``with`` block take so long in all."""
    with _set(min(_until.get(), clock.now() + seconds)):
        yield


@contextlib.contextmanager
def as_long_as_it_takes() -> Iterator[None]:
    """Let what is asked in the ``with`` block have its own limits alone."""
    with _set(math.inf):
        yield


def left(seconds: float) -> float:
    """Return how long an answer may be waited for that has a limit of ``seconds`` by itself."""
    return max(0.0, min(seconds, _until.get() - clock.now()))


def spent() -> bool:
    """Whether nothing is left."""
    return clock.now() >= _until.get()


class Limit:
    """When to give up what is waited for.

    Args:
        seconds: in all, or ``per_progress`` the longest time in which nothing goes on; None for no
            limit. What all that is asked may take holds in any case.
        per_progress: see there.
    """

    def __init__(self, seconds: float | None, *, per_progress: bool = False) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._per_progress = per_progress
        self._until = clock.now() + self._seconds

    def went_on(self) -> None:
        """Note that something went on."""
        if self._per_progress:
            self._until = clock.now() + self._seconds

    @property
    def left(self) -> float | None:
        """Seconds that are left; None for any number."""
        seconds = left(self._until - clock.now())
        return None if seconds == math.inf else seconds

    @property
    def deadline(self) -> float | None:
        """When it is over if nothing goes on, a `clock.now` value; None for never."""
        seconds = self.left
        return None if seconds is None else clock.now() + seconds

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self.left == 0.0


@contextlib.contextmanager
def _set(until: float) -> Iterator[None]:
    before = _until.set(until)
    try:
        yield
    finally:
        _until.reset(before)

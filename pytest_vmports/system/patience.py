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


@contextlib.contextmanager
def _set(until: float) -> Iterator[None]:
    before = _until.set(until)
    try:
        yield
    finally:
        _until.reset(before)

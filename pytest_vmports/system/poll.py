"""Waiting for descriptors, whatever their numbers: `select` refuses those from 1024 on."""

from __future__ import annotations

import math
from select import POLLIN, POLLOUT, poll  # by name: out of reach of a test that patches the module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

_MOST = (1 << 31) - 1


def readable(
    files: Iterable[socket.socket | int], seconds: float | None
) -> list[socket.socket | int]:
    """Return those of some files that can be read from, or have hung up; waits for the first.

    Args:
        files: sockets, descriptors, or pidfds, which can be read once their process has ended.
        seconds: how long to wait for one; None for ever.
    """
    numbers = {_number(file): file for file in files}
    waiting = poll()
    for number in numbers:
        waiting.register(number, POLLIN)
    return [numbers[number] for number, _ in waiting.poll(milliseconds(seconds))]


def writable(file: socket.socket | int, seconds: float | None) -> bool:
    """Whether a file takes more, or has hung up; waits for it, as `readable`."""
    waiting = poll()
    waiting.register(_number(file), POLLOUT)
    return bool(waiting.poll(milliseconds(seconds)))


def milliseconds(seconds: float | None) -> int | None:
    """Return seconds as `poll` takes them, rounded up: the rest of a deadline is no busy loop.

    It takes no more than 25 days.
    """
    return None if seconds is None else math.ceil(min(max(0.0, seconds) * 1000, _MOST))


def _number(file: socket.socket | int) -> int:
    return file if isinstance(file, int) else file.fileno()

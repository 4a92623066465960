"""The clock of every deadline: no test that freezes, moves or patches `time` reaches it.

A patcher puts functions of its own in place of those that a module holds by name, so the real ones
are held by closures here. ``clock_gettime`` is not among what freezegun patches, and time-machine
changes what it says of ``CLOCK_REALTIME`` only.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Source: Linux's include/uapi/linux/time.h, CLOCK_REALTIME_COARSE: some milliseconds behind at
# most, and no patcher takes it for the time of day.
_WALL = 5 if sys.platform.startswith("linux") else time.CLOCK_REALTIME


def _bind() -> tuple[Callable[[], float], Callable[[], float], Callable[[float], None]]:
    read, rest, forward, wall_clock = time.clock_gettime, time.sleep, time.CLOCK_MONOTONIC, _WALL

    def now() -> float:
        """Return seconds that only ever grow; they mean nothing to other machines."""
        return read(forward)

    def wall() -> float:
        """Return the host's time of day, whatever a test makes of it, as seconds since 1970."""
        return read(wall_clock)

    def sleep(seconds: float) -> None:
        """Do nothing for some seconds."""
        rest(seconds)

    return now, wall, sleep


now: Callable[[], float]
wall: Callable[[], float]
sleep: Callable[[float], None]
now, wall, sleep = _bind()

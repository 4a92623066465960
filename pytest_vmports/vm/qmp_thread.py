"""The thread in which ``qemu.qmp`` runs: it is asynchronous and tests are not, or have a loop."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from qemu.qmp import EventListener, Message

from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.said import malformed, said_by
from pytest_vmports.vm.qmp_answers import WHO

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")
_MOST_EVENTS = 8
# QEMU tells of most events once a second at the most, and of some as often as a guest likes.
_MOST_IN_A_SPELL, _SPELL_SECONDS = 1000, 10.0
# Those that we cause, as often as a test likes.
_OURS = {"STOP", "RESUME", "MIGRATION", "JOB_STATUS_CHANGE"}
_SHOWN = 100
_SAME_REBOOT_SECONDS = 5.0
# What no kernel boots and resets its machine in, by QEMU's own clock.
_AT_ONCE_SECONDS = 0.5
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()


class FewEvents(EventListener):
    """Remembers the first events alone: a guest can make some without end, as of its pvpanic."""

    def accept(self, event: Message) -> bool:
        """Whether one is remembered."""
        return len(self.history) < _MOST_EVENTS and super().accept(event)


class GuestResets(EventListener):
    """Counts a guest's reboots, and keeps no event: it may make them without end.

    A firmware may reset its machine once more before it begins, as the BIOS of a restored one does,
    which finds that it has run: a reset belongs to the same reboot as the one before where QEMU
    made both at once, or soon after each other and nothing was written to the console between. The
    console alone does not tell: where we are told of both late, the guest goes on meanwhile.

    Attributes:
        count: how many there were.
        written: returns how much the guest has written to its console.
    """

    def __init__(self) -> None:
        super().__init__("RESET")
        self.count: int = 0
        self.written: Callable[[], int] = int
        self._last: tuple[float, int, float] | None = None

    def accept(self, event: Message) -> bool:
        """Return False."""
        told = event.get("data")
        if super().accept(event) and isinstance(told, dict) and told.get("guest") is True:
            now = (clock.now(), self.written(), _made(event))
            last, self._last = self._last, now
            if last is None or not _of_one_reboot(last, now):
                self.count += 1
        return False


def _made(event: Message) -> float:
    """Return when QEMU made an event, in seconds; NaN where it does not say.

    Source: QEMU's docs/interop/qmp-spec.
    """
    stamp = event.get("timestamp")
    if not isinstance(stamp, dict):
        return math.nan
    seconds, rest = stamp.get("seconds"), stamp.get("microseconds")
    if not isinstance(seconds, int) or not isinstance(rest, int):
        return math.nan
    return float(seconds) + rest / 1e6


def _of_one_reboot(last: tuple[float, int, float], now: tuple[float, int, float]) -> bool:
    if abs(now[2] - last[2]) < _AT_ONCE_SECONDS:  # False for a NaN
        return True
    return now[1] == last[1] and now[0] - last[0] <= _SAME_REBOOT_SECONDS


class FloodGuard:
    """Lets no event in, and ends a connection by which they come without end.

    For the listener to which the library gives every event, and who keeps what it lets in. Each
    costs this process more time than QEMU, and the answers to our questions wait behind them, as do
    those of other VMs: one thread reads them all. What nobody reads QEMU would keep, without bound.

    Attributes:
        tripped: why the connection was ended; empty where it was not.
    """

    def __init__(self) -> None:
        self.tripped: str = ""
        self._begun, self._count = clock.now(), 0

    def __call__(self, event: Message) -> bool:
        """Return False.

        Raises:
            GuestSaidError: there were too many. The library then ends the connection.
        """
        name = str(event["event"])
        if name in _OURS:
            return False
        if clock.now() - self._begun > _SPELL_SECONDS:
            self._begun, self._count = clock.now(), 0
        self._count += 1
        if self._count > _MOST_IN_A_SPELL:
            self.tripped = (
                f"its guest had it tell of more than {_MOST_IN_A_SPELL} events within "
                f"{_SPELL_SECONDS:g} s, the last of them {printable(name[:_SHOWN])}"
            )
            raise malformed(WHO, self.tripped)
        return False


def run(coroutine: Coroutine[Any, Any, _T], timeout: float) -> _T:
    """Return what a coroutine of the library's comes to.

    Args:
        coroutine: it.
        timeout: seconds.

    Raises:
        GuestSaidError: QEMU's answer cannot be read.
        TimeoutError: there was none.
    """

    async def bounded() -> _T:
        return await asyncio.wait_for(coroutine, timeout)

    try:
        # The library lets through what its parsing of a line raises, as a number of 5,000 digits.
        with said_by(WHO):
            return asyncio.run_coroutine_threadsafe(bounded(), _loop()).result()
    except asyncio.TimeoutError as error:
        raise TimeoutError(f"no answer from QEMU within {timeout:g} s") from error


async def in_turn(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return what several come to that begin in this order, none of them waiting for another.

    Raises what the first of them raises that does.
    """
    return await asyncio.gather(*coroutines)


class _Loop(asyncio.SelectorEventLoop):
    """Counts its timeouts by the one clock; a loop of asyncio's by a `time` that tests patch."""

    def time(self) -> float:
        return clock.now()


def _loop() -> asyncio.AbstractEventLoop:
    with _loops_lock:
        pid = os.getpid()  # a forked child has none of its parent's threads
        if pid not in _loops:
            _loops.clear()
            loop = _Loop()
            threading.Thread(target=loop.run_forever, name="vmports-monitor", daemon=True).start()
            _loops[pid] = loop
        return _loops[pid]

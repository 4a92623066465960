"""The thread in which ``qemu.qmp`` runs: it is asynchronous and tests are not, or have a loop."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from qemu.qmp import EventListener, Message

from pytest_vmports.system import clock
from pytest_vmports.system.said import said_by
from pytest_vmports.vm.qmp_answers import WHO

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")
_MOST_EVENTS = 8
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()


class FewEvents(EventListener):
    """Remembers the first events alone: a guest can make some without end, as of its pvpanic."""

    def accept(self, event: Message) -> bool:
        """Whether one is remembered."""
        return len(self.history) < _MOST_EVENTS and super().accept(event)


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

"""The next clones, restored while a test runs, so that the next test only waits for its forwards.

A standby has answered on forwards of its own, which are gone again: its first page faults and first
translations of guest code, most of what a fresh clone waits for, are behind it. They are made one
after the other: each takes a processor while it is made, and a test runs beside it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pytest_vmports.errors import VmPortsError
from pytest_vmports.system import memory, mishaps
from pytest_vmports.system.surroundings import beside_a_test, changed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.vm.machine import Machine

_One = TypeVar("_One")

AUTO = "auto"
_MIB = 1 << 20
# More of them than tests can take at once only take memory.
_MOST_BY_ITSELF = 4
# In a row; a test may have put back by now what it had changed.
_MOST_FAILURES = 2


class Order(NamedTuple):
    """A machine that is wanted.

    Attributes:
        key: what it can be taken for; see `Plan.standby_key`.
        memory: of its guest, in MiB.
        make: returns it, restored and without forwards; None where it cannot be had any more.
        warm: takes it through what its test will wait for otherwise.
    """

    key: str
    memory: int
    make: Callable[[], Machine | None]
    warm: Callable[[Machine], None]


class Standby:
    """The machines that wait to be handed over.

    Args:
        tell: writes a line to the terminal.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._thread: threading.Thread | None = None
        # Of all that follows: the thread's, and of the one that asks.
        self._state = threading.Condition()
        self._orders: list[Order] = []
        self._ready: list[tuple[Order, Machine]] = []
        self._making: Order | None = None
        self._awaited = False
        self._off = False
        self._failures = 0

    def prepare(self, orders: Sequence[Order]) -> None:
        """Have these machines and no others, as far as memory allows; returns at once.

        Args:
            orders: what the next tests need, the nearest first.
        """
        with self._state:
            self._orders = [] if self._off else list(orders)
            if self._works or not (self._orders or self._ready):
                return
            self._thread = threading.Thread(target=self._work, name="vmports-standby", daemon=True)
            self._thread.start()

    def take(self, key: str) -> Machine | None:
        """Return a machine that was made for this key; waits for one that is being made."""
        with self._state:
            while not any(order.key == key for order, _ in self._ready):
                making = self._making
                # It may be between two: then whatever is ordered may be the next.
                now = self._orders if making is None else [making]
                if not self._works or all(order.key != key for order in now):
                    break
                self._awaited = making is not None
                self._state.wait()
            # Either it is taken, or whoever asks makes it.
            _remove_first(self._orders, key, lambda order: order.key)
            found = _remove_first(self._ready, key, lambda one: one[0].key)
        return None if found is None else found[1]

    def drop(self) -> None:
        """End the machines. Safe to call again."""
        with self._state:
            self._orders = []
        self.join()
        with self._state:
            ready, self._ready = self._ready, []
        for _, machine in ready:
            self._end(machine)

    def join(self) -> None:
        """Return when all that can be made are made."""
        if (thread := self._thread) is not None:
            thread.join()

    @property
    def _works(self) -> bool:
        """Whether the thread is there, as it is not in a forked child."""
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        with beside_a_test():
            while self._step():
                pass

    def _step(self) -> bool:
        """End what nobody wants, and make one that is missing; False when none is."""
        order = None
        with self._state:
            missing, unwanted = self._compare()
            if missing and not unwanted:
                waiting = [order.memory for order, _ in self._ready]
                order = missing[0] if _memory_for(missing[0].memory, waiting) else None
            self._making = order
            if order is None and not unwanted:
                self._thread = None  # whoever asks from now on starts another one
            self._state.notify_all()
        for machine in unwanted:
            self._end(machine)
        if order is not None:
            self._make(order)
        return bool(order or unwanted)

    def _compare(self) -> tuple[list[Order], list[Machine]]:
        """Return what is ordered and not there, and what is there no more, for nobody wants it."""
        missing, ready, unwanted = list(self._orders), self._ready, []
        self._ready = []
        for order, machine in ready:
            if _remove_first(missing, order.key, lambda one: one.key) is None:
                unwanted.append(machine)
            else:
                self._ready.append((order, machine))
        return missing, unwanted

    def _make(self, order: Order) -> None:
        machine = None
        try:
            machine = order.make()
            self._failures = 0
            # Who waits for it already would wait for this too.
            if machine is not None and not self._awaited:
                order.warm(machine)
        except Exception as error:  # noqa: BLE001 - a test may have replaced what we call
            # Tests go on without: each restores its own clone and tells its own errors.
            if machine is not None:
                self._end(machine)
                machine = None
            self._note(error)
        finally:
            with self._state:
                self._making, self._awaited = None, False
                if machine is not None:
                    self._ready.append((order, machine))
                elif order in self._orders:
                    self._orders.remove(order)  # until it is asked for again
                self._state.notify_all()

    def _note(self, error: Exception) -> None:
        if changed():
            return  # that says nothing of the next one
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            self._off = True
            with self._state:
                self._orders = []
            self._tell(f"vmports: no VMs are kept ready any more: {_line(error)}")

    def _end(self, machine: Machine) -> None:
        try:
            machine.finish()
        except (VmPortsError, OSError) as error:
            # No test has used it.
            why = str(error).partition("\n")[0]
            self._tell(f"vmports: a VM that was kept ready has ended: {why}")


def how_many(wanted: int | str) -> int:
    """Return how many machines this process keeps ready at the most, for the setting's value.

    By itself one for each processor of its share, less the one that its test needs; one in any
    case, but where there is a single processor, which the test needs.
    """
    if isinstance(wanted, int):
        return wanted
    allowed = getattr(os, "sched_getaffinity", None)
    processors = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    if processors == 1:
        return 0
    return max(1, min(_MOST_BY_ITSELF, processors // _workers() - 1))


def _remove_first(among: list[_One], key: str, key_of: Callable[[_One], str]) -> _One | None:
    """Remove the first of these that has this key, and return it; None where none has."""
    for number, one in enumerate(among):
        if key_of(one) == key:
            return among.pop(number)
    return None


def _workers() -> int:
    """Return how many processes of this run, each with VMs of its own, share the machine."""
    return max(1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _line(error: Exception) -> str:
    return str(error) if isinstance(error, (VmPortsError, OSError)) else mishaps.told(error)


def _memory_for(wanted: int, waiting: Sequence[int]) -> bool:
    """Whether this worker's share of the free memory has room for one more.

    A clone writes to a fraction of its memory; what all may write has to be there: this one, those
    that wait, and the test's.

    Args:
        wanted: of its guest, in MiB.
        waiting: of the guests that are kept ready already.
    """
    free = memory.available()
    return free is None or free / _workers() > (2 * wanted + sum(waiting)) * _MIB

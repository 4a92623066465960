"""The next clone, restored while a test runs, so that the next test only waits for its forwards.

A standby has answered on forwards of its own, which are gone again: its first page faults and first
translations of guest code, most of what a fresh clone waits for, are behind it.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

from pytest_vmports.errors import VmPortsError
from pytest_vmports.system import mishaps, proc
from pytest_vmports.system.surroundings import beside_a_test, changed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.vm.machine import Machine

_MIB = 1 << 20
# A clone writes to a fraction of its memory; what it may write in all has to be there twice over.
_MEMORY_FACTOR = 2
# In a row; a test may have put back by now what it had changed.
_MOST_FAILURES = 2


class Standby:
    """At most one machine that waits to be handed over.

    Args:
        tell: writes a line to the terminal.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._thread: threading.Thread | None = None
        self._key: str | None = None
        self._machine: Machine | None = None
        self._off = False
        self._failures = 0

    def prepare(self, key: str, memory: int, make: Callable[[], Machine]) -> None:
        """Begin to make a machine in the background, unless memory is short.

        Args:
            key: what it can be taken for; see `Plan.standby_key`.
            memory: of one guest, in MiB.
            make: returns it, restored and without forwards.
        """
        self.drop()
        if self._off or not _memory_for(memory):
            return
        self._key = key

        def run() -> None:
            with beside_a_test():
                try:
                    self._machine = make()
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 - a test may have replaced what we call
                    # Tests go on without: each restores its own clone and tells its own errors.
                    if changed():
                        return  # that says nothing of the next one
                    self._failures += 1
                    if self._failures < _MOST_FAILURES:
                        return
                    self._off = True
                    self._tell(f"vmports: no VMs are kept ready any more: {_line(error)}")

        self._thread = threading.Thread(target=run, name="vmports-standby", daemon=True)
        self._thread.start()

    def take(self, key: str) -> Machine | None:
        """Return the machine when it was made for this key; waits for one that is being made."""
        self.join()
        machine, self._machine = self._machine, None
        if machine is None or key == self._key:
            return machine
        self._end(machine)
        return None

    def drop(self) -> None:
        """End the machine, if there is one. Safe to call again."""
        self.join()
        machine, self._machine = self._machine, None
        if machine is not None:
            self._end(machine)

    def _end(self, machine: Machine) -> None:
        try:
            machine.finish()
        except (VmPortsError, OSError) as error:
            # No test has used it.
            why = str(error).partition("\n")[0]
            self._tell(f"vmports: a VM that was kept ready has ended: {why}")

    def join(self) -> None:
        """Return when none is being made."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _line(error: Exception) -> str:
    return str(error) if isinstance(error, (VmPortsError, OSError)) else mishaps.told(error)


def _memory_for(memory: int) -> bool:
    """Whether this worker's share of the free memory has room for its VM and the next."""
    found = re.search(r"^MemAvailable: *(\d+)", proc.said("meminfo"), re.MULTILINE)
    if found is None:  # not Linux, or nothing tells
        return True
    free = int(found[1])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return free * 1024 / workers > _MEMORY_FACTOR * memory * _MIB

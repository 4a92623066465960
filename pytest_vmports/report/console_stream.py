"""Guests' consoles on the terminal, as they are written."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, BinaryIO

from pytest_vmports.system.growing import MOST, Looks
from pytest_vmports.system.mishaps import noting
from pytest_vmports.vm.console import shown
from pytest_vmports.vm.milestones import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.vm.machine import Machine

_LOOK_SECONDS = 0.1
# One that goes on is shown in parts.
_LONGEST_LINE = 64 << 10


class ConsoleStream:
    """Writes what guests say, whole lines at a time; close it, or its thread goes on.

    Args:
        write: writes lines to the terminal; called from a thread.
        prefix: goes before each guest's name, as an xdist worker's.
    """

    def __init__(self, write: Callable[[str], None], prefix: str = "") -> None:
        self._write = write
        self._prefix = prefix
        self._followed: list[_Followed] = []
        self._lock = threading.Lock()
        self._looks = Looks("vmports-console", _LOOK_SECONDS, self._look)

    def follow(self, machine: Machine) -> None:
        """Show the console of a machine until its end, from its start or the template's on."""
        with self._lock:
            self._followed.append(_Followed(machine))

    def close(self) -> None:
        """Show what has not been shown yet, and end. Safe to call again."""
        self._looks.close()

    def _look(self, last: bool) -> None:
        with self._lock:
            self._followed = [one for one in self._followed if self._show(one, last=last)]

    def _show(self, one: _Followed, *, last: bool) -> bool:
        """Show what has come of a console; return whether there may be more."""
        name = f"{self._prefix}{one.machine.plan.guest.name}"
        # In a thread, whose errors pytest blames on a test.
        with noting(f"vmports: the console of {name} is shown no more", self._write):
            lines = one.lines(last=last)
            if lines:
                self._write("\n".join(f"{name}| {line}" for line in lines))
            return not one.ended
        return False


class _Followed:
    """One console's file, kept open: it may be removed before its end was read."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.ended = False
        self._file: BinaryIO | None = None
        self._rest = b""

    def lines(self, *, last: bool) -> list[str]:
        """Return what has come since; with ``last``, or at its end, a line without an end too."""
        # Looked at first: what was written before the end is read all the same.
        over = last or self.machine.state in {State.STOPPED, State.KEPT}
        if self._file is None and self.machine.console.begun:
            with contextlib.suppress(FileNotFoundError):  # removed at this moment
                self._file = self.machine.console.path.open("rb")
        if self._file is not None:
            if self._file.tell() > self._size():  # a restarted QEMU begins it anew
                self._file.seek(0)
            size = self._size()
            skipped = max(0, size - self._file.tell() - MOST)
            if skipped:
                self._rest += f"\n({skipped} bytes are left out)\n".encode()
                self._file.seek(size - MOST)
            self._rest += self._file.read(MOST)
        elif over:  # it was there too briefly
            self._rest = self.machine.console.own().encode()
        whole, end, self._rest = self._rest.rpartition(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            whole, end, self._rest = whole + end + self._rest, b"", b""
        if over:
            whole, self._rest = whole + end + self._rest, b""
            self._close()
        return shown(whole.decode(errors="replace")).splitlines()

    def _size(self) -> int:
        assert self._file is not None
        return os.fstat(self._file.fileno()).st_size

    def _close(self) -> None:
        self.ended = True
        if self._file is not None:
            self._file.close()

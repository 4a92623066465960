"""What is written to the terminal while tests run."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from typing import TYPE_CHECKING, TextIO

from pytest_vmports.report import workers
from pytest_vmports.system.mishaps import noting, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

# Source: ECMA-48 and DEC's VT100. A line below is made, without leaving the column (IND, RI), then
# the place is saved (DECSC), to go on there when the line below has been taken away.
_BELOW, _BACK, _ERASE = "\x1bD\x1bM\x1b7\n", "\x1b8", "\r\x1b[2K"


class Terminal:
    """Writes lines to the terminal now, past pytest's capture.

    An xdist worker's standard error is its controller's. It may be a stream of a test's making, and
    closed: threads that write, and tests that only wait for a VM, get no error for that.

    Args:
        config: pytest's.
        note: is told what could not be written, and why.
    """

    def __init__(self, config: pytest.Config, note: Callable[[str], None]) -> None:
        self._note = note
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._plugins = config.pluginmanager
        self._place_before = ("", 0)
        self._config = config
        self._quiet = config.getoption("verbose", 0) < 0
        self._loud = config.getoption("verbose", 0) > 0
        # Workers would draw over each other's line, and a test's own output over ours.
        worker = hasattr(config, "workerinput")
        self._may_redraw = not worker and config.getoption("capture", "no") != "no"
        self._drawn = False
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        """Write a line that stays; nothing with ``-q``."""
        if not self._quiet:
            self.write(line)

    def write(self, line: str) -> None:
        """Write a line that stays, with ``-q`` too; a worker's is written by its controller."""
        with self._noting():
            if not workers.send(self._config, line):
                self.write_here(line)

    def write_here(self, line: str) -> None:
        """Write a line that stays from this process, as when its run ends and nobody listens."""
        with self._noting(), self._lock, self._uncaptured():
            # What was saved is not the place any more, once the screen has scrolled.
            begin, end = (_ERASE, "\n") if self._drawn else self._around()
            self._drawn = False
            sys.stderr.write(f"{begin}{printable(line)}{end}")
            sys.stderr.flush()

    def redraw(self, line: str) -> bool:
        """Write a line below the place where pytest writes, over the one before; "" erases it.

        Returns:
            False where that cannot be done: not on a terminal.
        """
        with self._noting(), self._lock, self._uncaptured():
            if not self._may_redraw or not _draws(sys.stderr):
                return False
            if self._quiet:
                return True
            if line:
                width = shutil.get_terminal_size().columns - 1
                shown = printable(line.replace("\n", " "))[:width]
                sys.stderr.write(f"{_ERASE if self._drawn else _BELOW}{shown}")
            elif self._drawn:
                sys.stderr.write(f"{_ERASE}{_BACK}")
            sys.stderr.flush()
            self._drawn = bool(line)
            return True
        return False

    def _around(self) -> tuple[str, str]:
        """Return what goes before and behind a line, so that it stands alone."""
        reporter = self._plugins.getplugin("terminalreporter")
        if reporter is None:
            # A worker does not know; in a file a blank line for each would be worse.
            return "\n" if _is_terminal(sys.stderr) else "", "\n"
        if not _one_place(sys.stdout, sys.stderr):
            return "", "\n"
        if self._loud and self._plugins.hasplugin("dsession"):
            # There pytest begins each of its lines with the end of the one before.
            return "\n", ""
        width = getattr(getattr(reporter, "_tw", None), "width_of_current_line", 1)
        # It does not know of our lines: in the same test and as wide as before, it has written
        # nothing since.
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        before, self._place_before = self._place_before, (test, width)
        return "\n" if width != 0 and before != self._place_before else "", "\n"

    def _noting(self) -> contextlib.AbstractContextManager[None]:
        return noting("terminal failed: a line of vmports", self._note)

    def _uncaptured(self) -> contextlib.AbstractContextManager[object]:
        if self._capture is None:
            return contextlib.nullcontext()
        uncaptured: contextlib.AbstractContextManager[object]
        uncaptured = self._capture.global_and_fixture_disabled()
        return uncaptured


def _draws(stream: object) -> bool:
    return _is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


def _one_place(one: TextIO, other: TextIO) -> bool:
    """Whether what is written to two streams comes out at the same place."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):
        return True  # of somebody's making: not known

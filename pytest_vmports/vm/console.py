"""What the guest wrote to its first serial port."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from pytest_vmports.vm.crashes import Watch, Weight, clean, crashes_in, passage

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.crashes import Crash

_TAIL_LINES = 25
# Of what was written since the last look, so much is looked at.
_LOOK_BYTES = 1 << 20
# What our scripts in a guest write for our own sake; see guests/boot.sh and guests/cloud_init.py.
_MARKER = re.compile(
    r"^(?:vmports: setup ended with \d+|vmports-cloud-init: [^\n]*)(?:\n|$)", re.MULTILINE
)


class Console:
    """The console of one VM, over all QEMUs that it has had.

    Args:
        path: the file that QEMU writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = ""
        self._kept: str | None = None
        self._watch = Watch()
        self._read = 0

    def begin_with(self, text: str) -> None:
        """Put what was written before this QEMU started first."""
        self._before, self._watch, self._read = text, Watch(), 0

    def begin_anew(self, text: str) -> None:
        """Likewise for a QEMU that will be started in the place of one that has ended."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 0)
        self.begin_with(text)

    @property
    def begun(self) -> bool:
        """Whether this QEMU's guest has written anything."""
        return self.size > 0

    @property
    def says(self) -> bool:
        """Whether there is something that `tail` shows."""
        return bool(shown(self.text()).strip())

    @property
    def size(self) -> int:
        """How much this QEMU's guest has written."""
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def end(self, size: int) -> str:
        """Return the last of what was written since this QEMU started."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, self.size - size))
            return file.read().decode(errors="replace")
        return ""

    def keep(self) -> None:
        """Keep the text in memory: the file is about to be removed."""
        self._look()
        self._kept = self.text()

    def text(self) -> str:
        """Return all of it."""
        if self._kept is not None:
            return self._kept
        try:
            return self._before + self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return self._before

    def crashes(self) -> list[Crash]:
        """Return what the kernel said of its failing since this QEMU started, in order.

        A line that is being written is read as far as it goes. The look costs little, and may be
        taken often.
        """
        self._look()
        return self._watch.found

    def panic(self) -> str | None:
        """Return the kernel's reason to give up since this QEMU started; None when it has not."""
        return _reason(self.crashes())

    def may_be_crashing(self) -> bool:
        """Whether the last line is cut within a kernel's words of that: more is on its way."""
        self._look()
        return self._watch.begun

    def passage(self) -> str:
        """Return the lines in which the kernel tells of its failing; empty when it does not."""
        return passage(self.own()) if self.crashes() else ""

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            size = self.path.stat().st_size
            if size < self._read:  # begun anew
                self._watch, self._read = Watch(), 0
            if size - self._read > _LOOK_BYTES:
                self._watch.begin_within()
                self._read = size - _LOOK_BYTES
            if size > self._read:
                with self.path.open("rb") as file:
                    file.seek(self._read)
                    words = file.read(size - self._read)
                self._read += len(words)
                self._watch.feed(words.decode(errors="replace"))

    def own(self) -> str:
        """Return what was written since this QEMU started."""
        return self.text()[len(self._before) :]

    def last_line(self) -> str:
        """Return the last line that says something; empty when there is none."""
        lines = (line.strip() for line in reversed(shown(self.text()).splitlines()))
        return next(filter(None, lines), "")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines, without control characters and lines that are our init's own."""
        return "\n".join(shown(self.text()).splitlines()[-lines:]) or "(the console is empty)"


def shown(text: str) -> str:
    """Return what a person is shown of a console: see `Console.tail`."""
    return _MARKER.sub("", clean(text))


def panic_in(text: str) -> str | None:
    """Return the reason that the first line of a kernel's panic gives; None where there is none."""
    return _reason(crashes_in(text))


def _reason(crashes: list[Crash]) -> str | None:
    return next((one.said for one in crashes if one.kind.weight is Weight.PANIC), None)

"""What the guest wrote to its first serial port."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_LINES = 25
# A kernel that has panicked writes its trace and stops, so its words stand near the end.
_LOOK_BYTES = 1 << 20
_LONGEST_REASON = 500
_PANIC = "Kernel panic - not syncing:"
# A kernel begins a line of its own with it, as a program that quotes another's does not. Behind a
# program's half line, as a prompt, the time tells, and the task or processor where it writes those
# (source: its printk.c). One that stays as it is says it twice, the second time as an end.
_PANIC_LINE = re.compile(
    rf"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )(?:---\[ end )?{_PANIC}([^\n]*)", re.MULTILINE
)
# What our own init writes for its own sake: a person reads of the setup's end elsewhere.
_MARKER = re.compile(r"^vmports: setup ended with \d+(?:\n|$)", re.MULTILINE)
# Source: ECMA-48; and the few shorter ones that firmware and systemd write.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]?[0-~])")


class Console:
    """The console of one VM, over all QEMUs that it has had.

    Args:
        path: the file that QEMU writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = ""
        self._kept: str | None = None
        self._panic: str | None = None
        self._looked_at = 0

    def begin_with(self, text: str) -> None:
        """Put what was written before this QEMU started first."""
        self._before, self._panic, self._looked_at = text, None, 0

    def begin_anew(self, text: str) -> None:
        """Likewise for a QEMU that will be started in the place of one that has ended."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 0)
        self.begin_with(text)

    @property
    def begun(self) -> bool:
        """Whether this QEMU's guest has written anything."""
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    @property
    def says(self) -> bool:
        """Whether there is something that `tail` shows."""
        return bool(shown(self.text()).strip())

    def keep(self) -> None:
        """Keep the text in memory: the file is about to be removed."""
        self.panic()
        self._kept = self.text()

    def text(self) -> str:
        """Return all of it."""
        if self._kept is not None:
            return self._kept
        try:
            return self._before + self.path.read_text(errors="replace")
        except FileNotFoundError:
            return self._before

    def panic(self) -> str | None:
        """Return the kernel's reason to give up since this QEMU started; None when it has not.

        A line that is being written is read as far as it goes. The look costs little, and may be
        taken often.
        """
        with contextlib.suppress(FileNotFoundError):
            size = self.path.stat().st_size
            if size != self._looked_at:
                self._looked_at = size
                found = panic_in(self._last_words(size))
                self._panic = self._panic if found is None else found
        return self._panic

    def may_be_panicking(self) -> bool:
        """Whether the last line is cut within the words that begin a panic: more is on its way."""
        with contextlib.suppress(FileNotFoundError):
            line = self._last_words(self.path.stat().st_size).rpartition("\n")[2]
            return any(line.endswith(_PANIC[:size]) for size in range(len("Kernel"), len(_PANIC)))
        return False

    def _last_words(self, size: int) -> str:
        with self.path.open("rb") as file:
            begin = file.seek(max(0, size - _LOOK_BYTES))
            # Where the look begins no line does.
            words = (b"." if begin else b"") + file.read(_LOOK_BYTES)
        return words.decode(errors="replace")

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


def clean(text: str) -> str:
    """Return a text without what would move a terminal's cursor or colour it."""
    text = re.sub(r"\r*\n|\r", "\n", _CONTROL.sub("", text))
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def panic_in(text: str) -> str | None:
    """Return the reason that the first line of a kernel's panic gives; None where there is none."""
    found = _PANIC_LINE.search(clean(text)) if _PANIC in text else None
    return None if found is None else found[1].removesuffix(" ]---").strip()[:_LONGEST_REASON]

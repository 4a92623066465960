"""What the guest wrote to its first serial port."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.process import Process

_TAIL_LINES = 25
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

    def begin_with(self, text: str) -> None:
        """Put what was written before this QEMU started first."""
        self._before = text

    @property
    def begun(self) -> bool:
        """Whether this QEMU's guest has written anything."""
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def keep(self) -> None:
        """Keep the text in memory: the file is about to be removed."""
        self._kept = self.text()

    def text(self) -> str:
        """Return all of it."""
        if self._kept is not None:
            return self._kept
        try:
            return self._before + self.path.read_text(errors="replace")
        except FileNotFoundError:
            return self._before

    def own(self) -> str:
        """Return what was written since this QEMU started."""
        return self.text()[len(self._before) :]

    def last_line(self) -> str:
        """Return the last line that says something; empty when there is none."""
        lines = (line.strip() for line in reversed(clean(self.text()).splitlines()))
        return next(filter(None, lines), "")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines, control characters removed."""
        return "\n".join(clean(self.text()).splitlines()[-lines:]) or "(the console is empty)"


def clean(text: str) -> str:
    """Return a text without what would move a terminal's cursor or colour it."""
    text = re.sub(r"\r*\n|\r", "\n", _CONTROL.sub("", text))
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def exit_words(process: Process, console: Console) -> str:
    """Return in words how a process of a VM ended, and why where the console tells."""
    code = process.returncode
    if code == 0 and process.name == "QEMU":
        # The line itself is followed by a trace that may fill the whole tail.
        panic = re.search(r"Kernel panic - not syncing: ([^\r\n]*)", console.text())
        return f"0 (kernel panic: {panic[1]})" if panic else "0 (the guest powered off or rebooted)"
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"

"""What the guest wrote to its first serial port."""

from __future__ import annotations

import contextlib
import io
import os
import re
import weakref
from typing import TYPE_CHECKING, Final

from pytest_vmports.system.growing import Bounds, Follower, ends_of, texts
from pytest_vmports.vm.crashes import Watch, Weight, clean, crashes_in, passage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from pytest_vmports.vm.crashes import Crash

MIB: Final = 1 << 20
LIMIT: Final = 64 * MIB
_TAIL_LINES = 25
# Lines are looked for in the last of it: so much a line, at least and at the most.
_LINE_BYTES, _LEAST_BYTES, _MOST_BYTES = 4 << 10, 64 << 10, 4 * MIB
# Of a guest's life before its last restart, or before it was saved.
_MOST_BEFORE = 4 * MIB
_MOST_OF_A_LOG = 4 * MIB
# A console that is larger is kept as an open file, and not in memory.
_MOST_IN_MEMORY = MIB
# What our scripts in a guest write for our own sake; see guests/boot.sh and guests/cloud_init.py.
_MARKER = re.compile(
    r"^(?:vmports: setup ended with \d+|vmports-cloud-init: [^\n]*)(?:\n|$)", re.MULTILINE
)


class Console:
    """The console of one VM, over all QEMUs that it has had.

    A guest may write without end: what is read of it at a time is bounded, and so is what is kept.

    Args:
        path: the file that QEMU writes.
        limit: bytes of it that are kept, begin and end; see `system.growing.Bounds`.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.limit = limit
        self._before = ""
        self._kept: bytes | int | None = None
        self._watch = Watch()
        self._new = Follower(path)
        self._bounds: Bounds | None = None

    def begin_with(self, text: str) -> None:
        """Put what was written before this QEMU started first."""
        self._before = text[-_MOST_BEFORE:]
        self._watch, self._new = Watch(), Follower(self.path)

    def begin_anew(self, text: str) -> None:
        """Likewise for a QEMU that will be started in the place of one that has ended."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 0)
        self.begin_with(text)

    def keep_in_bounds(self) -> None:
        """Keep the file below its limit on the disk from now on, until `let_grow`.

        And with it what a guest may have the VM's programs say, in the same folder.
        """
        logs = self.path.parent, _MOST_OF_A_LOG
        self._bounds = Bounds({self.path: self.limit}, logs)

    def let_grow(self) -> None:
        """End that. Safe to call again."""
        if self._bounds is not None:
            self._bounds.close()

    @property
    def problems(self) -> Sequence[str]:
        """What could not be kept below its limit, a line each."""
        return [] if self._bounds is None else self._bounds.problems

    @property
    def begun(self) -> bool:
        """Whether this QEMU's guest has written anything."""
        return self.size > 0

    @property
    def says(self) -> bool:
        """Whether there is something that `tail` shows."""
        text = self._last(_LEAST_BYTES)
        return len(text) >= _LEAST_BYTES or bool(shown(text).strip())

    @property
    def size(self) -> int:
        """How much this QEMU's guest has written."""
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def end(self, size: int) -> str:
        """Return the last of what was written since this QEMU started."""
        with self._open() as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read(size).decode(errors="replace")

    def keep(self) -> None:
        """Keep what can be read: the file is about to be removed.

        Raises:
            OSError: it cannot be read.
        """
        self._look()
        with self._open() as file:
            if file.seek(0, os.SEEK_END) <= _MOST_IN_MEMORY:
                file.seek(0)
                self._kept = file.read()
            else:
                self._kept = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._kept)

    def text(self) -> str:
        """Return all of it; of one that is larger than its limit, begin and end."""
        return self._before + self.own()

    def own(self) -> str:
        """Return what was written since this QEMU started, as `text` does."""
        return "".join(self._own_pieces())

    def pieces(self) -> Iterator[str]:
        """Yield `text` in pieces, which take less memory."""
        yield self._before
        yield from self._own_pieces()

    def recent(self) -> str:
        """Return as much of the end of `text` as `begin_with` keeps."""
        text = self._last(_MOST_BEFORE)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    @property
    def before(self) -> str:
        """What was written before this QEMU started."""
        return self._before

    def follower(self) -> Follower:
        """Return what reads on in this QEMU's console, from its begin."""
        return Follower(self.path)

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
        return passage(self.end(MIB)) if self.crashes() else ""

    def _look(self) -> None:
        new = self._new.read()
        if new.anew:
            self._watch = Watch()
        if new.left_out:
            self._watch.begin_within()
        if new.text:
            self._watch.feed(new.text)

    def last_line(self) -> str:
        """Return the last line that says something; empty when there is none."""
        lines = (line.strip() for line in reversed(shown(self._last(_LEAST_BYTES)).splitlines()))
        return next(filter(None, lines), "")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines, without control characters and lines that are our init's own."""
        size = min(_MOST_BYTES, max(_LEAST_BYTES, lines * _LINE_BYTES))
        text = "\n".join(shown(self._last(size)).splitlines()[-lines:])
        with self._open() as file:
            left_out = ends_of(file, self.limit).left_out
        note = f"{self._note(left_out)}\n" if left_out else ""
        return note + text or "(the console is empty)"

    def _last(self, size: int) -> str:
        """Return the last of what was written in all."""
        own = self.end(size)
        missing = size - len(own)
        return self._before[-missing:] + own if missing > 0 else own

    def _own_pieces(self) -> Iterator[str]:
        with self._open() as file:
            ends = ends_of(file, self.limit)
            yield from texts(file, ends, f"\n{self._note(ends.left_out)}\n")

    def _note(self, left_out: int) -> str:
        return (
            f"(vmports: {left_out} bytes in the middle of this console are left out: it has grown "
            f"beyond console_limit = {self.limit // MIB})"
        )

    def _open(self) -> BinaryIO:
        if isinstance(self._kept, int):
            return os.fdopen(os.dup(self._kept), "rb")
        if self._kept is not None:
            return io.BytesIO(self._kept)
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return io.BytesIO()


def shown(text: str) -> str:
    """Return what a person is shown of a console: see `Console.tail`."""
    return _MARKER.sub("", clean(text))


def panic_in(text: str) -> str | None:
    """Return the reason that the first line of a kernel's panic gives; None where there is none."""
    return _reason(crashes_in(text))


def _reason(crashes: list[Crash]) -> str | None:
    return next((one.said for one in crashes if one.kind.weight is Weight.PANIC), None)

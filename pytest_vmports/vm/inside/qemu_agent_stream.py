"""Commands through the QEMU guest agent whose input and output go piece by piece.

The agent starts programs and tells how they ended: it takes a program's whole input beforehand, and
gives at most 16 MiB of its output afterwards. So the command runs between named pipes, in a folder
of its own in the guest, and for each piece a program is started that writes it to one, or reads it
from one. Nothing is stored there, and nothing is sent before what came before was taken.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, Protocol

from pytest_vmports.errors import GuestShellError
from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_vmports.system.patience import Limit
    from pytest_vmports.vm.inside.shell import Sink

AT_ONCE: Final = 1 << 20
"""Bytes of input that one message may hold."""
# An emulated guest's agent reads a message at 50 KB a second and more: this is when it goes on.
_PIECE = 1 << 18
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.005, 0.1
_LONGEST_COMPLAINT = 1000
_MAKE = "umask 077; mkdir {d} && mkfifo {d}/in {d}/out {d}/ask"
# Who opens a named pipe waits there for who opens its other end. What gives the command its input
# opens one for each piece; one more that is empty ends it, once there is a file of that name. What
# takes its output gives up to 16 reads of it to who asks, and none at its end.
_BODY = """\
export HOME="${{HOME:-/root}}"
body='
while [ ! -e {d}/last ] && cat {d}/in 2>/dev/null; do :; done |
{{ /bin/sh -c "$0"; echo $? >{d}/code; }} |
while read -r x <{d}/ask && [ "$x" != end ]; do dd bs=65536 count=16 2>/dev/null >{d}/out; done
read -r c <{d}/code; exit "$c"
'
command -v setsid >/dev/null && exec setsid /bin/sh -c "$body" "$0"; exec /bin/sh -c "$body" "$0"
"""
_WRITE, _LAST = "exec cat >{d}/in", ": >{d}/last; : >{d}/in"
_READ, _END = "echo >{d}/ask; exec cat {d}/out", "echo end >{d}/ask"
_CLEAN = "kill -KILL {pids}; rm -rf {d}"
# Its children go with it by its session's group, which it may make between two looks at it: so its
# group is looked for again when it can make none any more.
KILL = """kill -KILL -{pid} 2>/dev/null || {{ kill -KILL {pid}; kill -KILL -{pid}; }} 2>/dev/null
"""


class Ended(Protocol):
    """What the agent tells of a program."""

    @property
    def exited(self) -> bool:
        """Whether it has."""

    @property
    def code(self) -> int:
        """Its status, once it has."""

    @property
    def output(self) -> bytes:
        """What it wrote, once it has."""

    @property
    def errors(self) -> bytes:
        """Likewise, to its error output."""


class Enough(Exception):  # noqa: N818 - nobody's mistake
    """More was written than may be."""


class Kept:
    """Keeps what a command writes, and somewhat more than ``most`` bytes; see `shell.Sink`."""

    def __init__(self, most: int | None) -> None:
        self.output: bytearray = bytearray()
        self.errors: bytearray = bytearray()
        self.full: bool = False
        self._most = most

    def out(self, data: bytes) -> None:
        """Take some of its output."""
        self._keep(self.output, data)

    def err(self, data: bytes) -> None:
        """Take some of its error output."""
        self._keep(self.errors, data)

    def _keep(self, kept: bytearray, data: bytes) -> None:
        kept += data
        if self._most is not None and len(self.output) + len(self.errors) > self._most:
            self.full = True
            raise Enough


class Streamed:
    """One command.

    Args:
        start: starts a shell text in the guest, with a word as ``$0`` and an input; returns its
            process's number.
        look: tells of a process; of one that has ended no second time.
        limit: how long it may take, or rest.
        sink: is given what it writes.
    """

    def __init__(
        self,
        start: Callable[[str, str, bytes], int],
        look: Callable[[int], Ended],
        limit: Limit,
        sink: Sink,
    ) -> None:
        self._start, self._look, self._limit, self._sink = start, look, limit, sink
        self._folder = f"/tmp/.vmports-{secrets.token_hex(8)}"  # noqa: S108 - in the guest
        self._pending: set[int] = set()
        self._command: int | None = None

    @property
    def ending(self) -> str:
        """A shell text that ends what runs on, and takes away what is left."""
        whole = "" if self._command is None else KILL.format(pid=self._command)
        pids = " ".join(map(str, self._pending))
        return f"{{ {whole}{_CLEAN.format(d=self._folder, pids=pids)}; }} 2>/dev/null"

    def run(self, text: str, given: Iterable[bytes]) -> int | None:
        """Return the status of a shell text; None at the limit.

        Raises:
            GuestShellError: the guest has no pipes.
        """
        made = self._begin(_MAKE)
        while (status := self._ended(made)) is None:
            if self._limit.over:
                return None
            clock.sleep(_LOOK_SECONDS)
        if status.code:
            said = printable(status.errors[:_LONGEST_COMPLAINT].decode(errors="replace").strip())
            raise GuestShellError(
                means="the QEMU guest agent", detail=f"no pipes can be made in /tmp: {said}",
                remedy="make /tmp writable in the guest, or use ssh",
            )  # fmt: skip
        self._command = command = self._begin(_BODY, text)
        look = _FIRST_LOOK_SECONDS
        feeding, reading = self._feeding(_pieces(given)), self._reading()
        while (status := self._ended(command)) is None:
            if self._limit.over:
                return None
            if any([next(feeding, False), next(reading, False)]):
                self._limit.went_on()
                look = _FIRST_LOOK_SECONDS
            else:
                clock.sleep(look)
                look = min(2 * look, _LOOK_SECONDS)
        self._command = None
        for pid in [*self._pending]:  # the number of one that has ended may be another's soon
            self._ended(pid)
        self._sink.err(status.errors)
        return status.code

    def _feeding(self, pieces: Iterator[bytes]) -> Iterator[bool]:
        """Give it its input; yield whether anything went on."""
        for piece in pieces:
            writer = self._begin(_WRITE, given=piece)
            while self._ended(writer) is None:
                yield False
            yield True
        self._begin(_LAST)

    def _reading(self) -> Iterator[bool]:
        """Take its output; yield whether anything went on."""
        while True:
            reader = self._begin(_READ)
            while (status := self._ended(reader)) is None:
                yield False
            if not status.output:
                break
            self._sink.out(status.output)
            yield True
        self._begin(_END)

    def _begin(self, script: str, word: str = "sh", *, given: bytes = b"") -> int:
        pid = self._start(script.format(d=self._folder), word, given)
        self._pending.add(pid)
        return pid

    def _ended(self, pid: int) -> Ended | None:
        status = self._look(pid)
        if not status.exited:
            return None
        self._pending.discard(pid)
        return status


def _pieces(given: Iterable[bytes]) -> Iterator[bytes]:
    """Yield an input in pieces that a message can hold."""
    for chunk in given:
        for at in range(0, len(chunk), _PIECE):
            yield chunk[at : at + _PIECE]

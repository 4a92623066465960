"""Commands in a guest through the QEMU guest agent, which needs no network.

Source: QEMU's ``qga/qapi-schema.json``. One JSON value a line, over a virtio serial port.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import math
import threading
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, StrictInt, model_validator

from pytest_vmports.errors import CommandTimeoutError, GuestShellError
from pytest_vmports.system import clock, patience
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.said import Answer, json_said, malformed, shaped
from pytest_vmports.vm.arguments import short_enough
from pytest_vmports.vm.inside.channel import Channel
from pytest_vmports.vm.inside.qemu_agent_stream import AT_ONCE, KILL, Enough, Kept, Streamed
from pytest_vmports.vm.inside.shell import KILLED, kept_at_most

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from pytest_vmports.vm.inside.shell import Sink

_CALL_SECONDS = 30.0
_SYNC_AGAIN_SECONDS = 5.0
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.02, 0.2
_SIGNALLED = 128
WHO = "the QEMU guest agent"
# It keeps 16 MiB of a command's output and as many of its errors, and sends both in one line.
_LONGEST_ANSWER = 48 << 20
# Of a command whose output goes piece by piece, all of whose errors come at once.
_LONGEST_PIECE = 8 << 20
_LONGEST_COMPLAINT = 1000
# A session of its own, so that a timeout can end the children too.
# It may have been started without a home.
_WRAPPER = """\
export HOME="${HOME:-/root}"
command -v setsid >/dev/null && exec setsid /bin/sh -c "$0"; exec /bin/sh -c "$0"
"""


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("no text")  # noqa: TRY004 - as pydantic takes it
    return base64.b64decode(text, validate=True)


_A = TypeVar("_A")
_Data = Annotated[bytes, BeforeValidator(_decoded)]


class Started(Answer):
    """What comes of ``guest-exec``."""

    pid: Annotated[int, Field(ge=1, lt=1 << 31)]


class Status(Answer):
    """What comes of ``guest-exec-status``: one of both numbers when the process has ended."""

    exited: bool
    exitcode: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    output: _Data = Field(b"", alias="out-data")
    errors: _Data = Field(b"", alias="err-data")
    output_cut: bool = Field(False, alias="out-truncated")
    errors_cut: bool = Field(False, alias="err-truncated")

    @model_validator(mode="after")
    def _has_one_end(self) -> Status:
        if self.exited and (self.exitcode is None) == (self.signal is None):
            raise ValueError("it has ended, and with one of an exit code and a signal")
        return self

    @property
    def code(self) -> int:
        """How it ended, as a shell tells it."""
        return _SIGNALLED + (self.signal or 0) if self.exitcode is None else self.exitcode


class Complaint(Answer):
    """An error in the place of an answer."""

    desc: str


class GuestAgent:
    """Our end of the agent's channel.

    Args:
        connection: our end of the socket pair that QEMU connects to the guest's port.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._channel = Channel(connection, WHO)
        self._unread, self._in_pieces = bytearray(), False
        self._one_at_a_time = threading.Lock()
        self._numbers = itertools.count(int(clock.now() * 1e9))

    def answers(self, deadline: float, check: Callable[[], None] = lambda: None) -> bool:
        """Whether the agent has answered before ``deadline``, a `clock.now` value.

        Args:
            deadline: when to give up.
            check: called often; raises when waiting has become pointless.

        Raises:
            OSError: QEMU hung up.
        """
        asked: list[object] = []
        again = _SYNC_AGAIN_SECONDS
        deadline = clock.now() + patience.left(deadline - clock.now())
        while (now := clock.now()) < deadline:
            # What was sent before the agent ran may be lost: the guest drops it.
            number = next(self._numbers)
            # The byte makes the agent forget half a message of before.
            until = min(deadline, now + again)
            if self._send(b"\xff" + _message("guest-sync-delimited", id=number), until, check):
                asked.append(number)
            while (line := self._line(until, check)) is not None:
                _, found, rest = line.rpartition(b"\xff")
                if not found or (answered := answer_in(rest, StrictInt)) not in asked:
                    continue
                # Its answer begins with the same byte, after which the stream is ours again.
                if answered == asked[-1]:
                    return True
                # A slow one: it will answer what it was asked since too, which must not be taken
                # for the answer to what is asked next.
                again *= 2
        return False

    def run(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes] | None = None,  # noqa: A002
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int, bytes, bytes]:
        """Return the exit status, output and errors of a shell text, run as root.

        A command ended by signal N has the status 128 + N, as a shell tells it.

        Args:
            command: a text for the guest's ``/bin/sh``.
            timeout: seconds; None waits without end.
            input: what the command reads, chunks one by one; None for nothing.
            sink: is given what it writes as it comes, and its errors once it has ended. Without
                one, and with little input, the agent tells nothing before.
            most: bytes that are wanted of what it writes; the agent keeps 16 MiB in any case.
            per_progress: ``timeout`` is the longest time in which nothing goes on.

        Raises:
            CommandTimeoutError: it had not ended in time and was killed, its children with it.
            GuestShellError: the agent does not answer, forbids commands, or cut the output short.
            ValueError: no shell could be given it.
        """
        text = _in_unicode(command)
        short_enough(text)
        at_once = isinstance(input, bytes | None) and len(input or b"") <= AT_ONCE and sink is None
        most_seconds = math.inf if timeout is None or per_progress else timeout + _CALL_SECONDS
        with self._one_at_a_time, patience.at_most(most_seconds):
            if not self.answers(_soon()):
                raise self._refused("it does not answer")
            limit = patience.Limit(timeout, per_progress=per_progress)
            chunks = (input or b"",) if isinstance(input, bytes | None) else input
            if at_once:
                (given,) = chunks
                code, output, errors = self._at_once(text, given, limit)
            else:
                kept = Kept(kept_at_most(sink, most))
                code = self._streamed(text, chunks, kept if sink is None else sink, limit)
                code = KILLED if kept.full else code
                output, errors = bytes(kept.output), bytes(kept.errors)
        if code is None:
            raise CommandTimeoutError(cmd=command, timeout=timeout, output=output, stderr=errors)
        return code, output, errors

    def _at_once(
        self, text: str, given: bytes, limit: patience.Limit
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command that is given all at once, and tells all at its end."""
        pid = self._start(_WRAPPER, text, given, limit.deadline)
        if pid is None:
            return None, b"", b""
        try:
            status = self._status(pid, limit.deadline)
        except BaseException:  # as by Ctrl-C; the next command passes over the answer
            with contextlib.suppress(OSError):
                self._send(_execution(KILL.format(pid=pid), "sh", b""), clock.now())
            raise
        if status is None:
            self._start(KILL.format(pid=pid), "sh", b"", _soon())
            status = self._ended(pid)
            return None, status.output, status.errors
        self._refuse_cut(status)
        return status.code, status.output, status.errors

    def _streamed(
        self, text: str, given: Iterable[bytes], sink: Sink, limit: patience.Limit
    ) -> int | None:
        """Return the status of a command whose input and output go piece by piece."""

        def start(script: str, word: str, piece: bytes) -> int:
            pid = self._start(script, word, piece, limit.deadline)
            if pid is None:
                raise TimeoutError
            return pid

        def look(pid: int) -> Status:
            status = self._look(pid)
            self._refuse_cut(status)
            return status

        running = Streamed(start, look, limit, sink)
        self._in_pieces = True
        try:
            code = running.run(text, given)
            self._start(running.ending, "sh", b"", _soon())
        except TimeoutError:  # it does not read what it is sent
            return None
        except Enough:
            self._start(running.ending, "sh", b"", _soon())
            return None
        except BaseException:  # likewise
            with contextlib.suppress(OSError):
                self._send(_execution(running.ending, "sh", b""), clock.now())
            raise
        finally:
            self._in_pieces = False
        return code

    def _refuse_cut(self, status: Status) -> None:
        if status.output_cut or status.errors_cut:
            raise self._refused(
                "the output was longer than it keeps", "write it to a file, or use ssh"
            )

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._channel.close()

    def _start(self, script: str, word: str, stdin: bytes, deadline: float | None) -> int | None:
        """Return the number of a new process; None where it was not told of it in time."""
        if not self._send(_execution(script, word, stdin), deadline):
            return None
        return self._answer("guest-exec", Started).pid

    def _status(self, pid: int, deadline: float | None) -> Status | None:
        """Return how a command ended; None at the deadline."""
        look = _FIRST_LOOK_SECONDS
        while not (status := self._look(pid)).exited:
            if deadline is not None and clock.now() >= deadline:
                return None
            clock.sleep(look)  # the agent tells of no end by itself
            look = min(2 * look, _LOOK_SECONDS)
        return status

    def _ended(self, pid: int) -> Status:
        deadline = _soon()
        while True:
            status = self._look(pid)
            if status.exited:
                return status
            if clock.now() >= deadline:
                raise self._refused(f"process {pid} is still there after SIGKILL")
            clock.sleep(_LOOK_SECONDS)

    def _look(self, pid: int) -> Status:
        name = "guest-exec-status"
        self._send(_message(name, pid=pid), _soon())
        return self._answer(name, Status)

    def _answer(self, name: str, shape: type[_A]) -> _A:
        """Return its answer to a message.

        Raises:
            GuestSaidError: it is malformed.
            GuestShellError: there is none, or it is a refusal.
        """
        asked = clock.now()
        line = self._line(_soon(), lambda: None)
        if line is None:
            raise self._refused(f"no answer to {name} within {clock.now() - asked:.3g} s")
        answer = answer_in(line, shape)
        if isinstance(answer, Complaint):
            raise self._refused(
                f"{name}: {printable(answer.desc[:_LONGEST_COMPLAINT])}",
                "allow it in the guest's qemu-ga.conf (block-rpcs, allow-rpcs), or use ssh",
            )
        return answer

    def _send(
        self,
        data: bytes,
        deadline: float | None,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Send a message, whose rest it forgets when it is not read in time: see `answers`."""
        return self._channel.send(data, deadline, check)

    def _line(self, deadline: float, check: Callable[[], None]) -> bytes | None:
        """Return the next line; None at the deadline.

        Raises:
            GuestSaidError: it is longer than any answer.
        """
        looked, longest = 0, _LONGEST_PIECE if self._in_pieces else _LONGEST_ANSWER
        while (end := self._unread.find(b"\n", looked)) < 0:
            looked = len(self._unread)
            if looked > longest:
                begun, self._unread = self._unread, bytearray()
                raise malformed(WHO, f"a line of more than {longest} bytes", begun)
            data = self._channel.receive(deadline, check)
            if not data:
                return None
            self._unread += data
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    @staticmethod
    def _refused(
        detail: str, remedy: str = "the image needs qemu-guest-agent, and it has to run"
    ) -> GuestShellError:
        return GuestShellError(means="the QEMU guest agent", detail=detail, remedy=remedy)


def _soon() -> float:
    """Return when to give up what has to be answered soon, within what is left of all."""
    return clock.now() + patience.left(_CALL_SECONDS)


def _message(name: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


def _execution(script: str, word: str, stdin: bytes) -> bytes:
    return _message(
        "guest-exec",
        **{
            "path": "/bin/sh", "arg": ["-c", script, word], "capture-output": True,
            "input-data": base64.b64encode(stdin).decode(),
        },
    )  # fmt: skip


def _in_unicode(command: str) -> str:
    """Return a shell text that does the same and has a JSON form, which bytes have not."""
    raw = command.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        octal = "".join(f"\\{byte:03o}" for byte in raw)
        return f"eval \"$(printf '{octal}')\""


def answer_in(line: bytes, shape: type[_A]) -> _A | Complaint:
    """Return what a line of the agent's brings: an answer of this shape, or a complaint.

    Raises:
        GuestSaidError: it is malformed.
    """
    answer = json_said(WHO, line, dict[str, Any])
    if ("return" in answer) == ("error" in answer):
        raise malformed(WHO, "neither an answer nor an error, or both", line)
    if "error" in answer:
        return shaped(WHO, answer["error"], Complaint)
    return shaped(WHO, answer["return"], shape)

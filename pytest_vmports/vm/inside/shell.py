"""Commands in the guest, whatever way leads into it."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.errors import (
    CommandFailedError,
    CommandOutputError,
    CommandTimeoutError,
    MachineError,
)
from pytest_vmports.system import clock, patience
from pytest_vmports.vm import arguments
from pytest_vmports.vm.inside.control import CLOCK, CONSUMED, ENDED, ERRORS, LARGEST, OUTPUT, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import Buffer

    from pytest_vmports.vm.inside.control import Control

_ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
# A killed command's guest may be busy, but its agent answers.
_AFTER_KILL = 30.0
# A kill that comes before the command has begun hits nobody.
_KILL_AGAIN = 1.0
_SILENT = "the guest's agent does not answer any more"
_SHOWN = 2000


MAX_OUTPUT = 16 << 20
"""Bytes that a command of `run` may write where nobody says otherwise."""


class Sink(Protocol):
    """Who takes what a command writes as it comes. What it raises ends the command."""

    def out(self, data: bytes, /) -> None:
        """Take some of its output."""

    def err(self, data: bytes, /) -> None:
        """Take some of its error output."""


def kept_at_most(sink: Sink | None, most: int | None) -> int | None:
    """Return how much a command may write; None for no limit, which only a ``sink`` can have.

    What a guest is asked for our own sake names none, and is kept all the same.
    """
    return MAX_OUTPUT if sink is None and most is None else most


class Shell(Protocol):
    """A way into a guest."""

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002 - as subprocess
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Return exit status, output and error output of a shell command.

        With a ``sink`` these are empty: it was given them, and nothing is kept of them here. No
        ``most`` means `kept_at_most`. Where ``input`` is chunks, one is taken when the one before
        was consumed, so that no more than some of it is held in memory; what taking one raises
        ends the command, and is raised.

        Status None: it had not ended after ``timeout`` seconds, and was killed in the guest. With
        ``per_progress`` these are the seconds in which it has neither consumed nor written
        anything. Likewise is killed what writes more than ``most`` bytes; of what it wrote somewhat
        more than that comes back.
        """


class Completed(subprocess.CompletedProcess[str]):
    """What a command in the guest came to: ``args``, ``returncode``, ``stdout``, ``stderr``.

    The texts are UTF-8; bytes that are not come back from ``stdout_bytes`` as they were.
    """

    @property
    def stdout_bytes(self) -> bytes:
        """The output as it was."""
        return self.stdout.encode("utf-8", "surrogateescape")

    @property
    def stderr_bytes(self) -> bytes:
        """The error output as it was."""
        return self.stderr.encode("utf-8", "surrogateescape")


class AgentShell:
    """The agent of a guest we prepared, on the control channel.

    Args:
        control: the channel.
        check: raises when a process of the VM has ended.
    """

    def __init__(self, control: Control, check: Callable[[], None]) -> None:
        self._control = control
        self._check = check
        self._one_at_a_time = threading.Lock()
        self._last: _Run | None = None

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002 - as subprocess
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command; see `Shell`.

        Raises:
            MachineError: the VM ended, or the agent did.
        """
        variables = (f"{name}={value}" for name, value in _ENVIRONMENT.items())
        words = ["/", *variables, "", "/bin/sh", "-c", command]
        text = "".join(f"{word}\0" for word in words).encode("utf-8", "surrogateescape")
        # In all; what goes on may go on.
        most_seconds = math.inf if timeout is None or per_progress else timeout + _AFTER_KILL
        with self._one_at_a_time, patience.at_most(most_seconds):
            if self._last is not None:
                self._last.pass_over()
            limit = patience.Limit(timeout, per_progress=per_progress)
            most = kept_at_most(sink, most)
            self._last = run = _Run(self._control, self._check, limit, sink, most)
            answer = run.go(text, (input,) if isinstance(input, bytes) else input)
            self._last = None
            return answer


class CommandRunner(Protocol):
    """Another way into a guest: ssh, or the QEMU guest agent."""

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
        """Return exit status, output and error output; raise `CommandTimeoutError`."""


class RunnerShell:
    """A `Shell` by ssh or the QEMU guest agent."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002 - as subprocess
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command; see `Shell`.

        Raises:
            GuestShellError: it cannot be run.
        """
        try:
            return self._runner.run(
                command, timeout=timeout, input=input, sink=sink, most=most,
                per_progress=per_progress,
            )  # fmt: skip
        except CommandTimeoutError as error:
            return None, error.output or b"", error.stderr or b""


class _Run:
    """One command's frames, there and back."""

    def __init__(
        self,
        control: Control,
        check: Callable[[], None],
        limit: patience.Limit,
        sink: Sink | None,
        most: int | None,
    ) -> None:
        self._left = math.inf if most is None else most
        self._control = control
        self._check = check
        self._limit = limit
        self._deadline = limit.deadline
        self._output: dict[str, list[bytes]] = {OUTPUT: [], ERRORS: []}
        self._take: dict[str, Callable[[bytes], None]] = {
            kind: written.append for kind, written in self._output.items()
        }
        if sink is not None:
            self._take = {OUTPUT: sink.out, ERRORS: sink.err}
        self._status: int | None = None
        self._begun = self._killed = self._passed_over = False
        self._unconfirmed = 0
        self._again = 0.0

    def go(self, text: bytes, given: Iterable[bytes]) -> tuple[int | None, bytes, bytes]:
        try:
            return self._go(text, given)
        except BaseException:  # as by Ctrl-C, or a test's own limit of time
            with contextlib.suppress(OSError):
                self._control.send("K")
            raise

    def pass_over(self) -> None:
        """Wait for the end of one that was interrupted, so that no answer is taken for the next's.

        Raises:
            MachineError: the VM ended, or the agent does not answer.
        """
        self._take.clear()
        self._kill()
        self._control.send_mark()
        self._passed_over = True
        marked = False
        while not marked or (self._begun and self._status is None):
            marked = self._receive() == CLOCK or marked

    def _go(self, text: bytes, given: Iterable[bytes]) -> tuple[int | None, bytes, bytes]:
        for at in range(0, len(text), LARGEST):
            self._send("s" if at else "S", text[at : at + LARGEST])
        if self._killed:  # its time was over before it began
            return None, b"", b""
        self._begun = True
        self._control.send("X")
        for chunk in given:
            for at in range(0, len(chunk), LARGEST):
                if self._status is None:
                    self._send("I", chunk[at : at + LARGEST])
            if self._status is not None:
                break
        if self._status is None:
            self._control.send("i")
        while self._status is None:
            self._receive()
        output, errors = (b"".join(self._output[kind]) for kind in (OUTPUT, ERRORS))
        code = None if self._killed else os.waitstatus_to_exitcode(self._status)
        return code, output, errors

    def _send(self, kind: str, payload: bytes) -> None:
        """Send and wait until it was consumed, or the command has ended."""
        self._control.send(kind, payload)
        self._unconfirmed += 1
        while self._receive() != CONSUMED:
            pass

    def _receive(self) -> str:
        until = self._deadline
        if self._killed:
            until = self._until_killed()
        frame = self._control.receive(until, self._check)
        if frame is None:
            if not self._killed:
                self._kill()
            elif until == self._deadline:
                raise MachineError(_SILENT)
            return ""
        kind, payload = frame
        if not self._may_say(kind):
            raise self._control.refused(f"a frame of type {kind}, which nobody asked for", payload)
        if kind == CONSUMED:
            self._unconfirmed -= 1
        elif kind == ENDED:
            self._status = int(payload)
        elif kind == READY:
            self._begun = False
            raise MachineError(
                "the guest's agent ended and was started anew, as when the guest runs out of "
                "memory; what became of the command is not known"
            )
        elif kind in self._take:
            self._keep(kind, payload)
        self._went_on()
        return kind

    def _went_on(self) -> None:
        if not self._killed:
            self._limit.went_on()
            self._deadline = self._limit.deadline

    def _keep(self, kind: str, payload: bytes) -> None:
        """Keep what a command wrote; kill one that writes too much, and keep no more of it."""
        if self._left < 0:
            return
        self._take[kind](payload)
        self._left -= len(payload)
        if self._left < 0 and not self._killed:
            self._kill()

    def _kill(self) -> None:
        self._killed, self._deadline = True, clock.now() + patience.left(_AFTER_KILL)
        self._kill_again()

    def _until_killed(self) -> float:
        if clock.now() >= self._again:
            self._kill_again()
        return min(self._again, self._deadline or math.inf)

    def _kill_again(self) -> None:
        # By time, and not in its silence: one that was not hit may write without end.
        self._again = clock.now() + _KILL_AGAIN
        self._control.send("K")

    def _may_say(self, kind: str) -> bool:
        """Whether a frame may come now."""
        if kind == CONSUMED:  # of one that was interrupted it may be on its way
            return self._unconfirmed > 0 or self._passed_over
        if kind in {ENDED, OUTPUT, ERRORS}:
            return self._begun and self._status is None
        return True


def run(
    shell: Shell,
    command: str | Sequence[str | os.PathLike[str]],
    *,
    timeout: float | None,
    check: bool,
    input: str | Buffer | None,  # noqa: A002 - as subprocess
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    max_output: int = MAX_OUTPUT,
) -> Completed:
    """Run a shell command; see `VM.run`."""
    limit, most = arguments.seconds_or_none(timeout), arguments.most_bytes(max_output)
    given = arguments.given_input(input)
    whole = arguments.environment(env) + arguments.folder(cwd) + arguments.command_text(command)
    if whole.startswith(("-", "+")):
        whole = f" {whole}"  # which a shell would take for options
    arguments.short_enough(whole)
    code, *written = shell.execute(whole, timeout=limit, input=given, most=most)
    too_much = sum(map(len, written)) > most
    written = [data[:most] for data in written]
    texts = [data.decode("utf-8", "surrogateescape") for data in written]
    if too_much:
        raise CommandOutputError(cmd=command, max_output=most, output=texts[0], stderr=texts[1])
    if code is None:
        raise CommandTimeoutError(cmd=command, timeout=limit, output=texts[0], stderr=texts[1])
    done = Completed(command, code, *texts)
    if check and code:
        raise CommandFailedError(
            cmd=command, returncode=code, output=done.stdout, stderr=done.stderr,
            said=end_of(done.stderr or done.stdout),
        )  # fmt: skip
    return done


def end_of(text: str) -> str:
    """Return the end of what a command said, for a message."""
    return text.strip()[-_SHOWN:] or "(nothing)"

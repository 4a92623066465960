"""Commands in the guest, whatever way leads into it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.errors import (
    CommandFailedError,
    CommandOutputError,
    CommandTimeoutError,
)
from pytest_vmports.vm import arguments

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Buffer

_SHOWN = 2000


MAX_OUTPUT = 16 << 20
"""Bytes that a command of `run` may write where nobody says otherwise."""
KILLED = 128 + 9
"""What a shell says of a command that was."""


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

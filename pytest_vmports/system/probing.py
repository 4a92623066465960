"""Programs that are asked something: what stopped one is told apart from what it says.

A program that is there, and that the host has no room for, is not missing: whoever is told to
install it does so in vain.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.system import tools
from pytest_vmports.system.paths import as_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.system.tools import Confines

_MEMORY: Final = "raise the limit of memory (ulimit -v, or the container's), or free some"
# What the host was short of, by the errno of a start that failed, and what to do.
_REMEDIES: Final = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max), or end some programs",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, or the container's pids)",
    errno.ENOMEM: _MEMORY,
    errno.E2BIG: "make the environment's variables shorter",
    errno.ETXTBSY: "try again when nobody writes to it any more",
}
# The same as programs say it that got further: the loader, glibc, QEMU and Go.
_SAID: Final = {
    errno.EMFILE: r"too many open files",
    errno.EAGAIN: r"resource temporarily unavailable|newosproc|pthread_create|cannot fork",
    errno.ENOMEM: (
        r"cannot allocate|could ?n[o']t allocate|(?:failed|unable) to allocate|out of memory"
        r"|failed to map segment|failed to reserve|cannot map|bad_alloc"
    ),
}
_SHELLS_SIGNALS: Final = 128


@dataclass(frozen=True)
class Answer:
    """What a program came to that ran to its end."""

    code: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.output + self.errors

    @property
    def begin(self) -> str:
        """Its first line, for an error of one that does not run; its exit code for none."""
        return next(iter(self.text.splitlines()), f"exit code {self.code}")


def ask(
    command: Sequence[str],
    *,
    timeout: float,
    stdin: str = "",
    confinement: Confines | None = None,
    memory: int | None = None,
    most: int | None = None,
) -> Answer:
    """Run a program to its end; one that cannot be run for what it is has the code -1.

    So has one that is ended because it says too much.

    Args:
        command: its argv.
        timeout: seconds that it may take.
        stdin: what it reads.
        confinement: what it may do; None for whatever we may.
        memory: bytes that it may fill, where the system can limit that; None for any number.
        most: bytes that it may say; None for any number.

    Raises:
        ProgramStoppedError: the host stopped it: a limit, a signal, or no end in time.
    """
    try:
        done = tools.run(
            [*map(as_bytes, command)], input=stdin.encode(), timeout=timeout,
            confinement=confinement, memory=memory, most=most,
        )  # fmt: skip
    except OSError as error:
        if error.errno in _REMEDIES:
            raise stopped(command[0], error) from error
        return Answer(-1, "", str(error))
    except MemoryError as error:
        raise stopped(command[0], OSError(errno.ENOMEM, "no memory to start it")) from error
    except subprocess.TimeoutExpired as error:
        raise ProgramStoppedError(
            program=command[0], reason=f"it had not ended within {timeout:g} s",
            remedy="look what it waits for, or run fewer things at once", signal=0,
        ) from error  # fmt: skip
    output, errors = (
        stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr)
    )
    if most is not None and len(done.stdout) + len(done.stderr) > most:
        return Answer(-1, output, errors or f"it says more than {most} bytes")
    _check(command[0], done.returncode, output + errors)
    return Answer(done.returncode, output, errors)


def short_of(text: str) -> int | None:
    """Return what the host was short of, as an errno, by what a program said; None for nothing."""
    found = (kind for kind, said in _SAID.items() if re.search(said, text, re.IGNORECASE))
    return next(found, None)


def is_of_the_host(error: OSError) -> bool:
    """Whether the host was short of something, and not the program at fault."""
    return error.errno in _REMEDIES


def stopped(program: str, error: OSError) -> ProgramStoppedError:
    """Return what to raise for a program that could not be started for the host's sake."""
    assert error.errno is not None
    return ProgramStoppedError(
        program=program, reason=error.strerror or os.strerror(error.errno),
        remedy=_REMEDIES[error.errno], signal=0,
    )  # fmt: skip


def _check(program: str, code: int, text: str) -> None:
    number = -code if code < 0 else code - _SHELLS_SIGNALS
    if number in set(signal.Signals) and (code < 0 or number == signal.SIGKILL):
        name = signal.Signals(number).name
        raise ProgramStoppedError(
            program=program, reason=f"it was ended by {name}{_brief(text)}", signal=number,
            remedy=f"{_MEMORY}; dmesg tells of the kernel's own kills",
        )  # fmt: skip
    kind = short_of(text) if code else None
    if kind is not None:
        raise ProgramStoppedError(
            program=program, reason=f"it ended with {code}{_brief(text)}",
            remedy=_REMEDIES[kind], signal=0,
        )  # fmt: skip


def _brief(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f", and said: {line}" if line else ""

"""Programs that answer and end: run with a limit of time that no patched clock takes away.

`subprocess.run` counts its timeout by `time.monotonic`, which freezegun stops, and holds all that
is written and read in memory.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from select import POLLIN, POLLOUT, poll
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen, TimeoutExpired
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmports.system import clock, patience, surroundings
from pytest_vmports.system.poll import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_vmports.system.patience import Limit

if sys.platform != "win32":
    import resource

_LOOK_SECONDS = 0.01
_CHUNK = 1 << 16
# More than a mark has, with a status before it.
_KEPT = 64


class Confines(Protocol):
    """A `Confinement`."""

    def put_on(self) -> None:
        """Confine this thread and what it starts."""


def start(
    command: Sequence[str | bytes], confinement: Confines | None = None, **words: Any
) -> Popen[bytes]:
    """Start a program with the environment that was there before any test, as `Popen`.

    Args:
        command: program and arguments.
        confinement: what it may do; None for whatever we may.
        words: for `Popen`.

    Raises:
        OSError: it is not there or cannot be run.
    """
    name = os.fsdecode(command[0])
    program = surroundings.which(name)
    if program is None:
        raise FileNotFoundError(f"{name} is not an executable file or not on PATH")
    words = {
        "env": surroundings.variables(public=confinement is not None),
        "cwd": surroundings.directory(),
        "umask": surroundings.umask(),
        **words,
    }
    with surroundings.restored():
        child = _confined(confinement, lambda: Popen([program, *command[1:]], **words))
        surroundings.unlimit(child)
    return child


def _confined(confinement: Confines | None, begin: Callable[[], Popen[bytes]]) -> Popen[bytes]:
    if confinement is None:
        return begin()
    # Nothing takes walls off a thread again, so this one ends here.
    with ThreadPoolExecutor(1, thread_name_prefix="vmports-confined") as own:
        own.submit(confinement.put_on).result()
        return own.submit(begin).result()


def run(
    command: Sequence[str | bytes],
    *,
    timeout: float | None,
    input: bytes | Iterable[bytes] = b"",  # noqa: A002 - as subprocess.run
    mark: bytes = b"",
    confinement: Confines | None = None,
    memory: int | None = None,
    takers: Sequence[Callable[[bytes], None]] = (),
    most: int | None = None,
    per_progress: bool = False,
) -> CompletedProcess[bytes]:
    """Run a program to its end; return its status, output and errors.

    Args:
        command: program and arguments.
        timeout: seconds; None waits for ever.
        input: what it reads; chunks are taken one by one, as it reads them.
        mark: once its output and its errors have this in them, it has said all, and is ended.
        confinement: what it may do; None for whatever we may.
        memory: bytes that it may fill, where the system can limit that; None for any number.
        takers: are given its output and its errors as they come, all but the last few bytes, which
            are returned. What one raises ends the program.
        most: bytes that it may write, its errors with them; beyond it is ended.
        per_progress: ``timeout`` is the longest time in which it neither reads nor writes.

    Raises:
        subprocess.TimeoutExpired: it had not ended in time and was killed; holds what it wrote.
        OSError: it is not there or cannot be run.
    """
    limit = patience.Limit(timeout, per_progress=per_progress)
    with ExitStack() as stack:
        child = start(
            command, confinement, stdin=PIPE if input else DEVNULL, stdout=PIPE, stderr=PIPE
        )
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                stack.callback(_close, pipe)
        stack.callback(_end, child)
        if memory is not None and sys.platform.startswith("linux"):
            with suppress(ProcessLookupError, ValueError):  # it has ended, or has a lower limit
                resource.prlimit(child.pid, resource.RLIMIT_DATA, (memory, memory))
        parts = _Talk(child, input, mark, takers)
        while parts.open and not parts.beyond(most) and not limit.over:
            parts.step(limit)
        if parts.beyond(most):
            _end(child)
            return CompletedProcess(list(command), child.returncode, parts.output, parts.errors)
        if parts.marked:
            _end(child)
        if wait(child, limit.left) is None or parts.open:
            raise TimeoutExpired(list(command), timeout or 0.0, parts.output, parts.errors)
        return CompletedProcess(list(command), child.returncode, parts.output, parts.errors)


def wait(child: Popen[bytes], seconds: float | None) -> int | None:
    """Wait for a child's end; return its status, or None when it has not ended in time."""
    if seconds is None:
        return child.wait()
    deadline = clock.now() + seconds
    look = 0.0005
    while (code := child.poll()) is None and (left := deadline - clock.now()) > 0:
        clock.sleep(min(left, look))
        look = min(2 * look, _LOOK_SECONDS)
    return code


class _Talk:
    """What is written to and read from a child by now."""

    def __init__(
        self,
        child: Popen[bytes],
        given: bytes | Iterable[bytes],
        mark: bytes,
        takers: Sequence[Callable[[bytes], None]],
    ) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._more = iter((given,) if isinstance(given, bytes) else given)
        self._given = memoryview(b"")
        self._output, self._errors = child.stdout.fileno(), child.stderr.fileno()
        self._said = {self._output: bytearray(), self._errors: bytearray()}
        self._takers = dict(zip(self._said, takers, strict=False))
        self._input = child.stdin
        self._mark, self._without_mark = mark, set(self._said)
        self.open = set(self._said)
        self._poll = poll()
        for number in self._said:
            self._poll.register(number, POLLIN)
        if self._input is not None:
            os.set_blocking(self._input.fileno(), False)
            self._poll.register(self._input.fileno(), POLLOUT)

    @property
    def output(self) -> bytes:
        return bytes(self._said[self._output])

    @property
    def errors(self) -> bytes:
        return bytes(self._said[self._errors])

    @property
    def marked(self) -> bool:
        """Whether all that was wanted has been said."""
        return bool(self._mark) and not self._without_mark

    def beyond(self, most: int | None) -> bool:
        """Whether more has been said than that."""
        return most is not None and sum(map(len, self._said.values())) > most

    def step(self, limit: Limit) -> None:
        """Write and read what can be now; waits for that."""
        for number, _ in self._poll.poll(milliseconds(limit.left)):
            if number in self._said:
                self._read(number)
            else:
                self._write(number)
            limit.went_on()

    def _read(self, number: int) -> None:
        chunk = os.read(number, _CHUNK)
        said = self._said[number]
        since = max(0, len(said) - len(self._mark))
        said += chunk
        marked = bool(self._mark) and said.find(self._mark, since) >= 0
        if marked:
            self._without_mark.discard(number)
        if marked or not chunk:
            self._poll.unregister(number)
            self.open.discard(number)
        elif number in self._takers and len(said) > _KEPT:
            self._takers[number](bytes(said[:-_KEPT]))
            del said[:-_KEPT]

    def _write(self, number: int) -> None:
        while not self._given:
            more = next(self._more, None)
            if more is None:
                assert self._input is not None
                self._poll.unregister(number)
                _close(self._input)
                return
            self._given = memoryview(more)
        try:
            self._given = self._given[os.write(number, self._given) :]
        except BrokenPipeError:  # it does not want to read it
            self._given, self._more = self._given[:0], iter(())


def _end(child: Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()


def _close(pipe: Any) -> None:
    with suppress(BrokenPipeError):
        pipe.close()

"""Commands in a guest that our agent runs, by the control channel and the window.

What is long goes by the window, where the agent has shown that it sees it, and else in frames.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.system import clock, patience
from pytest_vmports.vm.inside.control import CLOCK, CONSUMED, ENDED, ERRORS, LARGEST, OUTPUT, READY
from pytest_vmports.vm.inside.given import Given
from pytest_vmports.vm.inside.shell import kept_at_most
from pytest_vmports.vm.inside.window import LONGEST_TEXT, SLOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_vmports.vm.inside.control import Control
    from pytest_vmports.vm.inside.shell import Sink
    from pytest_vmports.vm.inside.window import Window

_ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
# A killed command's guest may be busy, but its agent answers.
_AFTER_KILL = 30.0
# A kill that comes before the command has begun hits nobody.
_KILL_AGAIN = 1.0
_SILENT = "the guest's agent does not answer any more"
# A command that takes longer than this for what it was given is given less at a time: its progress
# is what it has taken all of.
_SLOW = 0.5
_FIRST = 1 << 17


class AgentShell:
    """The agent of a guest we prepared, on the control channel.

    Args:
        control: the channel.
        check: raises when a process of the VM has ended.
        folder: where commands begin.
        variables: what their environment holds beside the usual.

    Attributes:
        check: may be replaced between commands.
    """

    def __init__(
        self,
        control: Control,
        check: Callable[[], None],
        folder: str = "/",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._control = control
        self.check = check
        self._folder = folder
        self._environment = {**_ENVIRONMENT, **variables}
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
        """Return what came of a command; see `shell.Shell`.

        Raises:
            MachineError: the VM ended, or the agent did.
        """
        variables = (f"{name}={value}" for name, value in self._environment.items())
        words = [self._folder, *variables, "", "/bin/sh", "-c", command]
        text = "".join(f"{word}\0" for word in words).encode("utf-8", "surrogateescape")
        most_seconds = math.inf if timeout is None or per_progress else timeout + _AFTER_KILL
        with self._one_at_a_time, patience.at_most(most_seconds):
            if self._last is not None:
                self._last.pass_over(self.check)
            limit = kept_at_most(sink, most)
            time = patience.Limit(timeout, per_progress=per_progress)
            self._last = run = _Run(self._control, self.check, time, sink, limit)
            answer = run.go(text, Given(input))
            self._last = None
            return answer


class _Run:
    """One command's frames, there and back."""

    def __init__(
        self,
        control: Control,
        check: Callable[[], None],
        time: patience.Limit,
        sink: Sink | None,
        most: int | None,
    ) -> None:
        self._left = math.inf if most is None else most
        self._control = control
        self._check = check
        self._time = time
        self._deadline: float | None = None
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

    def go(self, text: bytes, given: Given) -> tuple[int | None, bytes, bytes]:
        try:
            return self._go(text, given)
        except BaseException:  # as by Ctrl-C, or a test's own limit of time
            with contextlib.suppress(OSError):
                self._control.send("K")
            raise

    def pass_over(self, check: Callable[[], None]) -> None:
        """Wait for the end of one that was interrupted, so that no answer is taken for the next's.

        Args:
            check: raises when a process of the VM has ended.

        Raises:
            MachineError: the VM ended, or the agent does not answer.
        """
        self._check = check
        self._take.clear()
        self._kill()
        # Whatever lies there nobody wants.
        self._control.read()
        self._control.send_mark()
        self._passed_over = True
        marked = False
        while not marked or (self._begun and self._status is None):
            marked = self._receive() == CLOCK or marked

    def _go(self, text: bytes, given: Given) -> tuple[int | None, bytes, bytes]:
        window = self._control.window if len(text) <= LONGEST_TEXT else None
        if window is None:
            for at in range(0, len(text), LARGEST):
                self._send("s" if at else "S", text[at : at + LARGEST])
            if self._killed:  # its time was over before it began
                return None, b"", b""
            self._begun = True
            self._control.send("X")
            self._give(given)
        else:
            self._begun = True
            window.put_text(text)
            self._control.send_size("W", len(text))
            self._give_by(window, given)
        if self._status is None:
            self._control.send("i")
        while self._status is None:
            self._receive()
        output, errors = (b"".join(self._output[kind]) for kind in (OUTPUT, ERRORS))
        code = None if self._killed else os.waitstatus_to_exitcode(self._status)
        return code, output, errors

    def _give(self, given: Given) -> None:
        room = bytearray(LARGEST)
        while self._status is None and (size := given.fill(memoryview(room))):
            self._time.went_on()
            self._send("I", bytes(room[:size]))

    def _give_by(self, window: Window, given: Given) -> None:
        most = _FIRST
        while self._status is None and (size := window.put_input(given.fill, most)):
            begin = clock.now()
            self._time.went_on()
            self._control.send_size("J", size)
            self._await_consumed()
            slow = clock.now() - begin > _SLOW
            most = max(most // 2, LARGEST) if slow else min(most * 2, SLOT)

    def _send(self, kind: str, payload: bytes) -> None:
        """Send and wait until it was consumed, or the command has ended."""
        self._control.send(kind, payload)
        self._await_consumed()

    def _await_consumed(self) -> None:
        self._unconfirmed += 1
        while self._receive() != CONSUMED:
            pass

    def _receive(self) -> str:
        until = self._until_killed() if self._killed else self._time.deadline
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
            self._time.went_on()
        elif kind == ENDED:
            self._status = int(payload)
        elif kind == READY:
            self._begun = False
            raise MachineError(
                "the guest's agent ended and was started anew, as when the guest runs out of "
                "memory; what became of the command is not known"
            )
        elif kind in self._take:
            self._time.went_on()
            self._keep(kind, payload)
        return kind

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

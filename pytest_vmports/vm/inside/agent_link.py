"""Our agent in one guest, whoever started it there: waited for, told the time, and entered."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestSaidError, MachineError
from pytest_vmports.system import clock
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import CLOCK, MOVED, READY, WARM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vmports.errors import BootTimeoutError
    from pytest_vmports.network.moving import Move
    from pytest_vmports.vm.inside.control import Control
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.waiting import Waiting

# What is asked is asked of a guest that is busy with its boot.
_ASK_SECONDS, _LONGEST = 30.0, 1 << 10
_LEAST_SECONDS = 0.1


class AgentLink:
    """What leads to the agent; used from a start of the VM to its end.

    Args:
        control: our end of its channel.
        folder: where commands begin.
        variables: what their environment holds beside the usual.

    Attributes:
        there: whether it has spoken, in this guest or in the one that its template was made of.
        variables: may be added to until the shell is asked for.
    """

    def __init__(
        self,
        control: Control,
        *,
        folder: str = "/",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.there: bool = False
        self.variables: dict[str, str] = dict(variables)
        self._control = control
        self._folder = folder
        self._clock_sent = self._moving = False
        self._shell: AgentShell | None = None

    def send_ahead(self, move: Move | None = None) -> None:
        """Send a guest that was restored what its agent reads once it runs: the host's time.

        Args:
            move: what changes its card's address; None where that stays or is changed otherwise.
        """
        if move is not None:
            self._control.send(MOVED, move.requests())
        self._moving = move is not None
        self._send_clock()
        self._clock_sent = self.there = True

    def begin_anew(self) -> None:
        """Forget what the agent of a guest that rebooted has said: it is started anew there."""
        self._control.begin_anew()
        self.there = self._clock_sent = self._moving = False
        self._shell = None

    def await_ready(self, missing: Callable[[], BootTimeoutError], waiting: Waiting) -> int:
        """Return what the agent says first: how the guest's setup ended.

        Raises:
            BootTimeoutError: what ``missing`` returns: it has not spoken.
            MachineDiedError: QEMU or gvproxy ended.
            GuestSaidError: it is not our agent that speaks.
        """
        code = self._answer(READY, missing, waiting)
        self.there = True
        return code

    def look(self, code: int, seconds: float, waiting: Waiting) -> None:
        """Wait so long, and note when an agent has begun to speak.

        Others may have used its port before: firmware, a boot loader, a kernel's console.

        Args:
            code: what the agent says first.
            seconds: of waiting; less when it has begun.
            waiting: tells of the VM's end.
        """
        if self.there:
            clock.sleep(seconds)
            return
        self._control.deaths = waiting.deaths
        until = clock.now() + seconds
        self.there = self._control.await_begin(READY, code, until, waiting.check)

    def missing(self, code: int, until: float, waiting: Waiting) -> str | None:
        """Return why the guest cannot be entered by the agent; None when it can.

        Args:
            code: what the agent says first.
            until: when to give up, a `clock.now` value.
            waiting: tells of the VM's end.

        Raises:
            MachineDiedError: QEMU or gvproxy ended.
        """
        while not self.there:
            left = until - clock.now()
            if left <= 0:
                return "it has not spoken on its serial port"
            self.look(code, left, waiting)
        # Whoever has the port open beside it, as a getty, takes what is meant for it.
        try:
            self._control.send_mark()
            answer = self._control.await_number(CLOCK, until, waiting.check)
        except GuestSaidError as error:
            self.there = False
            return f"its serial port is not its own: {error.fields['problem']}"
        self.there = answer is not None
        return None if self.there else "it spoke on its serial port, and answers nothing"

    def ask(self, command: str, waiting: Waiting) -> bytes:
        """Return what a command of our own writes, which is little and comes soon; else nothing.

        Raises:
            MachineError: the VM ended, or the agent did.
            GuestSaidError: it is not our agent that speaks.
        """
        shell = AgentShell(self._control, waiting.check)
        code, output, _ = shell.execute(command, timeout=_ASK_SECONDS, input=b"", most=_LONGEST)
        return output if code == 0 else b""

    def set_clock(self, waiting: Waiting) -> None:
        """Give the guest the host's time, and return when it has that.

        Raises:
            MachineError: it refuses.
            BootTimeoutError: it does not answer.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if not self._clock_sent:
            self._send_clock()
        self._clock_sent = False
        if self._moving:
            self._moving = False
            code = self._answer(MOVED, lambda: waiting.timed_out("it has no address yet"), waiting)
            if code:
                raise MachineError(f"the guest refused its own address: {os.strerror(code)}")
        code = self._answer(CLOCK, lambda: waiting.timed_out("its clock is not set"), waiting)
        if code:
            raise MachineError(f"the guest refused to have its clock set: {os.strerror(code)}")

    def warm(self, deadline: float, check: Callable[[], None]) -> None:
        """Have the agent do once what a test does first: send and receive by TCP, run a command.

        That it cannot, as in a guest without a loopback, changes nothing but the time which the
        test's first byte takes.

        Args:
            deadline: `clock.now` value.
            check: raises when a process of the VM has ended.

        Raises:
            GuestSaidError: what it answers is malformed.
            MachineDiedError: QEMU or gvproxy ended.
            MachineError: it does not answer.
        """
        self._control.send(WARM)
        if self._control.await_number(WARM, deadline, check) is None:
            raise MachineError("the guest's agent does not answer")
        left = max(deadline - clock.now(), _LEAST_SECONDS)
        self.shell(check).execute("true", timeout=left, input=b"")

    def narrow(self) -> bool:
        """Whether all goes by the serial port: the agent does not see the window now."""
        return self._control.window is None

    def shell(self, check: Callable[[], None]) -> Shell:
        """Return the agent's shell.

        Args:
            check: raises when a process of the VM has ended.
        """
        if self._shell is None:
            self._shell = AgentShell(self._control, check, self._folder, self.variables)
        # Who asked before, to warm it or to wait for it, had other reasons to give up.
        self._shell.check = check
        return self._shell

    def _send_clock(self) -> None:
        # A restored guest's board need not tell it so, nor its kernel have a driver for that.
        self._control.send_clock(clock.wall(), seed=True)

    def _answer(self, kind: str, missing: Callable[[], BootTimeoutError], waiting: Waiting) -> int:
        self._control.deaths = waiting.deaths
        code = self._control.await_number(kind, waiting.deadline, waiting.check)
        if code is None:
            raise missing()
        return code

"""A guest that we prepared: our init runs its setup, and our agent serves the control channel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError, SetupError
from pytest_vmports.system import clock
from pytest_vmports.vm.inside.control import CLOCK, READY
from pytest_vmports.vm.inside.own_init import OwnInit
from pytest_vmports.vm.inside.shell import AgentShell
from pytest_vmports.vm.inside.waiting import BootFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from pytest_vmports.errors import BootTimeoutError
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.waiting import Place, Waiting
    from pytest_vmports.vm.last_words import LastWords


class Prepared(OwnInit):
    """The kind of guest whose init and agent are ours; see `kind.GuestKind`."""

    # No firmware or foreign init speaks before ours, and what its setup writes may be anything.
    ends: Sequence[LastWords] = ()

    def connect(
        self, place: Place, forwards: Sequence[ExposedPort], until_spawned: ExitStack
    ) -> tuple[int, int | None]:
        """Open the control channel; see `OwnInit.connect`."""
        self._clock_sent = False
        self._shell: Shell | None = None
        return super().connect(place, forwards, until_spawned)

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold: our agent is not there for every architecture."""
        if self.architecture.agent is not None:
            return None
        return f"our agent, which sets a restored clock, is not made for {self.architecture.name}"

    def shape(self) -> BootFiles:
        """Return names in the place of its files: our own part is an initrd in any case."""
        return BootFiles(Path("kernel"), Path("initrd"))

    def restored(self) -> None:
        """Send the host's time ahead: the agent reads it as soon as the guest runs."""
        self._send_clock()
        self._clock_sent = True

    def rebooted(self) -> None:
        """Forget what its agent has said: it is started anew, behind the setup."""
        assert self._control is not None
        self._control.begin_anew()
        self._shell, self._clock_sent = None, False

    def await_setup(self, waiting: Waiting) -> None:
        """Return when its setup has ended well.

        Raises:
            SetupError: it failed.
            BootTimeoutError: it has not ended.
            MachineDiedError: QEMU or gvproxy ended.
        """
        code = self._answer(READY, waiting.setup_never_ended, waiting)
        if code:
            raise SetupError(returncode=code, console=waiting.console.tail())

    def set_clock(self, waiting: Waiting) -> None:
        """Give it the host's time, and return when it has that.

        Raises:
            MachineError: it refuses.
            BootTimeoutError: it does not answer.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if not self._clock_sent:
            self._send_clock()
        self._clock_sent = False
        code = self._answer(CLOCK, lambda: waiting.timed_out("its clock is not set"), waiting)
        if code:
            raise MachineError(f"the guest refused to have its clock set: {os.strerror(code)}")

    def shell(self, check: Callable[[], None]) -> Shell | None:
        """Return the agent's shell; None where there is no agent for the architecture.

        Args:
            check: raises when a process of the VM has ended.
        """
        if self.architecture.agent is None or self._control is None:
            return None
        if self._shell is None:
            self._shell = AgentShell(self._control, check)
        return self._shell

    def _send_clock(self) -> None:
        assert self._control is not None
        self._control.send_clock(clock.wall(), seed=not self.architecture.restored_args)

    def _answer(self, kind: str, missing: Callable[[], BootTimeoutError], waiting: Waiting) -> int:
        assert self._control is not None
        self._control.deaths = waiting.deaths
        code = self._control.await_number(kind, waiting.deadline, waiting.check)
        if code is None:
            raise missing()
        return code

"""A guest that we prepared: our init runs its setup, and our agent serves the control channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import SetupError
from pytest_vmports.vm.inside.agent_link import AgentLink
from pytest_vmports.vm.inside.own_init import OwnInit
from pytest_vmports.vm.inside.waiting import BootFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.moving import Move
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.waiting import Place, Waiting
    from pytest_vmports.vm.last_words import LastWords


class Prepared(OwnInit):
    """The kind of guest whose init and agent are ours; see `kind.GuestKind`."""

    # No firmware or foreign init speaks before ours, and what its setup writes may be anything.
    ends: Sequence[LastWords] = ()
    moves = True

    @property
    def seeded(self) -> bool:
        """Whether our agent is there, which then seeds its random numbers."""
        return self.architecture.agent is not None

    def connect(
        self, place: Place, forwards: Sequence[ExposedPort], until_spawned: ExitStack
    ) -> tuple[int, int | None, int | None]:
        """Open the control channel; see `OwnInit.connect`."""
        ends = super().connect(place, forwards, until_spawned)
        assert self._control is not None
        self._link = AgentLink(self._control, variables=self.variables)
        return ends

    @property
    def variables(self) -> Mapping[str, str]:
        """What the environment of commands holds beside the usual."""
        return {}

    @property
    def window(self) -> bool:
        """Whether it may share memory with us: our agent looks there."""
        return self.architecture.agent is not None

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold: our agent is not there for every architecture."""
        if self.architecture.agent is not None:
            return None
        return f"our agent, which sets a restored clock, is not made for {self.architecture.name}"

    def shape(self) -> BootFiles:
        """Return names in the place of its files: our own part is an initrd in any case."""
        return BootFiles(Path("kernel"), Path("initrd"))

    def restored(self, move: Move | None) -> None:
        """Send its address and the time ahead: the agent reads them as soon as the guest runs."""
        self._link.send_ahead(move)

    def rebooted(self) -> None:
        """Forget what its agent has said: it is started anew, behind the setup."""
        self._link.begin_anew()

    def await_setup(self, waiting: Waiting) -> None:
        """Return when its setup has ended well.

        Raises:
            SetupError: it failed.
            BootTimeoutError: it has not ended.
            MachineDiedError: QEMU or gvproxy ended.
        """
        code = self._link.await_ready(waiting.setup_never_ended, waiting)
        if code:
            raise SetupError(returncode=code, console=waiting.console.tail())

    def set_clock(self, waiting: Waiting) -> None:
        """Give it the host's time, and return when it has that and its address.

        Raises:
            MachineError: it refuses.
            BootTimeoutError: it does not answer.
            MachineDiedError: QEMU or gvproxy ended.
        """
        self._link.set_clock(waiting)

    def warm(self, deadline: float, check: Callable[[], None]) -> None:
        """Have the agent do once what a test does first; see `AgentLink.warm`."""
        self._link.warm(deadline, check)

    def shell(self, check: Callable[[], None]) -> Shell | None:
        """Return the agent's shell; None where there is no agent for the architecture.

        Args:
            check: raises when a process of the VM has ended.
        """
        if self.architecture.agent is None or self._control is None:
            return None
        return self._link.shell(check)

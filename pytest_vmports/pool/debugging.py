"""What a test does with a VM that begins paused: `VM.gdb` and `VM.wait_ready`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.vm.gdb import SOCKET
from pytest_vmports.vm.milestones import State

if TYPE_CHECKING:
    from pytest_vmports.vm.machine import Machine


class WithDebugger:
    """The part of a VM that a debugger is attached to."""

    _machine: Machine
    _paused: bool

    @property
    def gdb(self) -> str:
        """The command by which gdb attaches to its processors: ``target remote`` and a socket.

        gdb's ``detach`` lets the guest run on; its ``kill``, and an end without ``detach``, end the
        VM. There is one connection at a time.

        Raises:
            MachineError: it did not begin paused, has been reset or restored since, or is gone.
        """
        self._machine.check_alive()
        if not self._machine.plan.paused:
            raise MachineError(
                "nothing of this VM listens for gdb: set paused = yes; a VM that was reset, "
                "restored or given a folder does not begin paused again"
            )
        return f"target remote {self._machine.workdir / SOCKET}"

    def wait_ready(self) -> None:
        """Return when the guest is ready, as any other is when its test begins.

        A VM that begins paused is not waited for; `VM.resume`, or gdb's ``continue`` or ``detach``,
        lets it run. ``boot_timeout`` counts from this call on. At once where it is ready.

        Raises:
            SetupError: the setup failed.
            BootTimeoutError, GuestStuckError: not ready in time, or known never to be.
            MachineDiedError: QEMU or gvproxy ended.
        """
        self._machine.check_alive()
        if self._machine.state is State.READY:
            self._machine.await_back()
        else:
            self._machine.wait_ready()
            self._paused = False

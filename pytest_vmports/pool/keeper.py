"""Which VMs outlive their run, and what makes them."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.leases.record import current_test
from pytest_vmports.pool.kept import Kept, all_kept, new_folder
from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import noting
from pytest_vmports.system.proc import process_start
from pytest_vmports.system.process import let_outlive
from pytest_vmports.vm.argv import CONSOLE_SOCKET, MONITOR_SOCKET
from pytest_vmports.vm.inside.lay_disks import KEY
from pytest_vmports.vm.inside.ssh import CONFIG, HOST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine

MOST = 8
"""VMs of one user that are kept at a time: each holds a guest's memory."""
# Where connections are noted they are held, until we answer.
_CUT_OFF = "it connects to nothing any more: what decides on its connections ends with the run"


class Keeper:
    """Keeps VMs.

    Args:
        always: those of tests that passed too.
        tell: writes a line to the terminal.
        host: where they are; empty where that goes without saying.

    Attributes:
        fresh: how to reach those that were kept since somebody took this list.
    """

    def __init__(self, *, always: bool, tell: Callable[[str], None], host: str = "") -> None:
        let_outlive(tell)
        self.fresh: list[list[str]] = []
        self._always = always
        self._tell = tell
        self._host = host

    def keep(self, machine: Machine) -> bool:
        """Let a VM live on if that is wanted; return whether it does.

        It has to run, and its kernel not to have panicked. Its leases stay with its processes. One
        that cannot be kept is told and ended: a VM that nobody knows of would be worse.

        Raises:
            GuestCrashError: it lives on, and its kernel had failed.
        """
        crashed = machine.failure_at_the_end()
        if crashed is not None:
            machine.note_failing()
        kept = self._keep(machine)
        if kept and crashed is not None:
            raise crashed
        return kept

    def _keep(self, machine: Machine) -> bool:
        lives = machine.lives and machine.vitals.panic is None
        if not lives or not (self._always or machine.failing):
            return False
        with noting("vmports: a VM is not kept", self._tell):
            return self._let_go(machine)
        return False

    def _let_go(self, machine: Machine) -> bool:
        if len(all_kept()) >= MOST:
            remedy = "pytest-vmports kept stop all"
            self._tell(f"vmports: a VM is not kept, for {MOST} are already: {remedy}")
            return False
        folder = new_folder()
        running = machine.processes()
        kept = Kept(
            folder=folder, test=current_test(), guest=machine.plan.guest.name, since=clock.wall(),
            forwards=[f"{p.url} -> {p.internal}/{p.protocol}" for p in machine.ports
                      if machine.cards.network.outlives(p)],
            ways=_ways(machine, folder),
            processes=[(p.name, p.pid, process_start(p.pid)) for p in running],
        )  # fmt: skip
        # Were we killed in between, it would die with us, and be found as one that has ended.
        kept.write(machine.workdir)
        for process in running:
            process.keep_output()  # its file is about to move
        machine.let_go(folder)
        with noting(f"vmports: {kept.name} is kept, but not by ssh", self._tell):
            _move_ssh(machine)
        first, *rest = kept.lines()
        self.fresh.append([f"{first} on {self._host}" if self._host else first, *rest])
        return True

    def take_fresh(self) -> list[list[str]]:
        """Return how to reach those kept since the last call."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def keep_failed_start(self, machine: Machine, error: BaseException) -> bool:
        """Likewise for one that did not get ready."""
        if not isinstance(error, MachineError):
            return False
        machine.note_failing()
        return self._keep(machine)


def _move_ssh(machine: Machine) -> None:
    """Put key and configuration for ssh, if it has that, into the folder of a VM let go."""
    ssh, folder = machine.kind.ssh, machine.workdir
    if ssh is not None:
        machine.kind.save_key(machine.place, folder)
        ssh.moved(folder / KEY, folder).write_config(folder / CONFIG)


def _ways(machine: Machine, folder: Path) -> dict[str, str]:
    ssh = shlex.join(["ssh", "-F", str(folder / CONFIG), HOST])
    return {
        **({} if machine.kind.ssh is None else {"ssh": ssh}),
        "console": f"socat -,rawer,escape=0x1d {_connection(folder / CONSOLE_SOCKET)}",
        "monitor": f"socat - {_connection(folder / MONITOR_SOCKET)}",
        "log": str(folder / machine.console.path.name),
        **({} if machine.cards.first.network_log is None else {"network": _CUT_OFF}),
    }


def _connection(socket: Path) -> str:
    """Return a socket's address as socat takes it, where these characters have a meaning."""
    escaped = re.sub(r"""([\\,:!"'()\[\]{}])""", r"\\\1", str(socket))
    return shlex.quote(f"UNIX-CONNECT:{escaped}")

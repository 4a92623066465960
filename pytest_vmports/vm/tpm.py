"""A VM's TPM 2.0: swtpm, a process beside QEMU that lives as long as that.

QEMU has its state in what it saves, and gives it to the swtpm of whoever is restored; so the files
that it keeps in the VM's private folder are of no value to anybody else.
Sources: swtpm(8); QEMU's docs/specs/tpm.rst.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import LaunchError
from pytest_vmports.system import landlock, program_files, seccomp
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.process import spawn
from pytest_vmports.system.sockets import pair

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from pytest_vmports.system.process import Process
    from pytest_vmports.system.swtpm import Swtpm

LOG: Final = "swtpm.log"
_STATE: Final = "tpm"


class Tpm:
    """The TPM of one VM, or none."""

    def __init__(self) -> None:
        self._process: Process | None = None

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its process, where there is one."""
        return () if self._process is None else (self._process,)

    def start(self, swtpm: Swtpm | None, workdir: Path, until_spawned: ExitStack) -> int | None:
        """Start it, where one is wanted, and return QEMU's end of its wire.

        Args:
            swtpm: the program; None where no TPM is wanted.
            workdir: the VM's private folder.
            until_spawned: closes that end, which QEMU has inherited by then.

        Raises:
            LaunchError: it does not start.
        """
        self.stop()
        if swtpm is None:
            return None
        state = workdir / _STATE
        state.mkdir(mode=0o700, exist_ok=True)
        ours, of_qemu = pair()
        until_spawned.enter_context(of_qemu)
        with ours:
            command = [
                swtpm.path, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl",
                f"type=unixio,clientfd={ours.fileno()}", "--terminate", "--seccomp", "action=none",
            ]  # fmt: skip
            try:
                self._process = spawn(
                    "swtpm", command, log=workdir / LOG, pass_fds=[ours.fileno()],
                    confinement=_confinement(swtpm, state),
                )  # fmt: skip
            except OSError as error:
                raise LaunchError(
                    program="swtpm", returncode=f"an error ({error})", stderr="(nothing)",
                    command=shlex.join(command),
                ) from error  # fmt: skip
        return of_qemu.fileno()

    def stop(self) -> None:
        """End it. Safe to call again."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def arguments(fd: int, device: str) -> list[str]:
    """Return QEMU's arguments for a TPM whose wire is an inherited descriptor.

    Args:
        fd: the descriptor.
        device: the board's.
    """
    return [
        "-chardev", f"socket,id=tpm,fd={fd}", "-tpmdev", "emulator,id=tpm,chardev=tpm",
        "-device", f"{device},tpmdev=tpm",
    ]  # fmt: skip


def _confinement(swtpm: Swtpm, state: Path) -> Confinement | None:
    needed = None if landlock.problem() is not None else program_files.needed_by(swtpm.path)
    if needed is None:
        return None
    # It sets its files' modes, and ends where that is refused; so it is only told that it did.
    made = seccomp.RIGHTS, seccomp.ATTRIBUTES, *seccomp.SOCKETS
    refused = () if seccomp.problem() is not None else made
    walls = Walls(needed, (state,), program_files.DEVICES)
    return Confinement(walls, binds=False, connects=False, refused=refused, sheds=True)

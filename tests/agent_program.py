"""Our agent as a program of this host, whatever architecture it is made for."""

from __future__ import annotations

import shutil
from importlib import resources

from pytest_vmports.system.architecture import AARCH64, RISCV64, X86_64, host_architecture

GUESTS = resources.files("pytest_vmports.guests")
MADE_FOR = (X86_64, AARCH64, RISCV64)


def words(architecture, folder, missing):
    """Return the words that run an architecture's agent, put into a folder.

    Args:
        architecture: which one.
        folder: where to.
        missing: called with what lacks here and what to do about that.
    """
    emulator = []
    if architecture.name != host_architecture():
        name = f"qemu-{architecture.name}"
        emulator = [shutil.which(name) or shutil.which(f"{name}-static")]
        if emulator == [None]:
            missing(name, "install qemu-user")
    program = folder / "agent"
    program.write_bytes((GUESTS / architecture.agent).read_bytes())
    program.chmod(0o755)
    return [*emulator, program]

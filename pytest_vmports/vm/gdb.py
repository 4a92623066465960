"""A VM that stands before its first instruction, and the socket by which gdb attaches to it.

Source: QEMU's documentation of its gdbstub. Whoever speaks to the stub has all that QEMU has, so it
is a socket in the VM's private folder, which nobody else enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.vm.argv import escaped

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "gdb.sock"
"""Name of the socket in a VM's private folder."""


def arguments(folder: Path) -> list[str]:
    """Return what has QEMU begin paused, and listen for gdb.

    Args:
        folder: the VM's private one.
    """
    socket = f"socket,id=gdb,path={escaped(folder / SOCKET)},server=on,wait=off"
    return ["-S", "-chardev", socket, "-gdb", "chardev:gdb"]

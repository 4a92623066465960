"""What a VM's display shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine


def screenshot(machine: Machine, path: Path) -> None:
    """Write the display as a PNG. Source: QEMU's QMP reference, ``screendump``.

    Raises:
        MachineError: there is no display, the VM is gone, or QEMU cannot write it: a PNG needs 7.1.
    """
    if not machine.plan.hardware.display:
        raise MachineError("the VM has no display; give it one with display = yes")
    machine.check_alive()
    machine.monitor.execute("screendump", filename=str(path.absolute()), format="png")

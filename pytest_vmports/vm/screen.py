"""What a VM's display shows."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.vm.argv import PICTURE
from pytest_vmports.vm.inside import guest_links

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine


def screenshot(machine: Machine, path: Path) -> None:
    """Write the display as a PNG. Source: QEMU's QMP reference, ``screendump``.

    Raises:
        GuestFileError: the path leads through a link that came out of a guest.
        MachineError: there is no display, the VM is gone, or it cannot be written: a PNG needs
            QEMU 7.1.
    """
    if not machine.plan.hardware.display:
        raise MachineError("the VM has no display; give it one with display = yes")
    guest_links.refuse(str(path))
    machine.check_alive()
    # QEMU is told names in JSON, which has none for a name that is no UTF-8.
    picture = machine.workdir / PICTURE
    machine.monitor.execute("screendump", filename=str(picture), format="png")
    try:
        shutil.copyfile(picture, path)
        os.truncate(picture, 0)  # QEMU may make no file
    except OSError as error:
        raise MachineError(
            f"what the display shows cannot be written to {path}: {error}"
        ) from error

"""A crashed guest's memory, written to a file for drgn or crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import MonitorError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.failures import Vitals

# Name of the file in a VM's private folder, and among the artifacts.
VMCORE = "vmcore"
# A gigabyte takes about half a minute to compress.
_SECONDS = 120.0


class CrashDump:
    """The dump of one QEMU's guest, taken once, when its kernel has crashed.

    Args:
        file: where it goes; None where none is wanted.

    Attributes:
        problem: why there is none although one is wanted; empty where nothing went wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self.problem = ""
        self._file = file
        self._tried = False

    def take(self, vitals: Vitals) -> None:
        """Write it, if the kernel has crashed. Safe to call again, and whatever QEMU does.

        What goes wrong is no reason for a test to end otherwise: it is kept as `problem`.
        """
        if self._file is None or self._tried:
            return
        if vitals.panic is None and vitals.failed is None:
            return
        self._tried = True
        if not vitals.qemu.running:
            self.problem = "QEMU had ended: a kernel that reboots when it panics leaves nothing"
            return
        try:
            with self._file.open("w+b") as file:
                vitals.monitor.dump(file.fileno(), _SECONDS)
        except (MonitorError, OSError) as error:
            self.problem = f"the guest's memory could not be written: {error}"
            self._file.unlink(missing_ok=True)

"""A guest's saved state, and what of a VM's disks goes with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.guests import more_disks

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from pytest_vmports.vm.argv import Ram

OVERLAY, VARIABLES = "root.qcow2", "efi-variables.fd"
"""Names of the files in a VM's private folder that it writes as its disks."""


class SavedState(Protocol):
    """A guest's saved state."""

    @property
    def console(self) -> str:
        """What the guest wrote to its console before it was saved."""

    @property
    def memory(self) -> Ram | None:
        """The file that its memory is mapped from; None where the state holds all of it."""

    @property
    def saved_at(self) -> float:
        """When it was saved, a `clock.wall` value."""

    @property
    def clock_behind(self) -> float:
        """By how many seconds its clock was behind then, as far as that is known."""

    def open_state(self) -> BinaryIO:
        """Return the state, open."""


@dataclass(frozen=True)
class Snapshot:
    """A moment of one VM, to go back to while that VM lives.

    Attributes:
        path: the file of its state and memory.
        console: what the guest had written to its console.
        memory: the file that its memory was mapped from, if any.
        disks: copies of the files it wrote as its disks.
        shared_memory: see `Plan`.
        saved_at: when it was saved, a `clock.wall` value.
        clock_behind: by how many seconds its clock was behind then.
    """

    path: Path
    console: str
    memory: Ram | None
    disks: tuple[Path, ...] = ()
    shared_memory: str | None = None
    saved_at: float = 0.0
    clock_behind: float = 0.0

    def bring_back_disks(self, workdir: Path) -> None:
        """Put the disks' files back where the VM has them.

        Raises:
            OSError: they cannot be copied.
        """
        for copy in self.disks:
            shutil.copyfile(copy, workdir / copy.name)

    def open_state(self) -> BinaryIO:
        """Return the state, open."""
        return self.path.open("rb")


def disk_files(workdir: Path) -> list[Path]:
    """Return the files that a VM with this private folder writes as its disks."""
    return [file for file in (*overlays(workdir), workdir / VARIABLES) if file.exists()]


def overlays(folder: Path) -> list[Path]:
    """Return those of them that lie on an image, or on a template's, or are a disk of their own."""
    return [file for file in (folder / OVERLAY, *more_disks.files_in(folder)) if file.exists()]


def remove_overlay(workdir: Path) -> None:
    """Remove what a VM that has stopped wrote to its disks. Safe to call again.

    A failed VM's folder stays until its report was made, and an overlay may be large.
    """
    for file in overlays(workdir):
        file.unlink(missing_ok=True)

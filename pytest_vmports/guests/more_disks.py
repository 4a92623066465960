"""Disks that a VM has beside its root: empty ones of a size, and images, never written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vmports.guests import image, overlay
from pytest_vmports.guests.image import Disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.system.architecture import Architecture

_MIB = 1 << 20


@dataclass(frozen=True)
class MoreDisk:
    """One of them: of ``size`` MiB, or on ``image``."""

    size: int | None = None
    image: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the host that it lies on.

        Raises:
            ImageError: its image leads to what the guest may not have.
        """
        return () if self.image is None else Disk(self.image, None).chain()

    def identity(self, architecture: Architecture) -> Any:
        """Return what tells its content from another's, for the key of a template.

        Raises:
            ImageError, QemuNotFoundError: see `image.identity`.
        """
        if self.image is None:
            return self.size
        return image.identity(Disk(self.image, None), architecture)

    def make(self, target: Path) -> None:
        """Make the file that takes what is written to it.

        Raises:
            ImageError: it cannot be made, or the image is damaged or none.
            QemuNotFoundError: there is no ``qemu-img``.
        """
        if self.size is not None:
            overlay.blank(self.size * _MIB, target)
            return
        assert self.image is not None
        kind = image.check(Disk(self.image, None), direct=True)
        image.make_overlay(self.image, kind, target, self.files)

    def by_hand(self, target: Path) -> list[str]:
        """Return the command that makes that file, its name the last word.

        Raises:
            ImageError: the image has become unreadable.
        """
        if self.image is None:
            size = f"size={self.size}M"
            return ["qemu-img", "create", "-q", "-f", "qcow2", "-o", size, str(target)]
        kind = image.check(Disk(self.image, None), direct=True)
        return ["qemu-img", *image.overlay_arguments(self.image, kind, target)]


def name_of(number: int) -> str:
    """Return the name of the file of a disk in its VM's private folder, the first being 1."""
    return f"disk{number}.qcow2"


def files_in(folder: Path) -> list[Path]:
    """Return those files, as many as there are."""
    return sorted(folder.glob(name_of(0).replace("0", "*")))


def make_all(disks: Sequence[MoreDisk], folder: Path) -> None:
    """Make the files of a VM that boots in its private folder; see `MoreDisk.make`."""
    for number, disk in enumerate(disks, 1):
        disk.make(folder / name_of(number))

"""A guest that we prepared, and whose programs are on a disk: our init mounts it and enters it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.guests import container
from pytest_vmports.guests import image as image_file
from pytest_vmports.vm.argv import Drives
from pytest_vmports.vm.inside.prepared import Prepared
from pytest_vmports.vm.inside.waiting import BootFiles
from pytest_vmports.vm.last_words import LastWords
from pytest_vmports.vm.saved import OVERLAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.guests.image import Disk
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.vm.inside.waiting import Place

_SERVICE_ENDED = LastWords(
    r"vmports: the service has ended with \d+\s*",
    "the service of its container image has ended",
    "look above what it said; where it should end, set wait_for = none",
    seconds=1.0,
)


class Rooted(Prepared):
    """The kind of guest whose init and agent are ours and whose root is a disk's.

    Args:
        guest: what is booted.
        image: its disk.
        architecture: of its VM.
    """

    def __init__(self, guest: Guest, image: Disk, architecture: Architecture) -> None:
        super().__init__(guest, architecture)
        self._image = image
        if guest.container is not None:
            self.ends: Sequence[LastWords] = (_SERVICE_ENDED,)

    @property
    def _files(self) -> Path | None:
        """What is unpacked to its disk, for it to read; None where that is there already."""
        return None if self.guest.container is None else self._image.path.with_name(container.FILES)

    @property
    def variables(self) -> Mapping[str, str]:
        """Those of its image: commands find what its service does. They are root's, though."""
        if self.guest.container is None:
            return super().variables
        return {k: v for k, v in self.guest.container.environment.items() if k != "HOME"}

    def shape(self) -> BootFiles:
        """Return names in the place of its files."""
        boots = super().shape()
        files = None if self.guest.container is None else Path(container.FILES)
        return BootFiles(boots.kernel, boots.initrd, Drives(Path(OVERLAY), files))

    def image_files(self) -> tuple[Path, ...]:
        """Return the image and the files behind it, and what is unpacked to it.

        Raises:
            ImageError: it leads to what the guest may not have.
        """
        return (*self._image.chain(), *filter(None, (self._files,)))

    def files(self, place: Place, *, restored: bool) -> BootFiles:
        """Return what it boots: kernel, initrd and overlay.

        Raises:
            GuestNotFoundError: a file of it is missing.
            HostError: there is no ``qemu-img``.
            ImageError: the image cannot be read.
            StateDirError: its initrd cannot be written.
        """
        boots = super().files(place, restored=restored)
        root = place.workdir / OVERLAY
        if not root.exists():  # a VM that is reset keeps its disk
            kind = image_file.check(self._image, direct=True)
            image_file.make_overlay(self._image.path, kind, root, self.image_files())
        return BootFiles(boots.kernel, boots.initrd, Drives(root, self._files))

    def by_hand(self, seed: Path | None) -> tuple[list[list[str]], Drives | None]:
        """Return the commands that make its overlay in a folder, and its drives.

        Raises:
            HostError: ``qemu-img`` is missing.
            ImageError: the image has become unreadable.
        """
        kind = image_file.check(self._image, direct=True)
        overlay = image_file.overlay_arguments(self._image.path, kind, Path(OVERLAY))
        return [["qemu-img", *overlay]], Drives(Path(OVERLAY), seed or self._files)

"""Folders of the host that a VM is given: what QEMU is told of them, and which are never given."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.errors import ShareError
from pytest_vmports.vm.argv import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NINE_P: Final = "9p"
"""QEMU itself serves the folder."""
VIRTIOFS: Final = "virtiofs"
"""virtiofsd does, a process beside it; see `virtiofs`."""
COPY: Final = "copy"
"""The guest has no driver for a folder of the host's: it has a copy."""
DEVICES: Final = {NINE_P: "virtio-9p-pci", VIRTIOFS: "vhost-user-fs-pci"}
"""QEMU's device by which a guest sees a folder, by the way that it is served."""
# They lead to all else of the host, and to what is of our own process there.
_NEVER = tuple(map(Path, ("/proc", "/sys", "/dev")))


@dataclass(frozen=True)
class Share:
    """A folder of the host that a guest sees.

    Attributes:
        folder: the host's, without links.
        place: where it is in the guest.
        readonly: the guest may change nothing in it.
        by: `NINE_P`, `VIRTIOFS` or `COPY`.
        tag: how QEMU and the guest call its device, once one of QEMU's is to serve it.
    """

    folder: Path
    place: str
    readonly: bool
    by: str
    tag: str = ""

    def serves(self, other: Share) -> bool:
        """Whether what QEMU was told of this one is what it has to be told of the other."""
        mine, its = ((one.folder, one.readonly, one.by) for one in (self, other))
        return mine == its

    @property
    def device(self) -> dict[str, Any]:
        """What plugs it in, for QEMU's ``device_add``."""
        whose = {"fsdev": self.tag, "mount_tag": self.tag}
        if self.by == VIRTIOFS:
            whose = {"chardev": self.tag, "tag": self.tag}
        return {"driver": DEVICES[self.by], "id": self.tag, **whose}


def arguments(shares: Sequence[Share]) -> list[str]:
    """Return QEMU's arguments by which these can be plugged in. Source: its manual, ``-fsdev``.

    A guest sees nothing of them before. ``none``: a file that a guest makes is ours, with the mode
    that it is given then; the other ways keep owner and mode where only a QEMU finds them, in
    attributes that not every file system has, and show no link that is there already.
    """
    words = []
    for share in shares:
        path = escaped(share.folder)
        kept = ",readonly=on" if share.readonly else ""
        served = f"id={share.tag},path={path},security_model=none,multidevs=remap{kept}"
        words += ["-fsdev", f"local,{served}"]
    return words


def real_folder(named: str) -> Path:
    """Return a folder of the host's, without links.

    Raises:
        ShareError: it is none, or cannot be read.
    """
    try:
        folder = Path(os.path.realpath(named))
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise ShareError(what=f"{named} is no folder on the host", remedy="name a folder")
        os.scandir(folder).close()
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "name a folder of the host that you may read"
        raise ShareError(what=f"{named} cannot be shared: {why}", remedy=remedy) from error
    return folder


def refuse(folder: Path, ours: Iterable[Path], *, readonly: bool, used: Iterable[Path]) -> None:
    """See that a guest may be given a folder.

    Args:
        folder: without links.
        ours: folders with what VMs are entered by, which no guest may read.
        readonly: the guest may change nothing in it.
        used: files that VMs are made of, which no guest may change.

    Raises:
        ShareError: it may not.
    """
    for never in _NEVER:
        if folder.is_relative_to(never) or never.is_relative_to(folder):
            remedy = "share the folder with the files that the guest needs"
            raise ShareError(what=f"{folder} is never shared: it has {never} in it", remedy=remedy)
    for own in {Path(os.path.realpath(one)) for one in ours}:
        if folder.is_relative_to(own) or own.is_relative_to(folder):
            what = f"{folder} is never shared: files of running VMs are in {own}"
            remedy = "share a folder that has these not in it, or copy what is needed by vm.put"
            raise ShareError(what=what, remedy=remedy)
    for file in () if readonly else {Path(os.path.realpath(one)) for one in used}:
        if file.is_relative_to(folder):
            what = f"{folder} cannot be shared with readonly=False: VMs are made of {file} in it"
            remedy = "share it with readonly=True, or another folder"
            raise ShareError(what=what, remedy=remedy)

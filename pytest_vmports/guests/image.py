"""Disk images: what is booted from, read only, and the overlay that takes a VM's writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import disk_agent, file_kinds, image_links, raw_image
from pytest_vmports.guests.qemu_img import qemu_img
from pytest_vmports.system.digests import content_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.guests.cloud_init import Seed
    from pytest_vmports.system.architecture import Architecture

FIRMWARE = ("bios", "uefi", "uefi-secure")
# What a guest of an image takes beside it, and a container image's where that holds a disk.
KEYWORDS = ("user_data", "meta_data", "network_config", "firmware", "ssh", "agent")
# Its data are the disk's, and what makes it a vhd comes behind them.
_RAW_ALL_THE_SAME = ("vhd",)
_LEAKS_ONLY = 3  # exit status of `qemu-img check`: space is wasted, nothing is lost


@dataclass(frozen=True)
class Disk:
    """A disk image and how to boot it.

    Attributes:
        path: the image; only ever read.
        format: ``qcow2`` or ``raw``; None for what ``qemu-img`` recognises.
        firmware: one of `FIRMWARE`; without meaning where a kernel is booted directly.
        seed: what cloud-init is given, or None.
        ssh: a key of ours is authorised for root, and guest port 22 is forwarded.
        agent: the image runs the QEMU guest agent.
        tolerant: a complaint of a module of cloud-init does not fail its VM.
        backing: files outside its folder that may stand behind it, absolute and no links.
        bare: what cloud-init is given brings no agent of ours.
    """

    path: Path
    format: str | None = None
    firmware: str = "bios"
    seed: Seed | None = None
    ssh: bool = False
    agent: bool = False
    tolerant: bool = False
    backing: tuple[Path, ...] = ()
    bare: bool = False

    def brings_agent(self, architecture: Architecture) -> bool:
        """Whether its seed brings our agent to a guest of this architecture."""
        return self.seed is not None and not self.bare and architecture.agent is not None

    def seed_files(self, architecture: Architecture, ssh_key: str = "") -> dict[str, bytes]:
        """Return the files of its seed by name; none without a seed.

        Args:
            architecture: of the guest that reads them.
            ssh_key: a public key to authorise for root.
        """
        if self.seed is None:
            return {}
        return self.seed.files(ssh_key, "" if self.bare else disk_agent.script(architecture))

    @property
    def base(self) -> tuple[Path, str]:
        """Itself, as an overlay on it is told of it: where it is, and its format.

        Raises:
            OSError: it cannot be read.
        """
        return self.path, self.format or image_links.format_of(self.path)

    def chain(self) -> tuple[Path, ...]:
        """Return the image and the files behind it, which QEMU reads, by what it says now.

        Raises:
            ImageError: see `image_links.chain`.
        """
        return image_links.chain(*self.base, self.backing)


def check(disk: Disk, *, direct: bool, has_bios: bool = True) -> str:
    """Return the image's format, having looked whether it can be booted.

    Args:
        disk: the image.
        direct: a kernel is booted directly, so that the image needs no boot loader.
        has_bios: the board brings one, for a disk that is booted by no UEFI.

    Raises:
        ImageError: it is truncated, encrypted, of another format, or its backing file is gone or
            none that the guest may have.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    found, files = _recognise(disk)
    if found == "qcow2":
        facts = disk.path.stat()
        _check_tables(files, facts.st_size, facts.st_mtime_ns)
    else:
        problem = None
        if not direct:
            right = _RAW_ALL_THE_SAME if disk.format == "raw" else ()
            problem = file_kinds.wrong(disk.path, file_kinds.DISK, right=right)
        firmware = None if direct else disk.firmware if has_bios else "uefi"
        problem = problem or raw_image.problem(disk.path, firmware)
        if problem is not None:
            raise ImageError(path=str(disk.path), problem=problem[0], remedy=problem[1])
    return found


def make_overlay(image: Path, image_format: str, target: Path, behind: Sequence[Path] = ()) -> None:
    """Make a file that takes what is written to ``image``, which stays as it is.

    Args:
        image: the image.
        image_format: its format.
        target: the new file.
        behind: what stands behind the image.

    Raises:
        ImageError: it cannot be made.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    arguments = overlay_arguments(image.resolve(), image_format, target)
    code, _, said = qemu_img(arguments, read=(image, *behind), write=(target.parent,))
    if code:
        raise ImageError(
            path=str(image), problem=f"no overlay can be made on it: {_brief(said)}",
            remedy="free some space in the folder for temporary files, or name another image",
        )  # fmt: skip


def overlay_arguments(image: Path, image_format: str, target: Path) -> list[str]:
    """Return what ``qemu-img`` is given to make the overlay ``target`` on ``image``."""
    names = ["-f", "qcow2", "-F", image_format, "-b", str(image), str(target)]
    return ["create", "-q", *names]


def identity(disk: Disk, architecture: Architecture) -> dict[str, Any]:
    """Return what tells this disk's content from another's, for the key of a template.

    The same holds for the files behind a qcow2. Their content is read once on a machine, as long as
    they look the same.

    Args:
        disk: the image.
        architecture: of the guest that boots it.

    Raises:
        ImageError: ``qemu-img`` cannot read it, or it cannot be booted.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    _, files = _recognise(disk)
    seed = hashlib.sha256()
    for name, content in sorted(disk.seed_files(architecture).items()):
        seed.update(f"{name} {len(content)}\n".encode() + content)
    return {
        "files": [content_digest(file) for file in files],
        "format": disk.format,
        "firmware": disk.firmware,
        "seed": seed.hexdigest() if disk.seed else None,
        "shells": [disk.ssh, disk.agent],
        # What was saved of a guest that complained is for those alone who tolerate that.
        **({"tolerant": True} if disk.tolerant else {}),
    }


def _recognise(disk: Disk) -> tuple[str, tuple[Path, ...]]:
    """Return the image's format, and the image and the files behind it."""
    path, wanted = disk.path, disk.format
    # Whoever writes raw for an encrypted disk may have an initrd that opens it.
    right = (*_RAW_ALL_THE_SAME, "luks") if wanted == "raw" else ("qcow2",)
    problem = file_kinds.wrong(path, file_kinds.DATA, right=right)
    if problem is not None:
        raise ImageError(path=str(path), problem=problem[0], remedy=problem[1])
    # Never left to qemu-img, which would guess, and follow what it takes it for.
    found = wanted or image_links.format_of(path)
    files = image_links.chain(path, found, disk.backing)
    facts = path.stat()
    if _is_encrypted(files, found, facts.st_size, facts.st_mtime_ns):
        raise ImageError(
            path=str(path), problem="it is encrypted",
            remedy="decrypt it: qemu-img convert with its secret into a new qcow2",
        )  # fmt: skip
    return found, files


# By what a change of the file would change.
@lru_cache(maxsize=64)
def _is_encrypted(files: tuple[Path, ...], image_format: str, size: int, mtime_ns: int) -> bool:  # noqa: ARG001
    asked = ["info", "-U", "--output=json", "-f", image_format, str(files[0])]
    code, text, said = qemu_img(asked, read=files)
    if code:
        raise ImageError(
            path=str(files[0]), problem=f"qemu-img cannot read it: {_brief(said)}",
            remedy="fetch or build it again, or name its format",
        )  # fmt: skip
    return bool(json.loads(text).get("encrypted"))


# Likewise: reading a large image's tables takes a while.
@lru_cache(maxsize=64)
def _check_tables(files: tuple[Path, ...], size: int, mtime_ns: int) -> None:  # noqa: ARG001
    path = files[0]
    code, _, said = qemu_img(["check", "-U", "-q", "-f", "qcow2", str(path)], read=files)
    if code not in {0, _LEAKS_ONLY}:
        raise ImageError(
            path=str(path), problem=f"it is truncated or damaged: {_brief(said)}",
            remedy="fetch or build it again; qemu-img check tells more",
        )  # fmt: skip


def _brief(said: str) -> str:
    """Return the first line of what qemu-img said; a damaged image brings thousands."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0].removeprefix("qemu-img: ") if lines else "(nothing was said)"

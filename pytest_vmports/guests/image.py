"""Disk images: what is booted from, read only, and the overlay that takes a VM's writes."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import ImageError, QemuNotFoundError
from pytest_vmports.guests import file_kinds, raw_image
from pytest_vmports.system import surroundings
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.probing import ask
from pytest_vmports.system.programs import install_hint

if TYPE_CHECKING:
    from pytest_vmports.guests.cloud_init import Seed

FORMATS = ("qcow2", "raw")
FIRMWARE = ("bios", "uefi")
_TOOL_SECONDS = 120.0
# Its data are the disk's, and what makes it a vhd comes behind them.
_RAW_ALL_THE_SAME = ("vhd",)
_LEAKS_ONLY = 3  # exit status of `qemu-img check`: space is wasted, nothing is lost


@dataclass(frozen=True)
class Disk:
    """A disk image and how to boot it.

    Attributes:
        path: the image; only ever read.
        format: ``qcow2`` or ``raw``; None for what ``qemu-img`` recognises.
        firmware: ``bios`` or ``uefi``; without meaning where a kernel is booted directly.
        seed: what cloud-init is given, or None.
        ssh: a key of ours is authorised for root, and guest port 22 is forwarded.
        agent: the image runs the QEMU guest agent.
        tolerant: a complaint of a module of cloud-init does not fail its VM.
    """

    path: Path
    format: str | None = None
    firmware: str = "bios"
    seed: Seed | None = None
    ssh: bool = False
    agent: bool = False
    tolerant: bool = False


def check(disk: Disk, *, direct: bool, has_bios: bool = True) -> str:
    """Return the image's format, having looked whether it can be booted.

    Args:
        disk: the image.
        direct: a kernel is booted directly, so that the image needs no boot loader.
        has_bios: the board brings one, for a disk that is booted by no UEFI.

    Raises:
        ImageError: it is truncated, encrypted, of another format, or its backing file is gone.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    found = _recognise(disk.path, disk.format)
    if found == "qcow2":
        facts = disk.path.stat()
        _check_tables(disk.path, facts.st_size, facts.st_mtime_ns)
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


def make_overlay(image: Path, image_format: str, target: Path) -> None:
    """Make a file that takes what is written to ``image``, which stays as it is.

    Raises:
        ImageError: it cannot be made.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    code, _, said = _qemu_img(*overlay_arguments(image.resolve(), image_format, target))
    if code:
        raise ImageError(
            path=str(image), problem=f"no overlay can be made on it: {_brief(said)}",
            remedy="free some space in the folder for temporary files, or name another image",
        )  # fmt: skip


def overlay_arguments(image: Path, image_format: str, target: Path) -> list[str]:
    """Return what ``qemu-img`` is given to make the overlay ``target`` on ``image``."""
    names = ["-f", "qcow2", "-F", image_format, "-b", str(image), str(target)]
    return ["create", "-q", *names]


def identity(disk: Disk) -> dict[str, Any]:
    """Return what tells this disk's content from another's, for the key of a template.

    Reading gigabytes would take longer than a clone. The same holds for the files behind a qcow2.

    Raises:
        ImageError: ``qemu-img`` cannot read it, or it cannot be booted.
        QemuNotFoundError: there is no ``qemu-img``.
    """
    facts = disk.path.stat()
    files = _chain(disk.path, disk.format, facts.st_size, facts.st_mtime_ns)
    seed = hashlib.sha256()
    for name, content in sorted((disk.seed.files() if disk.seed else {}).items()):
        seed.update(f"{name} {len(content)}\n".encode() + content)
    return {
        "files": [[file, *fingerprint(Path(file))] for file in files],
        "format": disk.format,
        "firmware": disk.firmware,
        "seed": seed.hexdigest() if disk.seed else None,
        "shells": [disk.ssh, disk.agent],
        # What was saved of a guest that complained is for those alone who tolerate that.
        **({"tolerant": True} if disk.tolerant else {}),
    }


@lru_cache(maxsize=64)
def _chain(path: Path, wanted: str | None, size: int, mtime_ns: int) -> tuple[str, ...]:  # noqa: ARG001
    """Return the image and the files behind it, as absolute paths."""
    _recognise(path, wanted)  # its words on a backing file that is gone are better
    links: list[dict[str, Any]] = _info(path, wanted, "--backing-chain")
    behind = (link.get("full-backing-filename") for link in links)
    return (str(path), *(file for file in behind if file))


def _info(path: Path, wanted: str | None, *more: str) -> Any:
    given = ["-f", wanted] if wanted else []
    code, text, said = _qemu_img("info", "-U", "--output=json", *more, *given, str(path))
    if code:
        raise ImageError(
            path=str(path), problem=f"qemu-img cannot read it: {_brief(said)}",
            remedy="fetch or build it again, or name its format",
        )  # fmt: skip
    return json.loads(text)


def _recognise(path: Path, wanted: str | None) -> str:
    # Whoever writes raw for an encrypted disk may have an initrd that opens it.
    right = (*_RAW_ALL_THE_SAME, "luks") if wanted == "raw" else ("qcow2",)
    problem = file_kinds.wrong(path, file_kinds.DATA, right=right)
    if problem is not None:
        raise ImageError(path=str(path), problem=problem[0], remedy=problem[1])
    info: dict[str, Any] = _info(path, wanted)
    found = str(info["format"])
    if info.get("encrypted") or found == "luks":
        raise ImageError(
            path=str(path), problem="it is encrypted",
            remedy="decrypt it: qemu-img convert with its secret into a new qcow2",
        )  # fmt: skip
    if found not in FORMATS:
        raise ImageError(
            path=str(path), problem=f"it is a {found} image, and these are booted: qcow2, raw",
            remedy=f"convert it: qemu-img convert -O qcow2 {path} new.qcow2",
        )  # fmt: skip
    backing = info.get("full-backing-filename")
    if backing and "\ufffd" in backing:  # what qemu-img writes for bytes that are no UTF-8
        raise ImageError(
            path=str(path), problem=f"the name of its backing file is no UTF-8: {backing}",
            remedy="rename that file, and point to its new name with qemu-img rebase -u",
        )  # fmt: skip
    if backing and not os.path.exists(backing):  # noqa: PTH110 - may be a URL
        raise ImageError(
            path=str(path), problem=f"its backing file {backing} does not exist",
            remedy="put that file back, or point to its new place with qemu-img rebase -u",
        )  # fmt: skip
    return found


# By what a change of the file would change: reading a large image's tables takes a while.
@lru_cache(maxsize=64)
def _check_tables(path: Path, size: int, mtime_ns: int) -> None:  # noqa: ARG001 - part of the key
    code, _, said = _qemu_img("check", "-U", "-q", "-f", "qcow2", str(path))
    if code not in {0, _LEAKS_ONLY}:
        raise ImageError(
            path=str(path), problem=f"it is truncated or damaged: {_brief(said)}",
            remedy="fetch or build it again; qemu-img check tells more",
        )  # fmt: skip


def _qemu_img(*arguments: str) -> tuple[int, str, str]:
    program = surroundings.which("qemu-img")
    if program is None:
        raise QemuNotFoundError(
            tried="  qemu-img from PATH: not there; a disk image's writes need an overlay",
            remedy=f"install it ({install_hint('qemu')})",
        )
    answer = ask([program, *arguments], timeout=_TOOL_SECONDS)
    return answer.code, answer.output, answer.errors


def _brief(said: str) -> str:
    """Return the first line of what qemu-img said; a damaged image brings thousands."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0].removeprefix("qemu-img: ") if lines else "(nothing was said)"

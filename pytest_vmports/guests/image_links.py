"""Which files of the host a disk image leads to: what it names is read before QEMU follows it.

Whoever made an image chose what it names, and the guest reads what QEMU finds there. So each link
of the chain is looked at here, by the image's own bytes, and nothing is opened but plain files that
may be read. Source: QEMU's ``docs/interop/qcow2.rst``, and its ``block/qcow2.c`` for what it makes
of a name.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import host_files
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import BinaryIO

FORMATS: Final = ("qcow2", "raw")
_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, place and length of a name, cluster, size
_PLAIN_VERSION, _PLAIN_LENGTH, _LONG_LENGTH = 2, 72, 104
_FEATURES_AT, _LENGTH_AT = 72, 100
_DATA_FILE_BIT = 1 << 2
_EXTENSION = struct.Struct(">II")
_END, _BACKING_FORMAT, _DATA_FILE = 0, 0xE2792ACA, 0x44415441
_LONGEST_NAME, _LARGEST_CLUSTER_BITS = 1023, 21
_MOST_LINKS = 200
# Of a header, which has room for a quarter of a million; there are five kinds.
_MOST_EXTENSIONS = 64
# What comes before a colon is a protocol to QEMU, unless a slash comes first.
_PROTOCOL = re.compile(rb"[^/]*:")


@dataclass(frozen=True)
class Names:
    """What the header of a qcow2 names: its backing file, that one's format, and a data file."""

    backing: bytes = b""
    backing_format: str = ""
    data_file: bool = False


def format_of(path: Path) -> str:
    """Return ``qcow2`` or ``raw``, by a file's first bytes: nothing else is ever guessed by QEMU.

    Raises:
        OSError: it cannot be read.
    """
    with host_files.open_file(path) as file:
        head = file.read(_HEADER.size)
    is_qcow2 = head[:4] == _MAGIC and head[4:8] > b"\0\0\0\1"
    return "qcow2" if is_qcow2 else "raw"


def chain(path: Path, image_format: str, named: Collection[Path] = ()) -> tuple[Path, ...]:
    """Return an image and the files behind it, as QEMU opens them, the image first.

    Args:
        path: the image, absolute and no link.
        image_format: ``qcow2`` or ``raw``.
        named: files outside its folder that may stand behind it, absolute and no links.

    Raises:
        ImageError: it names what the guest may not have, or what is no file, or no end.
    """
    found, at, kind = [path], path, image_format
    while kind == "qcow2":
        names = _names(path, at)
        if names.data_file:
            raise _refusal(
                path, at, "its data are in another file, which the image names (data_file)",
                "where you know that file, make one of both: qemu-img convert -O qcow2 "
                f"{shlex.quote(str(at))} new.qcow2",
            )  # fmt: skip
        if not names.backing:
            return tuple(found)
        at, kind = _next(path, at, names, named)
        if at in found or len(found) > _MOST_LINKS:
            raise _refusal(path, at, "its backing files have no end", "fetch or build it again")
        found.append(at)
    return tuple(found)


def names(path: Path) -> Names:
    """Return what the header of a qcow2 names.

    Raises:
        ImageError: it is none, or damaged.
    """
    return _names(path, path)


def _next(image: Path, at: Path, names: Names, named: Collection[Path]) -> tuple[Path, str]:
    """Return the file behind one of the chain, and its format."""
    told = printable(os.fsdecode(names.backing))
    rebase = "name a file there: qemu-img rebase -u -F qcow2 -b FILE IMAGE"
    if _PROTOCOL.match(names.backing):
        raise _refusal(image, at, f"its backing file is no plain file: {told}", rebase)
    try:
        names.backing.decode()
    except UnicodeDecodeError:
        raise _refusal(
            image, at, f"the name of its backing file is no UTF-8: {told}",
            "rename that file, and point to its new name with qemu-img rebase -u",
        ) from None  # fmt: skip
    behind = at.parent / os.fsdecode(names.backing)
    real = Path(os.path.realpath(behind))
    if real.parent != Path(os.path.realpath(image)).parent and real not in named:
        raise _refusal(
            image, at,
            f"its backing file {printable(str(real))} lies outside the image's folder, and the "
            "guest could read it",
            f"if it may, name it: Guest.disk(..., backing={str(real)!r}); or put it beside the "
            "image and point there with qemu-img rebase -u",
        )  # fmt: skip
    problem = host_files.problem(behind)
    if problem is not None:
        raise _refusal(
            image, at, f"its backing file {printable(str(behind))} {problem[0]}",
            "put that file back, or point to its new place with qemu-img rebase -u",
        )  # fmt: skip
    kind = names.backing_format or format_of(behind)
    if not names.backing_format and kind != "qcow2":
        raise _refusal(
            image, at,
            f"it does not say what format its backing file {told} has, so that QEMU would guess",
            f"say it: qemu-img rebase -u -F raw -b {shlex.quote(told)} {shlex.quote(str(at))}",
        )  # fmt: skip
    if kind not in FORMATS:
        raise _refusal(
            image, at,
            f"its backing file {told} is a {printable(kind)} image, and these are booted: "
            f"{', '.join(FORMATS)}",
            "convert that file: qemu-img convert -O qcow2, and point to the new one with "
            "qemu-img rebase -u",
        )  # fmt: skip
    return behind, kind


def _names(image: Path, at: Path) -> Names:
    try:
        with host_files.open_file(at) as file:
            return _read(file)
    except (OSError, ValueError) as error:
        raise _refusal(
            image, at, f"its header cannot be read: {error}", "fetch or build it again"
        ) from error


def _read(file: BinaryIO) -> Names:
    """Return what a qcow2 names; a file that is none names nothing, and QEMU refuses it.

    Raises:
        ValueError: the header is broken.
    """
    head = file.read(_LONG_LENGTH)
    if len(head) < _PLAIN_LENGTH or head[:4] != _MAGIC:
        return Names()
    _, version, place, length, bits, _ = _HEADER.unpack_from(head)
    size, apart = _PLAIN_LENGTH, False
    if version > _PLAIN_VERSION:
        head = head.ljust(_LONG_LENGTH, b"\0")
        (features,) = struct.unpack_from(">Q", head, _FEATURES_AT)
        (size,) = struct.unpack_from(">I", head, _LENGTH_AT)
        apart = bool(features & _DATA_FILE_BIT)
    if bits > _LARGEST_CLUSTER_BITS or place > 1 << _LARGEST_CLUSTER_BITS:
        raise ValueError("what it says of its own size is nonsense")
    backing = b""
    if place:
        if length > _LONGEST_NAME:
            raise ValueError(f"the name of its backing file has {length} bytes")
        file.seek(place)
        backing = file.read(length).partition(b"\0")[0]
    kind = ""
    for magic, content in _extensions(file, size, place or 1 << bits):
        apart = apart or magic == _DATA_FILE
        if magic == _BACKING_FORMAT:
            kind = content.partition(b"\0")[0].decode(errors="replace")
    return Names(backing, kind, apart)


def _extensions(file: BinaryIO, at: int, end: int) -> list[tuple[int, bytes]]:
    file.seek(at)
    data = file.read(max(0, end - at))
    found, at = [], 0
    while at + _EXTENSION.size <= len(data):
        magic, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if magic == _END:
            break
        if length > len(data) - at:
            raise ValueError("one of its extensions is longer than the header")
        found.append((magic, data[at : at + length]))
        if len(found) > _MOST_EXTENSIONS:
            raise ValueError("it has more extensions than any image")
        at += -(-length // 8) * 8
    return found


def _refusal(image: Path, at: Path, problem: str, remedy: str) -> ImageError:
    if at != image:
        problem = f"of {printable(str(at))}, which stands behind it: {problem}"
    return ImageError(path=str(image), problem=problem, remedy=remedy)

"""A new overlay on a qcow2 of our own, written here: ``qemu-img`` is a process more for each clone.

It is what ``qemu-img create`` makes: a header that names the file below, and tables that hold
nothing. Source: QEMU's ``docs/interop/qcow2.rst``.
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import host_files

if TYPE_CHECKING:
    from pathlib import Path

# Magic, version, place and length of the name below, bits of a cluster's size, size of the disk,
# encryption; entries and place of the first table, place and clusters of the counts' table, number
# and place of snapshots; three sets of features, a count's size, the header's length.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_BELOW = struct.Struct(">4sIQIIQ")
_MAGIC, _VERSION = b"QFI\xfb", 3
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
# An entry of the first table leads to a cluster of entries, each of eight bytes, for a cluster.
_OF_AN_ENTRY = _CLUSTER * (_CLUSTER // 8)
# The first table fits into one cluster: four terabytes.
_LARGEST = _OF_AN_ENTRY * (_CLUSTER // 8)
_LONGEST_NAME = 1023
_JSON = b"json:"
_FORMAT, _END = 0xE2792ACA, 0
_COUNTS, _COUNTS_BLOCK, _TABLE, _ALL = 1, 2, 3, 4


def lay(below: Path, target: Path, base: tuple[Path, str] | None = None) -> bool:
    """Write an overlay on a qcow2; False where that is none that it can be written for.

    Args:
        below: the image, which is looked at for its size, and what it says that it lies on.
        target: the new file.
        base: the image that it lies on here, and that one's format; None: on nothing. What
            ``below`` says is followed only where it says the same: it may have been made in another
            folder, or by whoever would have a guest read a file of the host.

    Raises:
        ImageError: it cannot be written, or has no name that says where its base is.
    """
    try:
        with host_files.open_file(below) as file:
            head = file.read(_BELOW.size)
            if len(head) < _BELOW.size:
                return False
            magic, version, at, length, _, size = _BELOW.unpack(head)
            file.seek(at)
            said = file.read(min(length, _LONGEST_NAME))
    except OSError as error:
        raise _refusal(below, error) from error
    if magic != _MAGIC or version not in {2, 3}:
        return False
    name = os.fsencode(below.resolve())
    right = b"" if base is None else os.fsencode(base[0].resolve())
    if said != right:
        name = _named_with(below.resolve(), base)
    if len(name) > _LONGEST_NAME or not 0 < size <= _LARGEST or size % 512:
        return False
    try:
        target.write_bytes(_content(name, size))
    except OSError as error:
        raise _refusal(below, error) from error
    return True


def _named_with(below: Path, base: tuple[Path, str] | None) -> bytes:
    """Return a name for an image that says what it lies on. Source: QEMU's ``json:`` names."""
    behind = None if base is None else _node(base[0].resolve(), base[1])
    try:
        name = json.dumps({**_node(below, "qcow2"), "backing": behind}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _odd_name(below, "one of their names is no UTF-8") from None
    if len(name) + len(_JSON) > _LONGEST_NAME:
        raise _odd_name(below, f"their names have more than {_LONGEST_NAME} bytes together")
    return _JSON + name


def _node(path: Path, kind: str) -> dict[str, Any]:
    return {"driver": kind, "file": {"driver": "file", "filename": str(path)}}


def _odd_name(below: Path, why: str) -> ImageError:
    return ImageError(
        path=str(below), problem=f"it was saved on a disk image in another place, and {why}",
        remedy="set cache_dir, or put the image into a folder of another name",
    )  # fmt: skip


def blank(size: int, target: Path) -> None:
    """Write a qcow2 of its own that holds nothing, as a new disk does.

    Args:
        size: of the disk, in bytes, a multiple of 512; at most four terabytes.
        target: the new file.

    Raises:
        ImageError: it cannot be written.
    """
    try:
        target.write_bytes(_content(b"", size))
    except OSError as error:
        raise _refusal(target, error) from error


def _content(name: bytes, size: int) -> bytes:
    """Return an empty overlay of this size; without a name, one on nothing."""
    form = b"qcow2" if name else b""
    extensions = struct.pack(">II8s", _FORMAT, len(form), form) if name else b""
    extensions += struct.pack(">II", _END, 0)
    behind = _HEADER.size + len(extensions) if name else 0
    entries = -(-size // _OF_AN_ENTRY)
    header = _HEADER.pack(
        _MAGIC, _VERSION, behind, len(name), _CLUSTER_BITS, size, 0,
        entries, _TABLE * _CLUSTER, _COUNTS * _CLUSTER, 1, 0, 0, 0, 0, 0, 4, _HEADER.size,
    )  # fmt: skip
    clusters = [
        header + extensions + name,
        struct.pack(">Q", _COUNTS_BLOCK * _CLUSTER),
        struct.pack(">4H", *[1] * _ALL),
    ]
    return b"".join(part.ljust(_CLUSTER, b"\0") for part in clusters) + bytes(8 * entries)


def _refusal(image: Path, error: OSError) -> ImageError:
    return ImageError(
        path=str(image), problem=f"no overlay can be made on it: {error.strerror}",
        remedy="free some space in the folder for temporary files",
    )  # fmt: skip

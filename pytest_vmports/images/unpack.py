"""From what was fetched to what QEMU boots: unpacked and, where need be, converted, once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import file_kinds, host_files
from pytest_vmports.guests.qemu_img import qemu_img
from pytest_vmports.system import holes, zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK: Final = 1 << 20
_HEAD: Final = 1 << 16
_CONVERT_SECONDS: Final = 3600.0
# By the names in `file_kinds`: how qemu-img calls them. A text that describes a vmdk names files.
_FOREIGN: Final = {
    "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "vhd": "vpc", "qcow": "qcow", "qed": "qed",
    "parallels": "parallels",
}  # fmt: skip
_DESCRIPTOR: Final = b"# Disk DescriptorFile"
_AGAIN: Final = "fetch it again, or name another image"


def _zstd() -> Any:
    return zstd.module("the image is compressed by zstd", "images")


_OPENERS: Final[dict[str, Callable[[Any], Any]]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file), "xz": lzma.LZMAFile,
    "lzma": lzma.LZMAFile, "bzip2": bz2.BZ2File, "zstd": lambda file: _zstd().ZstdFile(file),
}  # fmt: skip


def is_ready(path: Path) -> bool:
    """Whether QEMU boots a file as it is.

    Raises:
        OSError: it cannot be read.
    """
    kind = _kind(path)
    return kind not in _OPENERS and kind not in _FOREIGN


def unpack(path: Path, folder: Path, most: int) -> Path:
    """Return the image that a file holds, made in a folder; the file itself where it is one.

    Args:
        path: an image, compressed or of another program's format.
        folder: what is made lies there.
        most: bytes that it may have.

    Raises:
        HostError: what unpacks it is not installed.
        ImageError: it is damaged, too large, or cannot be converted.
        OSError: there is no room.
    """
    path = decompressed(path, folder / "unpacked", most)
    kind = _kind(path)
    if kind in _OPENERS:
        raise _refusal(path, "it is compressed twice", "unpack it by hand, and name that")
    if kind not in _FOREIGN:
        return path
    with host_files.open_file(path) as file:
        if file.read(len(_DESCRIPTOR)) == _DESCRIPTOR:
            raise _refusal(
                path, "it is the text that describes a vmdk, and its data are in other files",
                "convert it by hand: qemu-img convert -O qcow2",
            )  # fmt: skip
    _refuse_too_large(path, _FOREIGN[kind], most)
    target = folder / "converted.qcow2"
    arguments = ["convert", "-q", "-f", _FOREIGN[kind], "-O", "qcow2", str(path), str(target)]
    code, _, said = qemu_img(arguments, read=(path,), write=(folder,), timeout=_CONVERT_SECONDS)
    if code:
        first = (said.strip() or "(nothing was said)").splitlines()[0]
        raise _refusal(path, f"qemu-img cannot convert it: {first}", _AGAIN)
    if path.parent == folder:
        path.unlink()
    return target


def _refuse_too_large(path: Path, kind: str, most: int) -> None:
    # What is compressed in it has any size, and its header says another.
    asked = ["measure", "--output=json", "-f", kind, "-O", "qcow2", str(path)]
    code, text, said = qemu_img(asked, read=(path,))
    if code:
        first = (said.strip() or "(nothing was said)").splitlines()[0]
        raise _refusal(path, f"qemu-img cannot read it: {first}", _AGAIN)
    if (size := json.loads(text)["required"]) > most:
        raise _refusal(
            path, f"converted it has {size >> 20} MiB, and all images may take {most >> 20}",
            "raise images_size, if it is what it should be",
        )  # fmt: skip


def decompressed(path: Path, target: Path, most: int) -> Path:
    """Return the file that holds what another does, decompressed; that itself where it is not.

    Args:
        path: a file.
        target: where the other is made.
        most: bytes that it may have.

    Raises:
        HostError: what unpacks it is not installed.
        ImageError: it is damaged or too large.
        OSError: it cannot be read, or there is no room.
    """
    kind = _kind(path)
    if kind not in _OPENERS:
        return path
    _decompress(path, kind, target, most)
    return target


def _kind(path: Path) -> str:
    with host_files.open_file(path) as file:
        found = file_kinds.kind_of(file.read(_HEAD))
    return "" if found is None else found.name


def _decompress(path: Path, kind: str, target: Path, most: int) -> None:
    size = 0
    with target.open("wb") as file:
        for piece in _pieces(path, kind):
            size += len(piece)
            if size > most:
                raise _refusal(
                    path, f"unpacked it has more than the {most >> 20} MiB that all images may "
                    "take", "raise images_size, if it is what it should be",
                )  # fmt: skip
            # Else a disk would be as large as it says.
            holes.write(file, piece)
        holes.end(file)


def _pieces(path: Path, kind: str) -> Iterator[bytes]:
    damaged: tuple[type[Exception], ...] = EOFError, zlib.error, lzma.LZMAError, OSError
    if kind == "zstd":
        damaged = (*damaged, _zstd().ZstdError)
    with host_files.open_file(path) as packed:
        try:
            with _OPENERS[kind](packed) as unpacked:
                while piece := unpacked.read(_CHUNK):
                    yield piece
        except damaged as error:
            raise _refusal(path, f"it cannot be unpacked: {error}", _AGAIN) from error


def _refusal(path: Path, problem: str, remedy: str) -> ImageError:
    return ImageError(path=str(path), problem=problem, remedy=remedy)

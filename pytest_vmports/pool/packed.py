"""A template as one file, for another machine: packed, and unpacked whoever it comes from.

It is a tar, compressed by zstd: `MANIFEST`, what it was made for and the digest of each file;
`SIGNATURE`, where there is a secret; then the files. Nothing of it is believed that the manifest
does not say, and with a secret nothing that it does not vouch for.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import os
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import image_links
from pytest_vmports.images.bounded_tar import open_tar
from pytest_vmports.system import holes, zstd
from pytest_vmports.system.digests import Digest
from pytest_vmports.system.small_file import parse_object
from pytest_vmports.system.stored import files_of, read_manifest
from pytest_vmports.vm.plan import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from pytest_vmports.pool.template import Template

SUFFIX: Final = ".vmports"
"""How the name of a packed template ends, behind its key."""
MANIFEST, SIGNATURE = "manifest.json", "signature"
_FORMAT: Final = 1
_LEVEL: Final = 3
_MOST_MANIFEST: Final = 1 << 20
_MOST_SIGNATURE: Final = 64
# Files of a template's own folder, and none that its store keeps there.
_NAMES: Final = re.compile(r"(?!manifest)[a-z][a-z0-9_-]{0,40}(\.[a-z0-9]{1,10})?")


class PackError(Exception):
    """It cannot be believed, or not be read; its text says why."""


@dataclass(frozen=True)
class Contents:
    """What a packed template says that it holds.

    Attributes:
        key: the name that it was made for.
        facts: what that is made of.
        files: each file, by its name.
    """

    key: str
    facts: dict[str, Any]
    files: dict[str, _File]


@dataclass(frozen=True)
class _File:
    """What a file has to be: its size, its digest, and the pieces that are not zeros all over.

    Attributes:
        size: in bytes.
        digest: see `digests.content_digest`.
        pieces: the numbers of the first and the last of each run of them.
    """

    size: int
    digest: str
    pieces: tuple[tuple[int, int], ...]

    @property
    def packed(self) -> int:
        """The bytes that are packed of it."""
        return sum(length for _, length in self.places())

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield where each piece begins, and how long it is."""
        for first, last in self.pieces:
            for number in range(first, last + 1):
                at = number * holes.PIECE
                yield at, min(holes.PIECE, self.size - at)


def pack(template: Template, out: IO[bytes], secret: bytes | None = None) -> None:
    """Write a template that is in use.

    Args:
        template: it.
        out: where to.
        secret: signs it; None leaves it unsigned.

    Raises:
        HostError: what packs it is not installed.
        OSError: it cannot be read or written.
    """
    manifest = read_manifest(template.folder)
    files = {path: _looked_at(path) for path in files_of(template.folder)}
    whole = {
        "format": _FORMAT, "key": manifest["key"], "facts": manifest["facts"],
        "signed": secret is not None,
        "files": {path.name: [one.size, one.digest, one.pieces] for path, one in files.items()},
    }  # fmt: skip
    text = json.dumps(whole, sort_keys=True).encode()
    with (
        _zstd().ZstdFile(out, "wb", level=_LEVEL) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, MANIFEST, text)
        if secret is not None:
            _add(tar, SIGNATURE, _signature(text, secret))
        for path, one in files.items():
            info = tarfile.TarInfo(path.name)
            info.size = one.packed
            with path.open("rb") as file:
                tar.addfile(info, _Pieces(file, one))


def unpack(source: IO[bytes], folder: Path, wanted: Wanted) -> None:
    """Put a packed template's files into a folder, having looked whether they are to be believed.

    Raises:
        HostError: what unpacks it is not installed.
        PackError: it is damaged, too large, another one, or not signed by who has the secret.
        OSError: there is no room.
    """
    with _reading(source) as tar:
        contents = _contents(tar, wanted)
        for name, file in contents.files.items():
            member = _next(tar, name)
            if member.size != file.packed:
                raise PackError(f"its {name} has {member.size} bytes, and not {file.packed}")
            target = folder / name
            if _copy(tar, member, target, file) != file.digest:
                raise PackError(f"its {name} is not what it says")
            if name.endswith(".qcow2"):
                _refuse_other_files(target)
        if tar.next() is not None:
            raise PackError("there is more in it than it says")


def contents_of(source: IO[bytes], wanted: Wanted) -> Contents:
    """Return what a packed template says that it holds.

    Raises:
        HostError: what unpacks it is not installed.
        PackError: see `unpack`.
    """
    with _reading(source) as tar:
        return _contents(tar, wanted)


@dataclass(frozen=True)
class Wanted:
    """Which packed template is unpacked.

    Attributes:
        key: its name; None for any whose facts it is made of.
        secret: of who may have signed it; None believes any.
        most: bytes that all of its files may have.
    """

    key: str | None = None
    secret: bytes | None = None
    most: int = 1 << 40


@contextlib.contextmanager
def _reading(source: IO[bytes]) -> Iterator[tarfile.TarFile]:
    module = _zstd()
    try:
        with module.ZstdFile(source, "rb") as packed, open_tar(packed, once=True) as tar:
            yield tar
    except (tarfile.TarError, EOFError, module.ZstdError) as error:
        raise PackError(f"it is cut, or none: {error}") from error


def _contents(tar: tarfile.TarFile, wanted: Wanted) -> Contents:
    text = _read(tar, MANIFEST, _MOST_MANIFEST)
    try:
        said = parse_object(text)
        signed = said["signed"]
        key, facts = said["key"], said["facts"]
        files = {str(name): _file(*told) for name, told in said["files"].items()}
        version = said["format"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PackError(f"its {MANIFEST} is odd: {error}") from error
    if version != _FORMAT:
        raise PackError(f"it is of the format {version!r}, and this version reads {_FORMAT}")
    if wanted.secret is not None and not signed:
        raise PackError("it is not signed")
    signature = _read(tar, SIGNATURE, _MOST_SIGNATURE) if signed else b""
    if wanted.secret is not None and not hmac.compare_digest(
        signature, _signature(text, wanted.secret)
    ):
        raise PackError("it is signed with another secret")
    if not isinstance(facts, dict) or key != key_of(facts):
        raise PackError("it is named for something else, or by another version of this package")
    if wanted.key not in {None, key}:
        raise PackError("it is another one")
    odd = [name for name in files if not _NAMES.fullmatch(name)]
    if odd or not {"ram", "state", "console", "clock"} <= files.keys():
        raise PackError(f"it holds other files than a saved guest has: {', '.join(files)[:200]}")
    if sum(file.size for file in files.values()) > wanted.most:
        raise PackError(f"its files are larger than all may be ({wanted.most >> 20} MiB)")
    return Contents(key, facts, files)


def _next(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    member = tar.next()
    if member is None or member.name != name or not member.isreg() or member.issparse():
        raise PackError(f"its {name} is missing")
    return member


def _read(tar: tarfile.TarFile, name: str, most: int) -> bytes:
    member = _next(tar, name)
    if member.size > most:
        raise PackError(f"its {name} has {member.size} bytes")
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _file(size: Any, digest: Any, pieces: Any) -> _File:
    """Read what the manifest says of a file.

    Raises:
        ValueError: it is no such thing.
        TypeError: likewise.
    """
    size, before = int(size), -1
    runs = tuple((int(first), int(last)) for first, last in pieces)
    for first, last in runs:
        if not before < first <= last:
            raise ValueError("pieces that are in no order")
        before = last
    if size < 0 or before * holes.PIECE >= max(size, 1):
        raise ValueError("pieces that lie outside of their file")
    return _File(size, str(digest), runs)


def _looked_at(path: Path) -> _File:
    runs: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = Digest(size)
        for at, piece in holes.pieces(file.fileno()):
            digest.add(at, piece)
            number = at // holes.PIECE
            if runs and runs[-1][1] == number - 1:
                runs[-1] = runs[-1][0], number
            else:
                runs.append((number, number))
    return _File(size, digest.text, tuple(runs))


class _Pieces(io.RawIOBase):
    """The pieces of a file one after the other, as `tarfile` reads a member."""

    def __init__(self, file: IO[bytes], wanted: _File) -> None:
        self._file, self._places, self._left = file, wanted.places(), b""

    def read(self, size: int = -1) -> bytes:
        while len(self._left) < size and (place := next(self._places, None)):
            self._left += os.pread(self._file.fileno(), place[1], place[0])
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, wanted: _File) -> str:
    """Write a file, and return the digest of what was written."""
    source = tar.extractfile(member)
    assert source is not None
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    digest = Digest(wanted.size)
    with os.fdopen(number, "wb") as copy:
        for at, length in wanted.places():
            piece = source.read(length)
            digest.add(at, piece)
            copy.seek(at)
            holes.write(copy, piece)
        copy.truncate(wanted.size)
    return digest.text


def _refuse_other_files(disk: Path) -> None:
    """Raise where a disk leads to a file that it does not lie on; that one is ours to say."""
    try:
        names = image_links.names(disk)
    except ImageError as error:
        raise PackError(f"its {disk.name} is no disk: {error.problem}") from error
    if image_links.format_of(disk) != "qcow2":
        raise PackError(f"its {disk.name} is no disk")
    if names.data_file:
        raise PackError(f"its {disk.name} has its data in another file")


def _add(tar: tarfile.TarFile, name: str, text: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))


def _signature(text: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, text, "sha256").hexdigest().encode()


def _zstd() -> Any:
    return zstd.module("a saved guest is packed by zstd", "store")

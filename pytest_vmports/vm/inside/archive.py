"""A tar archive as a guest sends it: read as it comes, in bounded memory, and never believed.

`tarfile` reads a header's every byte into memory, asks files to be sought in, and takes what is
compressed or has holes for what that becomes. Here nothing grows beyond what was sent.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import tarfile
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = tarfile.BLOCKSIZE
# Linux takes no longer path, so none that is longer could be written.
_LONGEST_NAME = 4096
_LONGEST_HEADER = 1 << 20
_LONGEST_NUMBER = 20
_NAMED_AS_HERE = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
# Programs fill their last record up.
_MOST_AFTER_END = 1 << 20
_PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"\x5d\0\0": "lzma", b"\x1f\x9d": "compress", b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip",
}  # fmt: skip
FILE, FOLDER, LINK, SECOND_NAME, OTHER = "file", "folder", "link", "second name", "other"


class Entry(NamedTuple):
    """What a header says of a file.

    Attributes:
        name: its path.
        kind: `FILE`, `FOLDER`, `LINK`, `SECOND_NAME` of a file, or `OTHER`.
        size: of the content that follows.
        mode: as the guest has it.
        mtime: likewise.
        target: where a link leads, or which file this is a second name of.
    """

    name: str
    kind: str
    size: int
    mode: int
    mtime: float
    target: str


class Holes(ValueError):  # noqa: N818 - no error of ours
    """A file has holes: nobody asked for them, and a few bytes would become any number."""


class Taker(Protocol):
    """Who makes something of the entries."""

    def begin(self, entry: Entry) -> None:
        """Take an entry; the content of a file follows."""

    def write(self, data: bytes) -> None:
        """Take some of a file's content."""

    def end(self) -> None:
        """Take note that an entry's content has ended."""


class Archive:
    """Reads what it is fed, and hands on what is in it.

    Args:
        taker: is handed the entries.

    Attributes:
        over: its end has come.
    """

    def __init__(self, taker: Taker) -> None:
        self.over: bool = False
        self._taker = taker
        self._first = True
        self._collected = bytearray()
        self._extended: dict[str, str] = {}
        self._await_head()

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError, tarfile.TarError: it is no archive, or one that is not taken.
            OSError: a path in it is longer than any here can be.
        """
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self._left], rest[self._left :]
            self._left -= len(piece)
            self._use(data if len(piece) == len(data) else bytes(piece))
            while not self._left:
                self._then()

    def finish(self) -> None:
        """See that nothing is missing.

        Raises:
            ValueError: something is.
        """
        if not self.over:
            self._refuse_packed()
            raise ValueError("it ends too early")

    def _refuse_packed(self) -> None:
        if self._first:
            for word, kind in _PACKED.items():
                if self._collected.startswith(word):
                    raise ValueError(f"it is compressed ({kind})")

    def _await(self, size: int, use: Callable[[bytes], object], then: Callable[[], object]) -> None:
        self._left, self._use, self._then = size, use, then

    def _await_head(self) -> None:
        self._collected.clear()
        self._await(_BLOCK, self._collected.extend, self._head)

    def _head(self) -> None:
        block = bytes(self._collected)
        self._refuse_packed()
        self._first = False
        if not any(block):
            self.over = True
            self._await(_MOST_AFTER_END, _drop, _no_end)
            return
        head = tarfile.TarInfo.frombuf(block, *_NAMED_AS_HERE)
        # Numbers may be written with a sign.
        if head.size < 0:
            raise ValueError(f"a file of {head.size} bytes")
        if head.type in _BEFORE and head.size > _LONGEST_HEADER:
            raise ValueError(f"a header of {head.size} bytes")
        if head.type in _NAMES:
            key = _NAMES[head.type]
            self._collect(head.size, lambda data: self._extended.update({key: _until_nul(data)}))
        elif head.type in _EXTENDED:
            self._collect(head.size, lambda data: self._extended.update(_records(data)))
        elif head.type == tarfile.XGLTYPE:  # of all that follow: no tar writes one unasked
            self._await(_padded(head.size), _drop, self._await_head)
        else:
            self._entry(head)

    def _collect(self, size: int, use: Callable[[bytes], object]) -> None:
        def then() -> None:
            use(bytes(self._collected[:size]))
            self._await_head()

        self._collected.clear()
        self._await(_padded(size), self._collected.extend, then)

    def _entry(self, head: tarfile.TarInfo) -> None:
        entry = _entry(head, self._extended)
        self._extended = {}
        self._taker.begin(entry)

        def then() -> None:
            self._taker.end()
            self._await(-entry.size % _BLOCK, _drop, self._await_head)

        self._await(entry.size, self._taker.write if entry.kind == FILE else _drop, then)


_NAMES = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_EXTENDED = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
_BEFORE = {*_NAMES, *_EXTENDED, tarfile.XGLTYPE}
_HOLES = "GNU.sparse."


def _entry(head: tarfile.TarInfo, extended: dict[str, str]) -> Entry:
    """Return what a header says, and what those before it say of the same."""
    kind = _kind(head)
    size = _number(extended["size"]) if "size" in extended else head.size
    # What is of a known kind and no file has nothing that follows, whatever it says.
    if kind != FILE and head.type in tarfile.SUPPORTED_TYPES:
        size = 0
    name, target = extended.get("path", head.name), extended.get("linkpath", head.linkname)
    if head.type == tarfile.GNUTYPE_SPARSE or _HOLES in extended:
        raise Holes(f"{name!r} has holes")
    if "\0" in name + target or (kind == LINK and not target):
        raise ValueError(f"{name!r} has a name or a target that no file can have")
    if max(len(name), len(target)) > _LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    mtime = float(extended.get("mtime", head.mtime))
    if not math.isfinite(mtime):
        raise ValueError(f"a time of {mtime}")
    return Entry(name, kind, size, head.mode, mtime, target)


def _kind(head: tarfile.TarInfo) -> str:
    if head.isreg():
        return FILE
    if head.isdir():
        return FOLDER
    if head.issym():
        return LINK
    return SECOND_NAME if head.islnk() else OTHER


def _records(data: bytes) -> dict[str, str]:
    """Return what is of use in a PAX header: lines of length, key and value."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + _LONGEST_NUMBER + 1)
        end = at + _number(os.fsdecode(data[at : max(blank, at)]))
        key, equals, value = data[blank + 1 : end].partition(b"=")
        if not equals or value[-1:] != b"\n" or end > len(data):
            raise ValueError("a header's line is no key and value")
        if key.startswith(_HOLES.encode()):
            found[_HOLES] = ""  # one for all, as nobody needs them and there may be any number
        elif key in {b"path", b"linkpath", b"size", b"mtime"}:
            found[os.fsdecode(key)] = os.fsdecode(value[:-1])
        at = end
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise ValueError(f"{text[:_LONGEST_NUMBER]!r} is no number")
    return int(text)


def _until_nul(data: bytes) -> str:
    return os.fsdecode(data.partition(b"\0")[0])


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _drop(_data: bytes) -> None:
    """Is given what is of no use."""


def _no_end() -> None:
    raise ValueError("it goes on after its end")

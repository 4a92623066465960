"""What is in an initrd that is given: whether our init finds its busybox there.

An initrd is one or more archives in cpio's newc format, each compressed or not, with zeros between
them (source: the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``). Whoever
made it may mean harm: some hundred bytes can unpack to gigabytes, so it is read in small pieces,
and no further than honest ones go.
"""

from __future__ import annotations

import bz2
import lzma
import posixpath
import re
import stat
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from pytest_vmports.guests import host_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUSYBOX: Final = "bin/busybox"
_NEWC = (b"070701", b"070702")
_HEAD, _CHUNK, _PIECE = 110, 1 << 18, 1 << 14
_LONGEST_NAME = 4096
# What an initrd has unpacked that is looked at, and how many entries and compressed parts: honest
# ones have less, and these take some seconds.
_MOST_BYTES, _MOST_PARTS = 512 << 20, 1 << 18
# As unpacking by xz needs at its highest level, and some more.
_MOST_MEMORY: Final = 256 << 20
_NO_ZERO = re.compile(rb"[^\0]")
_LAST = "TRAILER!!!"


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool:
        """Whether its end has come."""

    @property
    def unused_data(self) -> bytes:
        """What came behind that."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return what these bytes bring, so much at the most: the rest by further calls."""


_OPENERS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"\xfd7": lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY),
    b"\x5d\0": lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY),
    b"BZ": bz2.BZ2Decompressor,
}


class _UnreadableError(Exception):
    """From here on it is compressed in a way that we do not know, damaged, or without end."""


def has_busybox(initrd: Path) -> bool | None:
    """Return whether ``/bin/busybox`` is in an initrd; None where that cannot be read.

    Raises:
        OSError: it cannot be read at all.
    """
    facts = initrd.stat()
    return _has_busybox(initrd, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=32)
def _has_busybox(initrd: Path, size: int, mtime_ns: int) -> bool | None:  # noqa: ARG001
    names: set[str] = set()
    links: dict[str, str] = {}
    try:
        for name, target in _entries(initrd):
            # Of the others there may be any number.
            if posixpath.basename(name) == posixpath.basename(BUSYBOX):
                names.add(name)
            if target is not None and name == posixpath.dirname(BUSYBOX):
                links[name] = target
            if _leads_to(BUSYBOX, names, links):
                return True
    except (_UnreadableError, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return None
    return False


def _leads_to(path: str, names: set[str], links: dict[str, str]) -> bool:
    folder, _, file = path.rpartition("/")
    # /bin is a link into /usr in many distributions.
    folder = posixpath.normpath(posixpath.join("/", links.get(folder, folder))).strip("/")
    return f"{folder}/{file}" in names


def _entries(initrd: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the path of each entry, and of a link what it leads to."""
    bounds = _Bounds()
    with host_files.open_file(initrd) as file:
        source = _Source(bounds.of(iter(lambda: file.read(_CHUNK), b"")))
        while source.skip_zeros():
            start = source.peek(len(_NEWC[0]))
            if start in _NEWC:
                yield from _archive(source, bounds)
                continue
            opener = _OPENERS.get(start[:2])
            if opener is None:
                raise _UnreadableError
            bounds.count()
            inner = _Source(bounds.of(_decompressed(opener(), source)))
            while inner.skip_zeros():
                if inner.peek(len(_NEWC[0])) not in _NEWC:
                    raise _UnreadableError
                yield from _archive(inner, bounds)


class _Bounds:
    """How far one initrd is read, in all its parts."""

    def __init__(self) -> None:
        self._bytes, self._parts = _MOST_BYTES, _MOST_PARTS

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks, until there were too many."""
        for chunk in chunks:
            self._bytes -= len(chunk)
            if self._bytes < 0:
                raise _UnreadableError
            yield chunk

    def count(self) -> None:
        """Begin another entry or compressed part."""
        self._parts -= 1
        if self._parts < 0:
            raise _UnreadableError


def _archive(source: _Source, bounds: _Bounds) -> Iterator[tuple[str, str | None]]:
    while True:
        bounds.count()
        head = source.take(_HEAD)
        if head[: len(_NEWC[0])] not in _NEWC:
            raise _UnreadableError
        mode, size, length = (int(head[6 + 8 * at : 14 + 8 * at], 16) for at in (1, 6, 11))
        if length > _LONGEST_NAME:
            raise _UnreadableError
        name = source.take(length).rstrip(b"\0").decode(errors="replace")
        source.skip(-(_HEAD + length) % 4)
        target = None
        if stat.S_ISLNK(mode) and size <= _LONGEST_NAME:
            target = source.take(size).decode(errors="replace")
        else:
            source.skip(size)
        source.skip(-size % 4)
        if name == _LAST:
            return
        yield posixpath.normpath(name).lstrip("/"), target


def _decompressed(decompressor: _Decompressor, source: _Source) -> Iterator[bytes]:
    while not decompressor.eof:
        # What it has been given and not taken in yet is zlib's to return, and the others' to keep.
        data = getattr(decompressor, "unconsumed_tail", b"")
        hungry = not data and getattr(decompressor, "needs_input", True)
        data = source.piece() if hungry else data
        found = decompressor.decompress(data, _CHUNK)
        if hungry and not data and not found:
            raise EOFError
        if found:
            yield found
    source.give_back(len(decompressor.unused_data))


class _Source:
    """Bytes that come in chunks, read as far as they are wanted."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        # What is at hand, and what of it was read: to cut that off each time would take long.
        self._ready, self._at = b"", 0

    def piece(self) -> bytes:
        """Return what comes next, not much of it; nothing at the end."""
        self.peek(1)
        data = self._ready[self._at : self._at + _PIECE]
        self._at += len(data)
        return data

    def give_back(self, size: int) -> None:
        """Let the last bytes of a piece come once more."""
        self._at -= size

    def peek(self, size: int) -> bytes:
        """Return what comes next; less at the end."""
        while len(self._ready) - self._at < size:
            more = next(self._chunks, None)
            if more is None:
                break
            self._ready, self._at = self._ready[self._at :] + more, 0
        return self._ready[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Return the next bytes, all of them."""
        data = self.peek(size)
        if len(data) < size:
            raise EOFError
        self._at += size
        return data

    def skip(self, size: int) -> None:
        """Pass over some bytes, whose number may be large."""
        while size > (there := len(self._ready) - self._at):
            size -= there
            self._ready, self._at = b"", 0
            if not self.peek(1):
                raise EOFError
        self._at += size

    def skip_zeros(self) -> bool:
        """Pass over zeros; return whether anything comes behind them."""
        while self.peek(1):
            found = _NO_ZERO.search(self._ready, self._at)
            if found is not None:
                self._at = found.start()
                return True
            self._at = len(self._ready)
        return False

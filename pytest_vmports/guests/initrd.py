"""What is in an initrd that is given: whether our init finds its busybox there.

An initrd is one or more archives in cpio's newc format, each compressed or not, with zeros between
them (source: the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``).
"""

from __future__ import annotations

import bz2
import lzma
import posixpath
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
_HEAD, _CHUNK = 110, 1 << 18
_LONGEST_NAME = 4096
_LAST = "TRAILER!!!"


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool:
        """Whether its end has come."""

    @property
    def unused_data(self) -> bytes:
        """What came behind that."""

    def decompress(self, data: bytes, /) -> bytes:
        """Return what these bytes bring."""


_OPENERS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"\xfd7": lzma.LZMADecompressor,
    b"\x5d\0": lzma.LZMADecompressor,
    b"BZ": bz2.BZ2Decompressor,
}


class _UnreadableError(Exception):
    """From here on it is compressed in a way that we do not know, or damaged."""


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
            names.add(name)
            if target is not None:
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
    with host_files.open_file(initrd) as file:
        source = _Source(iter(lambda: file.read(_CHUNK), b""))
        while source.skip_zeros():
            start = source.peek(len(_NEWC[0]))
            if start in _NEWC:
                yield from _archive(source)
                continue
            opener = _OPENERS.get(start[:2])
            if opener is None:
                raise _UnreadableError
            stream = _decompressed(opener(), source)
            inner = _Source(stream)
            while inner.skip_zeros():
                if inner.peek(len(_NEWC[0])) not in _NEWC:
                    raise _UnreadableError
                yield from _archive(inner)


def _archive(source: _Source) -> Iterator[tuple[str, str | None]]:
    while True:
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
        data = source.chunk()
        if not data:
            raise EOFError
        yield decompressor.decompress(data)
    source.put_back(decompressor.unused_data)


class _Source:
    """Bytes that come in chunks, read as far as they are wanted."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._ready = b""

    def chunk(self) -> bytes:
        """Return what is at hand, or what comes next; nothing at the end."""
        ready, self._ready = self._ready, b""
        return ready or next(self._chunks, b"")

    def put_back(self, data: bytes) -> None:
        """Let these bytes come next."""
        self._ready = data + self._ready

    def peek(self, size: int) -> bytes:
        """Return what comes next; less at the end."""
        while len(self._ready) < size:
            more = next(self._chunks, None)
            if more is None:
                break
            self._ready += more
        return self._ready[:size]

    def take(self, size: int) -> bytes:
        """Return the next bytes, all of them."""
        data = self.peek(size)
        if len(data) < size:
            raise EOFError
        self._ready = self._ready[size:]
        return data

    def skip(self, size: int) -> None:
        """Pass over some bytes, whose number may be large."""
        while size > len(self._ready):
            size -= len(self._ready)
            self._ready = b""
            if not self.peek(1):
                raise EOFError
        self._ready = self._ready[size:]

    def skip_zeros(self) -> bool:
        """Pass over zeros; return whether anything comes behind them."""
        while self.peek(1):
            self._ready = self._ready.lstrip(b"\0")
            if self._ready:
                return True
        return False

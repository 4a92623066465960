"""Files of the host as a tar archive, for the guest's tar to unpack: made while it is sent.

Of the files no more is held in memory than a piece of one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pytest_vmports.errors import GuestFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What every tar reads, busybox's among them, which passes over the names in PAX headers.
_FORMAT: Final = tarfile.GNU_FORMAT
# What is read of a file at a time, and as what smaller ones and headers are sent together.
_PIECE, _TOGETHER = 1 << 20, 1 << 18
# Should it have become a pipe meanwhile, nobody waits for who writes to it.
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_END = bytes(2 * tarfile.BLOCKSIZE)
_PART = "part of it may be in the guest"


class Pack:
    """A file or folder as an archive.

    Args:
        source: what to pack; a link is followed, those in it are packed as links.

    Attributes:
        source: the same.
        is_folder: whether it is one.
        size: about as many bytes its archive will have, once it was checked.
        left_out: names of what has no place in its archive.
        shortened: names of files that became shorter while they were read.
        has_links: whether it has links or second names in it.

    Raises:
        GuestFileError: it is not there, cannot be read, or is neither file nor folder.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.size: int = 0
        self.left_out: list[str] = []
        self.shortened: list[str] = []
        self.has_links: bool = False
        self._folders: list[tuple[str, int, float]] = []
        self._state = "nothing was copied"
        try:
            self._real = os.path.realpath(source)
            mode = source.stat().st_mode
        except OSError as error:
            what = f"there is no {source} on the host ({error.strerror})"
            raise GuestFileError(what=what, remedy="name what exists") from error
        self.is_folder: bool = stat.S_ISDIR(mode)
        if not self.is_folder and not stat.S_ISREG(mode):
            what = f"{source} is neither a file nor a folder"
            raise GuestFileError(what=what, remedy="name a file or folder")

    @property
    def name(self) -> str:
        """Its own name: that of the link, where it was named by one."""
        named = self.source.name
        return named if named not in {"", ".", ".."} else Path(self._real).name

    def check(self) -> None:
        """See that all of it can be opened, before anything of it is sent.

        Raises:
            GuestFileError: something cannot be.
        """
        self.size = 0
        for path, _, facts in self._walk("."):
            self.size += tarfile.BLOCKSIZE
            if stat.S_ISREG(facts.st_mode):
                self.size += facts.st_size
                with self._reading(path):
                    os.close(os.open(path, _TO_READ))

    def names(self) -> Iterator[tuple[bool, str]]:
        """Yield what is in its archive: whether it is a folder, and its name there.

        Raises:
            GuestFileError: something cannot be read.
        """
        for _, name, facts in self._walk("."):
            if not stat.S_ISSOCK(facts.st_mode):
                yield stat.S_ISDIR(facts.st_mode), name

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield it, with everything below it, as an archive.

        Args:
            name: what a file is to be called in it; a folder is ``.``.

        Raises:
            GuestFileError: something cannot be read any more.
        """
        self.left_out, self.shortened, self._folders = [], [], []
        self._state = _PART
        return _together(self._all("." if self.is_folder else f"./{name}"))

    def folders(self) -> Iterator[bytes]:
        """Yield an archive of its folders without what is in them, the deepest first."""
        return _together((*map(_folder, reversed(self._folders)), _END))

    def _all(self, top: str) -> Iterator[bytes]:
        first_names: dict[tuple[int, int], str] = {}
        for path, name, facts in self._walk(top):
            with self._reading(path):
                entry = _entry(path, name, facts, first_names)
            if entry is None:
                self.left_out.append(path)
                continue
            if entry.issym() or entry.islnk():
                self.has_links = True
            if entry.isdir():
                self._folders.append((name, facts.st_mode, facts.st_mtime))
            if entry.isreg():
                yield from self._file(entry, path)
            else:
                yield _head(entry)
        # Once more behind all that lies in them: busybox's tar sets a folder's time at once.
        yield from map(_folder, reversed(self._folders))
        yield _END

    def _walk(self, top: str) -> Iterator[tuple[str, str, os.stat_result]]:
        """Yield path, name in the archive and facts of all, a folder before what is in it."""
        waiting = [(self._real, top)]
        while waiting:
            path, name = waiting.pop()
            with self._reading(path):
                facts = os.lstat(path)
                names = _names(path) if stat.S_ISDIR(facts.st_mode) else []
            yield path, name, facts
            waiting += [(f"{path}/{one}", f"{name}/{one}") for one in names]

    def _file(self, entry: tarfile.TarInfo, path: str) -> Iterator[bytes]:
        """Yield a file: its size is what was read of it, as far as that can be known before.

        What its folder says is 0 for files in /proc, and not true of one that grows. So a small
        one is read first, and so is one that is large and said to be small. Of another that grows
        as much is taken as it had, and the rest of one that shrinks is zeros, as by GNU's tar.
        """
        with contextlib.ExitStack() as held:
            with self._reading(path):
                content: IO[bytes] = os.fdopen(os.open(path, _TO_READ), "rb", buffering=0)
                held.callback(content.close)
                number = content.fileno()
                first = _read(number, _PIECE)
                entry.size = len(first)
                if len(first) == _PIECE:
                    entry.size = max(os.fstat(number).st_size, _PIECE)
                if entry.size == _PIECE and (more := _read(number, _PIECE)):
                    content = held.enter_context(tempfile.TemporaryFile())
                    entry.size += _spool(more, number, content)
            yield _head(entry)
            yield first
            yield from self._rest(content, entry.size - len(first), path)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)

    def _rest(self, content: IO[bytes], left: int, path: str) -> Iterator[bytes]:
        while left:
            with self._reading(path):
                data = content.read(min(left, _PIECE))
            if not data:
                if path not in self.shortened[-1:]:
                    self.shortened.append(path)
                data = bytes(min(left, _PIECE))
            left -= len(data)
            yield data

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GuestFileError(
                what=f"{path} on the host cannot be read: {error.strerror or error}",
                remedy=f"{self._state}; make it readable, or leave it out",
            ) from error


def _names(folder: str) -> list[str]:
    with os.scandir(folder) as found:
        return sorted((one.name for one in found), reverse=True)


def _entry(
    path: str, name: str, facts: os.stat_result, first_names: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    """Return what a header says of a file, link, pipe, device or folder; None for a socket."""
    mode = facts.st_mode
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        return None
    entry = _of_root(name, kind, mode, facts.st_mtime)
    if kind == tarfile.SYMTYPE:
        entry.linkname = os.readlink(path)  # noqa: PTH115 - Path's changes it
    elif kind in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        entry.devmajor, entry.devminor = os.major(facts.st_rdev), os.minor(facts.st_rdev)
    elif kind == tarfile.REGTYPE and facts.st_nlink > 1:
        first = first_names.setdefault((facts.st_ino, facts.st_dev), name)
        if first != name:
            entry.type, entry.linkname = tarfile.LNKTYPE, first
    return entry


_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip


def _of_root(name: str, kind: bytes, mode: int, mtime: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, mtime
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _folder(facts: tuple[str, int, float]) -> bytes:
    name, mode, mtime = facts
    return _head(_of_root(name, tarfile.DIRTYPE, mode, mtime))


def _head(entry: tarfile.TarInfo) -> bytes:
    """Return what stands before an entry's content."""
    return entry.tobuf(_FORMAT, tarfile.ENCODING, "surrogateescape")


def _read(number: int, size: int) -> bytes:
    """Return so many bytes of a file, or what is left of it."""
    data = os.read(number, size)
    if len(data) in {0, size}:
        return data
    parts, left = [data], size - len(data)
    while left and (data := os.read(number, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def _spool(more: bytes, number: int, spool: IO[bytes]) -> int:
    """Put what is left of a file into another one; return how much that is."""
    while more:
        spool.write(more)
        more = _read(number, _PIECE)
    size = spool.tell()
    spool.seek(0)
    return size


def _together(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces as they are where they are large, and small ones together."""
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) < _TOGETHER:
            small.append(piece)
            size += len(piece)
        if small and (size >= _TOGETHER or len(piece) >= _TOGETHER):
            yield b"".join(small)
            small, size = [], 0
        if len(piece) >= _TOGETHER:
            yield piece
    if small:
        yield b"".join(small)

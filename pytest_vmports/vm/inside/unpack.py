"""A tar archive that a guest sent, as files of the host: the guest is not trusted.

Nothing is written outside of the place that was asked for, whatever names and links the archive
has, and whatever an earlier one has left there: no link below that place is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path, PurePosixPath

from pytest_vmports.errors import GuestFileError
from pytest_vmports.system.mishaps import printable

_CHUNK = 1 << 16
_NO_LINKS_HERE = {errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK}
# What a clock may show; file systems clip it further by themselves.
_LATEST = 1 << 40
_MALFORMED = (tarfile.TarError, ValueError, KeyError, EOFError, OverflowError, RecursionError)


def unpack(data: bytes, name: str, place: Path, source: str) -> list[str]:
    """Write what an archive has below ``name`` to ``place``; return what was left out.

    Modes and times are the guest's, as far as they are safe: a program runs as who starts it.

    Args:
        data: the archive.
        name: the one name that it may hold.
        place: what that becomes.
        source: what was asked of the guest, for messages.

    Raises:
        GuestFileError: it is no archive of ``name``, or a file cannot be written.
    """
    unpacking = _Unpacking(place)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), tarinfo=_Entry) as archive:
            for entry in archive:
                unpacking.take(entry, archive, name)
            # tarfile takes a broken header for the end.
            end = data[archive.offset : archive.offset + tarfile.BLOCKSIZE]
            if end != bytes(tarfile.BLOCKSIZE) or not unpacking.begun:
                raise ValueError("it ends too early")
        unpacking.finish()
    except _MALFORMED as error:
        raise GuestFileError(
            what=f"what the guest's tar sent of {source} is no archive of it: "
            f"{printable(str(error))}{unpacking.partial}",
            remedy="see what tar is in the guest",
        ) from error
    except OSError as error:
        # No file's name: the guest chose it, or it stands in the target's.
        raise GuestFileError(
            what=f"{source} from the guest could not be written to {place}: "
            f"{error.strerror or error}{unpacking.partial}",
            remedy="see what is there on the host",
        ) from error
    return unpacking.left_out


class _Entry(tarfile.TarInfo):
    """An entry whose size is a size: with one below 0 some tarfiles run in circles."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError(f"a file of {count} bytes")
        return (count + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE


class _Unpacking:
    def __init__(self, place: Path) -> None:
        self.left_out: list[str] = []
        self.begun = False
        self._place = place
        # Folders that are no links, and those among them whose mode and time are still to be set.
        self._known: set[Path] = set()
        self._folders: dict[Path, tarfile.TarInfo] = {}
        # What may have second names: files and links, and what was left out.
        self._made: dict[PurePosixPath, Path | None] = {}

    @property
    def partial(self) -> str:
        """A word on what is there after a failure."""
        return f"; part of it is in {self._place}" if self.begun else ""

    def take(self, entry: tarfile.TarInfo, archive: tarfile.TarFile, name: str) -> None:
        """Write one entry."""
        inside = PurePosixPath(entry.name).relative_to(name)
        if ".." in inside.parts:
            what = f"{printable(entry.name)} leads out of {name}"
            raise GuestFileError(what=what, remedy="name it alone")
        if entry.issparse():  # nobody asked for it, and a few bytes would become any number
            raise ValueError(f"{entry.name} has holes")
        path = self._place / inside
        if entry.issym() and path == self._place:
            raise ValueError(f"{name} is a link where it leads to was asked for")
        own = PurePosixPath(entry.name)
        first = self._made[PurePosixPath(entry.linkname)] if entry.islnk() else path
        if first is None or not (entry.isdir() or entry.isreg() or entry.islnk() or entry.issym()):
            self.left_out.append(str(own))
            self._made[own] = None
            return
        self._enter(path.parent)
        if entry.isdir():
            self._folder(entry, path)
            return
        self._clear(path)
        if entry.isreg():
            self._file(entry, archive, path)
        elif entry.islnk():
            self._second_name(first, path)
        else:
            path.symlink_to(entry.linkname)
            times = _times(entry)
            os.utime(path, times, follow_symlinks=False)
        self.begun = True
        self._made[own] = path

    def finish(self) -> None:
        """Give the folders their modes and times, the deepest first."""
        for path, entry in sorted(self._folders.items(), reverse=True):
            path.chmod(entry.mode & 0o1777)
            os.utime(path, _times(entry))

    def _enter(self, folder: Path) -> None:
        """See that a folder is there and that no link leads into it from the place down."""
        if self._place not in (folder, *folder.parents):
            folder.mkdir(parents=True, exist_ok=True)  # what the place itself is in
            return
        missing = []
        while folder not in self._known and self._place in (folder, *folder.parents):
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            if one == self._place:
                one.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder(one)

    def _make_folder(self, path: Path) -> None:
        mode = _mode(path)
        if mode is None:
            path.mkdir()
        elif not stat.S_ISDIR(mode):
            kind = ", but a link" if stat.S_ISLNK(mode) else ""
            raise GuestFileError(
                what=f"{printable(str(path))} is no folder here{kind}, and the guest has one of "
                f"that name{self.partial}",
                remedy="remove it, or name another target",
            )
        self._known.add(path)

    def _folder(self, entry: tarfile.TarInfo, path: Path) -> None:
        self._make_folder(path)
        self.begun = True
        if path not in self._folders:
            # Whatever mode it will have: until then things are put into it.
            with contextlib.suppress(PermissionError):  # not ours: perhaps it can be written to
                path.chmod(0o700 | entry.mode & 0o777)
        self._folders[path] = entry

    def _clear(self, path: Path) -> None:
        """Make room for a file or a link, as tar does: by a new file, never through a link."""
        mode = _mode(path)
        if mode is None:
            return
        if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and path != self._place):
            path.unlink()
            return
        kind = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "no file"
        raise GuestFileError(
            what=f"{printable(str(path))} is {kind} here, and a file in the guest{self.partial}",
            remedy="remove it, or name another target",
        )

    def _file(self, entry: tarfile.TarInfo, archive: tarfile.TarFile, path: Path) -> None:
        content = archive.extractfile(entry)
        assert content is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            self.begun = True
            while chunk := content.read(_CHUNK):
                if chunk.count(0) < len(chunk):
                    file.write(chunk)
                else:  # a hole takes no room
                    file.seek(len(chunk), os.SEEK_CUR)
            file.truncate(entry.size)
            os.fchmod(file.fileno(), entry.mode & 0o777)
            os.utime(file.fileno(), _times(entry))

    def _second_name(self, first: Path, path: Path) -> None:
        if first == path:
            raise ValueError("a file is named as its own second name")
        try:
            os.link(first, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS_HERE:
                raise
            shutil.copy2(first, path, follow_symlinks=False)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _times(entry: tarfile.TarInfo) -> tuple[float, float]:
    when = float(min(max(entry.mtime, -_LATEST), _LATEST))
    return when, when

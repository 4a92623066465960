"""A tar archive that a guest sends, as files of the host: the guest is not trusted.

Nothing is written outside of the place that was asked for, whatever names and links the archive
has, and whatever an earlier one has left there: no link below that place is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestFileError, GuestSaidError
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.said import said_by
from pytest_vmports.vm.inside import guest_links
from pytest_vmports.vm.inside.archive import FILE, FOLDER, LINK, OTHER, SECOND_NAME, Archive, Holes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vmports.vm.inside.archive import Entry

_NO_LINKS_HERE = {errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a clock may show; file systems clip it further by themselves.
_LATEST = float(1 << 40)
# How many files, folders and links there may be: one for each so many bytes of the limit, as each
# takes room on a disk, and in memory here. One with a longer name counts more often.
_BYTES_EACH = 4096
_LEAST_COUNT = 1000
_LONG_NAME = 128
_WITHOUT_HOLES = (
    "a tar that looks for holes by itself, as bsdtar, is not read: fill them in the guest before "
    "(cp --sparse=never), or have GNU's or busybox's tar first on its PATH"
)
# As many as are told of.
_NAMED = 20
_LONGEST_SHOWN = 1000


class Unpacking:
    """Writes what a guest's tar sends below ``name`` to ``place``, as it comes.

    Modes and times are the guest's, as far as they are safe: a program runs as who starts it.

    Args:
        name: the one name that the archive may hold.
        place: what that becomes.
        source: what was asked of the guest, for messages.
        limit: the most bytes that all files together may have.

    Attributes:
        left_out: names of what is not made here, the first of them.
        more_left_out: how many others there are.
        taken: grows with each entry and each byte of a file.
    """

    def __init__(self, name: str, place: Path, source: str, limit: int) -> None:
        self.left_out: list[str] = []
        self.more_left_out: int = 0
        self.taken: int = 0
        self._name, self._place, self._source = name, place, source
        self._limit, self._room = limit, limit
        self._count = _LEAST_COUNT + limit // _BYTES_EACH
        self._begun = False
        # Folders that are no links, with the mode and time they are to have where that is known.
        self._folders: dict[str, tuple[int, float] | None] = {}
        # The modes of those that were there.
        self._found: dict[str, int] = {}
        # What may have second names: whether it was made or left out.
        self._made: dict[str, bool] = {}
        self._file: _File | None = None
        self._archive = Archive(self)

    @property
    def partial(self) -> str:
        """A word on what is there after a failure."""
        return f"; part of it is in {self._place}" if self._begun else ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive.

        Raises:
            GuestFileError: it is no archive of ``name``, or larger than the limit, or a file
                cannot be written.
        """
        with self._telling():
            self._archive.feed(data)

    def finish(self) -> None:
        """See that the archive is whole; give the folders modes and times, the deepest first.

        Raises:
            GuestFileError: likewise.
        """
        with self._telling():
            self._archive.finish()
            if not self._begun:
                raise ValueError("it ends too early")
            for path in sorted(self._folders, reverse=True):
                if (facts := self._folders[path]) is not None:
                    mode, when = facts
                    os.chmod(path, self._safe(path, mode))  # noqa: PTH101
                    os.utime(path, (when, when))

    def close(self) -> None:
        """Remove a file that is not whole. Safe to call again."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def begin(self, entry: Entry) -> None:
        """Write one entry; see `archive.Taker`."""
        self.taken += 1
        inside = PurePosixPath(entry.name).relative_to(self._name)
        if ".." in inside.parts:
            what = f"{shown(entry.name)} leads out of {shown(self._name)}{self.partial}"
            raise GuestFileError(what=what, remedy="name it alone")
        path, own = self._place / inside, str(inside)
        if path == self._place and entry.kind not in {FILE, FOLDER}:
            what = "a link where it leads to" if entry.kind == LINK else "no file, which"
            raise ValueError(f"{shown(self._name)} is {what} was asked for")
        self._take_room(entry.size)
        self._count_one(entry.name)
        first = own
        if entry.kind == SECOND_NAME:
            first = str(PurePosixPath(entry.target).relative_to(self._name))
        if entry.kind == OTHER or (entry.kind == SECOND_NAME and not self._made[first]):
            self._leave_out(entry)
            self._made[own] = False
            return
        self._enter(path.parent)
        if entry.kind == FOLDER:
            self._folder(entry, path)
            return
        if entry.kind == SECOND_NAME and first == own:
            raise ValueError("a file is named as its own second name")
        self._clear(path)
        self._made[own] = True
        if entry.kind == FILE:
            self._file = _File(entry, path)
            return
        if entry.kind == SECOND_NAME:
            self._second_name(self._place / first, path)
        else:
            path.symlink_to(entry.target)
            guest_links.mark(path, _times(entry)[0])
        self._begun = True

    def write(self, data: bytes) -> None:
        """Write some of a file's content."""
        assert self._file is not None
        self._file.write(data)
        self.taken += len(data)

    def end(self) -> None:
        """Finish a file, if it is one whose content has ended."""
        if self._file is not None:
            self._file.finish()
            self._file = None
            self._begun = True

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell what fails within as an error that says whose fault it is, and what is there."""
        try:
            with said_by("tar in the guest"):
                yield
        except GuestSaidError as error:
            self.close()
            raise GuestFileError(
                what=f"what the guest's tar sent of {self._source} is no archive of it: "
                f"{error.problem}{self.partial}",
                remedy=_WITHOUT_HOLES if isinstance(error.__cause__, Holes)
                else "see what tar is in the guest",
            ) from error  # fmt: skip
        except OSError as error:
            self.close()
            full = error.errno in _NO_ROOM
            # No file's name: the guest chose it, or it stands in the target's.
            raise GuestFileError(
                what=f"{self._source} from the guest could not be written to {self._place}: "
                f"{error.strerror or error}{self.partial}",
                remedy="make room there, or name a target that has" if full
                else "see what is there on the host",
            ) from error  # fmt: skip

    def _take_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            self._too_much(f"the most that is copied is {_amount(self._limit)}")

    def _count_one(self, name: str) -> None:
        self._count -= 1 + len(name) // _LONG_NAME
        if self._count < 0:
            self._too_much(f"it has too many files for a limit of {_amount(self._limit)}")

    def _too_much(self, why: str) -> None:
        raise GuestFileError(
            what=f"{self._source} from the guest is too large: {why}"
            f"{self.partial or '; nothing of it was written'}",
            remedy="give vm.get a larger max_size, or set copy_limit",
        )

    def _leave_out(self, entry: Entry) -> None:
        if len(self.left_out) < _NAMED:
            self.left_out.append(str(PurePosixPath(entry.name)))
        else:
            self.more_left_out += 1

    def _enter(self, folder: Path) -> None:
        """See that a folder is there and that no link leads into it from the place down."""
        if not folder.is_relative_to(self._place):
            folder.mkdir(parents=True, exist_ok=True)  # what the place itself is in
            return
        missing = []
        while folder.is_relative_to(self._place) and str(folder) not in self._folders:
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            if one == self._place:
                one.parent.mkdir(parents=True, exist_ok=True)
            self._count_one(one.name)
            self._make_folder(one)

    def _make_folder(self, path: Path) -> None:
        mode = _mode(path)
        if mode is None:
            path.mkdir()
        elif not stat.S_ISDIR(mode):
            kind = ", but a link" if stat.S_ISLNK(mode) else ""
            raise GuestFileError(
                what=f"{shown(str(path))} is no folder here{kind}, and the guest has one of "
                f"that name{self.partial}",
                remedy="remove it, or name another target",
            )
        elif str(path) not in self._folders:
            self._found[str(path)] = stat.S_IMODE(mode)
        self._folders.setdefault(str(path), None)

    def _folder(self, entry: Entry, path: Path) -> None:
        self._make_folder(path)
        self._begun = True
        if self._folders[str(path)] is None:
            # Whatever mode it will have: until then things are put into it.
            with contextlib.suppress(PermissionError):  # not ours: perhaps it can be written to
                path.chmod(0o700 | self._safe(str(path), entry.mode) & 0o777)
        self._folders[str(path)] = (entry.mode, _times(entry)[0])

    def _safe(self, path: str, mode: int) -> int:
        """Return the mode of a folder. One that was there, with files of the host in it, is the
        owner's as it was, and no more anybody else's than before.
        """  # noqa: D205
        found = self._found.get(path)
        return mode & 0o1777 if found is None else found & (mode | 0o7700)

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
            what=f"{shown(str(path))} is {kind} here, and a file in the guest{self.partial}",
            remedy="remove it, or name another target",
        )

    def _second_name(self, first: Path, path: Path) -> None:
        try:
            os.link(first, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS_HERE:
                raise
            self._take_room(first.lstat().st_size)  # what nobody has sent again
            shutil.copy2(first, path, follow_symlinks=False)


class _File:
    """A file that is being written; by a new one, which nobody can have put a link in place of."""

    def __init__(self, entry: Entry, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._entry, self._path = entry, path
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        if not data[0] and not data.strip(b"\0"):  # a hole takes no room
            self._file.seek(len(data), os.SEEK_CUR)
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        with self._file:
            self._file.truncate(self._entry.size)
            os.fchmod(self._file.fileno(), self._entry.mode & 0o777)
            os.utime(self._file.fileno(), _times(self._entry))

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _times(entry: Entry) -> tuple[float, float]:
    when = min(max(entry.mtime, -_LATEST), _LATEST)
    return when, when


def shown(name: str) -> str:
    """Return a guest's word as a piece of one line, so that no line begins with its words."""
    text = printable(name[: _LONGEST_SHOWN + 1].replace("\n", "\\n"))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _amount(size: int) -> str:
    return f"{size} bytes" if size % (1 << 20) else f"{size >> 20} MiB"

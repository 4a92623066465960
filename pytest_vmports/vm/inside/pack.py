"""Files of the host as a tar archive, for the guest's tar to unpack."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import GuestFileError

if TYPE_CHECKING:
    from typing_extensions import Self

# What every tar reads, busybox's among them, which passes over the names in PAX headers.
_FORMAT: Final = tarfile.GNU_FORMAT


class Pack:
    """A file or folder as an archive.

    Args:
        source: what to pack; a link is followed, those in it are packed as links.

    Attributes:
        source: the same.
        is_folder: whether it is one.
        left_out: names of what has no place in an archive.
        names: what is in its archive: whether it is a folder, and its name.
        has_links: whether it has links or second names in it.

    Raises:
        GuestFileError: it is not there, cannot be read, or is neither file nor folder.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.left_out: list[str] = []
        self.names: list[tuple[bool, str]] = []
        self.has_links = False
        self._folders: list[tarfile.TarInfo] = []
        try:
            self._real = os.path.realpath(source)
            mode = source.stat().st_mode
        except OSError as error:
            what = f"there is no {source} on the host ({error.strerror})"
            raise GuestFileError(what=what, remedy="name what exists") from error
        self.is_folder = stat.S_ISDIR(mode)
        if not self.is_folder and not stat.S_ISREG(mode):
            what = f"{source} is neither a file nor a folder"
            raise GuestFileError(what=what, remedy="name a file or folder")

    @property
    def name(self) -> str:
        """Its own name: that of the link, where it was named by one."""
        named = self.source.name
        return named if named not in {"", ".", ".."} else Path(self._real).name

    def archive(self, name: str) -> bytes:
        """Return it, with everything below it, as an archive.

        Args:
            name: what a file is to be called in it; a folder is ``.``.

        Raises:
            GuestFileError: something cannot be read.
        """
        self.left_out, self.names, self._folders = [], [], []
        with _Writer() as writer:
            self._add_all(writer, "." if self.is_folder else f"./{name}")
            return writer.whole()

    def folders(self) -> bytes:
        """Return an archive of its folders without what is in them, the deepest first."""
        with _Writer() as writer:
            for entry in reversed(self._folders):
                writer.head(entry)
            return writer.whole()

    def _add_all(self, writer: _Writer, top: str) -> None:
        waiting = [(self._real, top)]
        while waiting:
            path, name = waiting.pop()
            try:
                entry = writer.add(path, name)
                if entry is None:
                    self.left_out.append(path)
                    continue
                self.names.append((entry.isdir(), name))
                if entry.issym() or entry.islnk():
                    self.has_links = True
                if entry.isdir():
                    self._folders.append(entry)
                    names = sorted((one.name for one in os.scandir(path)), reverse=True)
                    waiting += [(f"{path}/{one}", f"{name}/{one}") for one in names]
            except OSError as error:
                what = f"{path} on the host cannot be read: {error.strerror or error}"
                raise GuestFileError(
                    what=what, remedy="nothing was copied; make it readable, or leave it out"
                ) from error
        # Once more behind all that lies in them: busybox's tar sets a folder's time at once.
        for entry in reversed(self._folders):
            writer.head(entry)


class _Writer:
    """Writes entries to an archive's file; a file's size is what was read of it.

    What its folder says is 0 for files in /proc, and not true of one that grows.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._archive = tarfile.TarFile(fileobj=self._file, mode="w", format=_FORMAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def whole(self) -> bytes:
        """Return the archive, which ends here."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        return self._file.getvalue()

    def add(self, path: str, name: str) -> tarfile.TarInfo | None:
        """Add a file, link, pipe, device or an empty folder; None for what is none of them."""
        entry = self._archive.gettarinfo(path, name)
        if entry is None:  # a socket
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        if entry.isreg():
            self._content(entry, path)
        else:
            self.head(entry)
        return entry

    def head(self, entry: tarfile.TarInfo) -> None:
        """Write what stands before an entry's content."""
        self._file.write(entry.tobuf(_FORMAT, self._archive.encoding or "utf-8", "surrogateescape"))

    def _content(self, entry: tarfile.TarInfo, path: str) -> None:
        start = self._file.tell()
        self.head(entry)
        begin = self._file.tell()
        # Should it have become a pipe meanwhile, nobody waits for who writes to it.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as content:
            shutil.copyfileobj(content, self._file)
        entry.size = self._file.tell() - begin
        self._file.write(bytes(-entry.size % tarfile.BLOCKSIZE))
        end = self._file.tell()
        self._file.seek(start)
        self.head(entry)
        self._file.seek(end)

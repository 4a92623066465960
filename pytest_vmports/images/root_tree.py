"""What a container image's layers come to: one tree of files, written as one tar.

Nothing is put on the host's own file system: names and links lead about in the tree alone.
Source: the OCI image specification, layer.md (whiteouts, opaque ones, hard links).
"""

from __future__ import annotations

import copy
import shutil
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from pytest_vmports.images.bounded_tar import MOST_MEMBERS, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

_HIDDEN, _OPAQUE = ".wh.", ".wh..wh..opq"
_MOST_LINKS: Final = 40
# What a guest mounts over, so that nothing in it is needed; and where our own part lies in it.
_MOUNTED: Final = ("dev", "proc", "sys")
_OURS: Final = "vmports"


class BadTreeError(Exception):
    """The layers cannot be put together; its text says why."""


class _Node:
    """A file, or a folder; one that has several names is in the tree several times."""

    __slots__ = ("children", "info", "layer", "tar")

    def __init__(self, info: tarfile.TarInfo, tar: tarfile.TarFile | None, layer: int) -> None:
        self.info, self.tar, self.layer = info, tar, layer
        self.children: dict[str, _Node] | None = {} if info.isdir() else None


class RootTree:
    """The files of a container, empty at first.

    Args:
        most: bytes that all of its files may have.

    Attributes:
        count: how many files `write` has written.
    """

    def __init__(self, most: int) -> None:
        self._root = _Node(_folder_info(), None, 0)
        self._left, self._layer, self._members = most, 0, 0
        self.count: int = 0

    def add(self, layer: tarfile.TarFile) -> None:
        """Put a layer over what is there.

        Args:
            layer: of `bounded_tar.open_tar`; it is read from until the tree is written.

        Raises:
            BadTreeError: it does not fit.
            tarfile.TarError: it is damaged.
        """
        self._layer += 1
        for member in members(layer):
            self._members += 1
            if self._members > MOST_MEMBERS:
                raise BadTreeError(f"it has more than {MOST_MEMBERS} files")
            parts = self._parts(member.name)
            if not parts:
                self._root.info = member if member.isdir() else self._root.info
                continue
            *above, name = parts
            if name == _OPAQUE:
                self._hide_below(self._folder(above))
            elif name.startswith(_HIDDEN):
                self._hide(self._folder(above), name.removeprefix(_HIDDEN))
            else:
                self._put(self._folder(above, brought=True), name, member, layer)

    def folder(self, name: str) -> None:
        """See to it that there is a folder of this name."""
        self._folder(self._parts(name))

    def names(self, name: str = "/") -> list[str]:
        """Return what is in a folder; nothing where it is none."""
        node = self._find(self._parts(name))
        return sorted(node.children) if node is not None and node.children else []

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where it is none."""
        node = self._find(self._parts(name))
        return None if node is None or not node.info.isreg() else node.info.size

    def read(self, name: str, most: int) -> bytes:
        """Return the begin of a file; nothing where it is none.

        Raises:
            tarfile.TarError: it is damaged.
        """
        node = self._find(self._parts(name))
        if node is None or node.tar is None or not node.info.isreg():
            return b""
        file = node.tar.extractfile(node.info)
        return b"" if file is None else file.read(most)

    def extract(self, name: str, target: Path) -> None:
        """Write one file to the host.

        Raises:
            BadTreeError: it is too large.
            tarfile.TarError: it is damaged.
        """
        node = self._find(self._parts(name))
        assert node is not None
        file = self._opened(node)
        assert file is not None
        with target.open("xb") as copied:
            shutil.copyfileobj(file, copied, 1 << 20)

    def write(self, target: Path) -> None:
        """Write all of it to a tar that any tar reads.

        Raises:
            BadTreeError: something in it has no place in a tar.
            tarfile.TarError: a layer is damaged.
        """
        first: dict[int, str] = {}
        with tarfile.open(target, "x", format=tarfile.GNU_FORMAT) as out:
            for name, node in _walk(self._root, ""):
                info = _plain(node.info, name)
                file = None
                if node.children is None and id(node) in first:
                    info.type, info.linkname, info.size = tarfile.LNKTYPE, first[id(node)], 0
                elif info.isreg():
                    file = self._opened(node)
                first.setdefault(id(node), name)
                try:
                    out.addfile(info, file)
                except ValueError as error:
                    raise BadTreeError(f"{name} cannot be kept: {error}") from error
                self.count += 1

    def _opened(self, node: _Node) -> IO[bytes] | None:
        # One with holes may have any size, whatever its layer has.
        self._left -= node.info.size
        if self._left < 0:
            raise BadTreeError("unpacked it is larger than all images may be (images_size)")
        assert node.tar is not None
        return node.tar.extractfile(node.info)

    def _put(
        self, folder: _Node, name: str, member: tarfile.TarInfo, layer: tarfile.TarFile
    ) -> None:
        assert folder.children is not None
        there = folder.children.get(name)
        if member.islnk():
            node = self._find(self._parts(member.linkname), follow=False)
            if node is None or node.children is not None:
                raise BadTreeError(f"{member.name} is a hard link to what is not there")
            folder.children[name] = node
        elif member.isdir() and there is not None and there.children is not None:
            there.info, there.layer = member, self._layer
        else:
            folder.children[name] = _Node(member, layer, self._layer)

    def _hide(self, folder: _Node, name: str) -> None:
        assert folder.children is not None
        there = folder.children.get(name)
        if there is None:
            return
        # What this layer itself brings is not meant.
        if there.layer != self._layer:
            del folder.children[name]
        elif there.children is not None:
            self._hide_below(there)

    def _hide_below(self, folder: _Node) -> None:
        for name in list(folder.children or ()):
            self._hide(folder, name)

    def _folder(self, parts: Sequence[str], *, brought: bool = False) -> _Node:
        """Return a folder, made where it is missing; links to others are followed.

        Args:
            parts: its name.
            brought: this layer brings something in it, so that it is this layer's too.
        """
        node = self._walked(parts, make=True, brought=brought)
        assert node is not None
        return node

    def _find(self, parts: Sequence[str], *, follow: bool = True) -> _Node | None:
        """Return what has a name; None where nothing has."""
        if not parts:
            return self._root
        folder = self._walked(parts[:-1], make=False)
        node = None if folder is None or folder.children is None else folder.children.get(parts[-1])
        if not follow or node is None or not node.info.issym():
            return node
        return self._walked(parts, make=False)

    def _walked(self, parts: Sequence[str], *, make: bool, brought: bool = False) -> _Node | None:
        path, left, links = [self._root], list(reversed(parts)), 0
        while left:
            name = left.pop()
            if name == "..":
                path = path[:-1] or path
                continue
            here = path[-1]
            node = None if here.children is None else here.children.get(name)
            if node is not None and node.info.issym():
                links += 1
                if links > _MOST_LINKS:
                    raise BadTreeError(f"its links lead about without end: {'/'.join(parts)}")
                target = PurePosixPath(node.info.linkname)
                path = path[:1] if target.is_absolute() else path
                left += [one for one in reversed(target.parts) if one not in {"/", "//"}]
                continue
            if make and (node is None or node.children is None):
                if here.children is None:  # only the last of a link's own way may be no folder
                    raise BadTreeError(f"{'/'.join(parts)} leads through what is no folder")
                node = here.children[name] = _Node(_folder_info(), None, self._layer)
            if node is None:
                return None
            if brought:
                node.layer = self._layer
            path.append(node)
        return path[-1]

    @staticmethod
    def _parts(name: str) -> list[str]:
        parts = [part for part in PurePosixPath(name).parts if part not in {"/", "//"}]
        if ".." in parts:
            raise BadTreeError(f"a file of it is named {name}, which leads outside")
        return parts


def _walk(folder: _Node, above: str) -> Iterator[tuple[str, _Node]]:
    stack = [(above, folder)]
    while stack:
        name, node = stack.pop()
        if name == _OURS:
            continue
        if name:
            yield name, node
        if node.children and name not in _MOUNTED:
            # Of a reversed order, so that what is popped comes in the right one.
            stack += [
                (f"{name}/{one}" if name else one, node.children[one])
                for one in sorted(node.children, reverse=True)
            ]


def _plain(info: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """Return a member of the same kind for a tar of our own: users by number, and no attributes."""
    made = copy.copy(info)
    made.name, made.uname, made.gname, made.pax_headers = name, "", "", {}
    made.mtime = int(info.mtime)
    if info.isreg():
        made.type, made.sparse = tarfile.REGTYPE, None
    return made


def _folder_info() -> tarfile.TarInfo:
    made = tarfile.TarInfo()
    made.type, made.mode = tarfile.DIRTYPE, 0o755
    return made

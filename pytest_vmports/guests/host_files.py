"""Files of the host that a guest is given: what keeps one from being read, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import stat
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestNotFoundError
from pytest_vmports.system.small_file import open_regular

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path
    from typing import BinaryIO

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/{1,2}[^/]")
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device", stat.S_IFCHR: "a device",
}  # fmt: skip
_READABLE = "name a readable file"


def problem(
    path: Path, written: str | PathLike[str] | None = None, *, folder: bool = False
) -> tuple[str, str] | None:
    """Return what keeps a file from being read, and what to do; None for nothing.

    Args:
        path: the file, absolute.
        written: as the user wrote it.
        folder: a folder is right too.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        return _unreachable(path, os.fspath(path if written is None else written), error)
    if kind == stat.S_IFDIR and folder:
        return None
    if kind != stat.S_IFREG:
        return f"is not a file but {_KINDS.get(kind, 'something else')}", _READABLE
    if not os.access(path, os.R_OK):
        return "cannot be read by this user", f"{_READABLE}, or make it one: chmod a+r"
    return None


def open_file(path: Path) -> BinaryIO:
    """Return a file, or what a link to one leads to, open for reading; never waits for one.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    return os.fdopen(open_regular(path, follow=True), "rb")


def read(path: Path, what: str) -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        what: names it in an error.

    Raises:
        GuestNotFoundError: it cannot be read.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        said = problem(path) or (f"cannot be read ({error.strerror})", _READABLE)
        raise GuestNotFoundError(what=f"{what} {path} {said[0]}", remedy=said[1]) from error


def _unreachable(path: Path, written: str, error: OSError) -> tuple[str, str]:
    if _ADDRESS.match(str(written)):
        return "does not exist", "an address is not fetched: fetch the file, and name that"
    if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
        return f"cannot be reached ({error.strerror})", _READABLE
    if path.is_symlink():
        target = os.readlink(path)  # noqa: PTH115 - as it is written
        annex = "annex/objects/" in target
        remedy = f"fetch it: git annex get {shlex.quote(str(path))}" if annex else _READABLE
        return f"is a link to {target}, which does not exist", remedy
    return "does not exist", _nearest(path)


def _nearest(path: Path) -> str:
    """Return what may be meant: a name like it, or how far its path leads."""
    there = next(one for one in path.parents if one.exists())
    missing = path.relative_to(there).parts[0]
    try:
        near = difflib.get_close_matches(missing, os.listdir(there), 1)  # noqa: PTH208
    except OSError:
        near = []
    if near:
        return f"did you mean {there / near[0]}?"
    known = there == path.parent and there.is_dir()
    return _READABLE if known else f"{_READABLE}; its path leads to {there} only"

"""An archive in cpio's newc format, appended to an initrd.

Linux unpacks every archive it finds in the initrd one after the other, later files replacing
earlier ones (source: the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``).
"""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestNotFoundError
from pytest_vmports.guests import host_files
from pytest_vmports.system.paths import absolute, as_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

_BLOCK, _COPIED = 512, 1 << 20
# Links into /usr in most distributions. A folder's entry would replace the link, and with it all
# programs; one of them is the init.
_OFTEN_LINKS = frozenset({"bin", "sbin", "lib", "lib32", "lib64"})


@dataclass(frozen=True)
class Entry:
    """One file, folder or link: its path in the guest, its whole mode and its content."""

    path: str
    mode: int
    data: bytes = b""


def file_entry(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file's entry."""
    return Entry(path, stat.S_IFREG | permissions, data)


def archive(entries: Iterable[Entry], *, alone: bool = False) -> bytes:
    """Return the entries, and the folders that lead to them, as one newc archive.

    Args:
        entries: what is to be in it.
        alone: no initrd goes before it, so folders as ``/bin`` have to be made too.
    """
    out = bytearray()
    there = frozenset() if alone else _OFTEN_LINKS
    for number, entry in enumerate(_with_parents(entries, there), 1):
        out += _record(number, entry)
    out += _record(0, Entry("TRAILER!!!", 0))
    return bytes(out)


def append(initrd: Path | None, content: bytes, target: Path) -> None:
    """Write ``initrd`` followed by the archive ``content`` to ``target``.

    Raises:
        OSError: ``initrd`` cannot be read or ``target`` cannot be written.
    """
    with target.open("wb") as out:
        if initrd is not None:
            with host_files.open_file(initrd) as file:
                shutil.copyfileobj(file, out, _COPIED)
            # Without the padding the kernel silently ignores what follows.
            out.write(b"\0" * (-out.tell() % _BLOCK))
        out.write(content)


def entries_from_host(files: Mapping[str, str], root: Path) -> list[Entry]:
    """Return the entries for ``files`` (host path to guest path); folders are taken whole.

    Args:
        files: host path to absolute guest path. A guest path that ends in ``/`` names the folder
            that the file is put into.
        root: what relative host paths are relative to.

    Raises:
        GuestNotFoundError: a host path does not exist, cannot be read, or is a pipe, socket or
            device.
    """
    entries: list[Entry] = []
    for host, guest in files.items():
        try:
            source = absolute(host, root)
        except ValueError as error:
            raise GuestNotFoundError(what=f"files names {host!r}", remedy=str(error)) from error
        problem = host_files.problem(source, host, folder=True)
        if problem is not None:
            raise GuestNotFoundError(
                what=f"files names {host!r}, and {source} {problem[0]}",
                remedy=f"{problem[1]} (relative to pytest's rootdir, {root})",
            )
        target = PurePosixPath(guest) / source.name if guest.endswith("/") else PurePosixPath(guest)
        # A link that is named itself stands for what it leads to; those below a folder stay links.
        try:
            entries.extend(_walk(source.resolve(), target))
        except OSError as error:
            raise GuestNotFoundError(
                what=f"files leads to {error.filename or source}, which cannot be read: "
                f"{error.strerror or error}",
                remedy="make it readable, or leave it out",
            ) from error
    return entries


def _walk(source: Path, target: PurePosixPath) -> Iterator[Entry]:
    info = source.lstat()
    if stat.S_ISLNK(info.st_mode):
        yield Entry(str(target), info.st_mode, as_bytes(source.readlink()))
    elif stat.S_ISDIR(info.st_mode):
        yield Entry(str(target), _mode(info))
        for child in sorted(source.iterdir()):
            yield from _walk(child, target / child.name)
    elif stat.S_ISREG(info.st_mode):
        yield Entry(str(target), _mode(info), host_files.read(source, "the host's file"))
    else:
        raise GuestNotFoundError(
            what=f"files leads to {source}, and {source.name} is neither a file nor a folder",
            remedy="leave it out",
        )


def _mode(info: os.stat_result) -> int:
    """Return a file's mode, without what a checkout has by its user's umask alone."""
    alone = info.st_mode & stat.S_IWGRP and not info.st_mode & stat.S_IWOTH
    return info.st_mode & ~stat.S_IWGRP if alone else info.st_mode


def _with_parents(entries: Iterable[Entry], there: frozenset[str]) -> Iterator[Entry]:
    seen: set[str] = set(there)
    for entry in entries:
        path = entry.path.strip("/")
        if path in there and stat.S_ISDIR(entry.mode):
            continue
        for parent in reversed(PurePosixPath(path).parents):
            name = str(parent)
            if name != "." and name not in seen:
                seen.add(name)
                mode = 0o1777 if name in {"tmp", "var/tmp"} else 0o755
                yield Entry(name, stat.S_IFDIR | mode)
        seen.add(path)
        yield Entry(path, entry.mode, entry.data)


def _record(number: int, entry: Entry) -> bytes:
    name = as_bytes(entry.path) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (
        number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0,
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08x" % value for value in numbers) + name
    head += b"\0" * (-len(head) % 4)
    return head + entry.data + b"\0" * (-len(entry.data) % 4)

"""From a saved container image to what a VM boots: a disk, all its files, and its service."""

from __future__ import annotations

import contextlib
import re
import tarfile
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import HostError
from pytest_vmports.guests import container
from pytest_vmports.guests.container import Container
from pytest_vmports.images import unpack
from pytest_vmports.images.root_tree import BadTreeError, RootTree
from pytest_vmports.images.saved_image import SavedImage
from pytest_vmports.system import surroundings
from pytest_vmports.system.probing import ask

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.system.architecture import Architecture

# The disk takes the files, and what the guest writes; nothing of it is there before.
_LEAST_DISK: Final = 16 << 30
_TIMES_FILES: Final = 4
_LEAST_FILES: Final = 1 << 18
_JOURNAL_MIB: Final = 16
_MKFS_SECONDS: Final = 120.0
# A disk is the same wherever it is made, for a saved guest lies on it. Source: mke2fs(8).
_ID: Final = "7d0d8c0e-6d0e-4f0b-9a52-6d0f5e1c2b3a"
_THE_SAME: Final = ("/usr/bin/env", "E2FSPROGS_FAKE_TIME=1000000000")
_MOST_USERS: Final = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,10}")
_USERS, _GROUPS = "etc/passwd", "etc/group"
_PASSWD_FIELDS, _GROUP_FIELDS = 7, 4


def make(path: Path, folder: Path, most: int, architecture: Architecture) -> Path:
    """Return the disk that is made of a saved image; what `container.read` reads is beside it.

    Where it is a containerdisk, the disk that it holds.

    Args:
        path: an OCI layout or a docker archive.
        folder: where it is made.
        most: bytes that its files may have.
        architecture: of the VM.

    Raises:
        ContainerError: it is none, or is damaged.
        HostError: what unpacks it or makes its file system is not installed.
        ImageError: the disk in it is damaged.
        OSError: there is no room.
    """
    with contextlib.closing(SavedImage(path, folder, most, architecture)) as image:
        tree = RootTree(most)
        try:
            for layer in image.layers():
                tree.add(layer)
            if disk := _disk_in(tree, image):
                held = folder / "held"
                tree.extract(disk, held)
                made = unpack.unpack(held, folder, most)
                if made != held:
                    held.unlink(missing_ok=True)
                return made
            container.write(_service(image, tree), folder)
            tree.write(folder / container.FILES)
        except BadTreeError as error:
            raise image.refusal(str(error)) from error
        except (tarfile.TarError, EOFError) as error:
            raise image.refusal(f"a layer of it is damaged: {error}") from error
    return _empty_disk(folder / "root.raw", (folder / container.FILES).stat().st_size, tree.count)


def _disk_in(tree: RootTree, image: SavedImage) -> str | None:
    """Return the name of the disk that a containerdisk holds; None where it is none.

    Source: KubeVirt's user guide, "containerDisk": nothing but a disk in ``/disk``.
    """
    if tree.names() != ["disk"] or image.config.command:
        return None
    files = [name for name in tree.names("disk") if tree.size(f"disk/{name}") is not None]
    if len(files) != 1:
        listed = ", ".join(files)[:200] or "none"
        raise image.refusal(
            f"a containerdisk holds one disk in its folder disk, and this one {listed}"
        )
    return f"disk/{files[0]}"


def _service(image: SavedImage, tree: RootTree) -> Container:
    """Return what starts the service of an image, whose files are in a tree."""
    config = image.config
    for name in (config.folder, *config.volumes):
        tree.folder(name)
    named, _, of_group = config.user.partition(":")
    user, group, home, groups = _who(named or "0", tree, image)
    if of_group:
        group, groups = _group(of_group, tree, image), []
    variables = dict(one.split("=", 1) for one in config.variables if "=" in one)
    return Container(
        config.command, tuple({"HOME": home, **variables}.items()), config.folder, user,
        (group, *groups),
    )  # fmt: skip


def _who(name: str, tree: RootTree, image: SavedImage) -> tuple[int, int, str, list[int]]:
    """Return a user's number and group, its home, and its other groups."""
    for line in _table(tree, _USERS, _PASSWD_FIELDS):
        if name == line[0] or (_NUMBER.fullmatch(name) and name == line[2]):
            groups = [
                int(group[2])
                for group in _table(tree, _GROUPS, _GROUP_FIELDS)
                if line[0] in group[3].split(",") and group[2] != line[3]
            ]
            return int(line[2]), int(line[3]), line[5] or "/", groups
    if _NUMBER.fullmatch(name):
        return int(name), 0, "/root" if name == "0" else "/", []
    raise image.refusal(f"its user {name} is not in its /{_USERS}")


def _group(name: str, tree: RootTree, image: SavedImage) -> int:
    if _NUMBER.fullmatch(name):
        return int(name)
    for line in _table(tree, _GROUPS, _GROUP_FIELDS):
        if line[0] == name:
            return int(line[2])
    raise image.refusal(f"its group {name} is not in its /{_GROUPS}")


def _table(tree: RootTree, name: str, fields: int) -> list[list[str]]:
    """Return the lines of a table of users or groups that are what they should be."""
    text = tree.read(name, _MOST_USERS).decode(errors="replace")
    lines = (line.split(":") for line in text.splitlines())
    numbers = slice(2, 4 if fields == _PASSWD_FIELDS else 3)
    return [
        line for line in lines
        if len(line) == fields and all(map(_NUMBER.fullmatch, line[numbers]))
    ]  # fmt: skip


def _mke2fs() -> str | None:
    """Return where it is; an ordinary user's PATH may lack its folder."""
    beyond = (f"{folder}/mke2fs" for folder in ("/usr/sbin", "/sbin"))
    return surroundings.which("mke2fs") or next(filter(surroundings.which, beyond), None)


def _empty_disk(target: Path, size: int, files: int) -> Path:
    """Make a disk with an empty file system, with room for files and more.

    Raises:
        HostError: its program is missing, or fails.
    """
    program = _mke2fs()
    if program is None:
        raise HostError(
            "a container image needs a disk for its files, whose file system mke2fs makes, and "
            "that is not there: install e2fsprogs"
        )
    bytes_there = max(_LEAST_DISK, _TIMES_FILES * size)
    answer = ask(
        [
            *_THE_SAME, program, "-q", "-F", "-t", "ext4", "-m", "0", "-J", f"size={_JOURNAL_MIB}",
            "-U", _ID, "-E", f"hash_seed={_ID}",
            "-N", str(max(_LEAST_FILES, _TIMES_FILES * files)), str(target),
            f"{bytes_there >> 20}M",
        ],
        timeout=_MKFS_SECONDS,
    )  # fmt: skip
    if answer.code:
        raise HostError(f"{program} could not make a file system: {answer.text.strip()}")
    return target

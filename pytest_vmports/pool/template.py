"""One template: the saved state of a guest that was booted once, from which clones start.

It is a folder with ``ram`` (the guest's memory, sparse), ``state`` (its devices), ``console`` (what
it wrote there until then), what it wrote to its disks if it has any, and ``manifest.json``. It is
named by a key of everything that shapes it,
and checked before it is believed. Sources: QEMU's documentation of ``x-ignore-shared`` and
``memory-backend-file``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import MonitorError
from pytest_vmports.system import clock
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.small_file import open_regular, read_object
from pytest_vmports.vm.argv import Ram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Template:
    """A template that is in use: its folder is locked against removal while ``lock`` is open."""

    folder: Path
    lock: int

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.folder / "ram"

    @property
    def memory(self) -> Ram:
        """The same as a clone maps it: what it writes stays its own."""
        return Ram(self.ram, share=False)

    def open_state(self) -> BinaryIO:
        """Return the state of its devices, open.

        From the folder that was checked: had another process put a new one in its place since
        QEMU opened the memory, the two would not belong together, and this fails.

        Raises:
            MonitorError: it is not there any more.
        """
        return self._open("state")

    @property
    def console(self) -> str:
        """What the guest wrote to its console before it was saved.

        Raises:
            MonitorError: it is not there any more.
        """
        with self._open("console") as file:
            return file.read().decode(errors="replace")

    def touch(self) -> bool:
        """Note that it is used now; False when it has been given up."""
        try:
            os.utime(_MANIFEST, dir_fd=self.lock)
        except FileNotFoundError:
            return False
        return True

    def give_up(self) -> None:
        """Let nobody begin to use it any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_MANIFEST, dir_fd=self.lock)

    def sound(self, key: str) -> bool:
        """Whether it is what was built for ``key``, to the last file."""
        manifest = read_manifest(self.folder)
        try:
            now = _prints(self.folder)
            facts = self.folder.stat()
        except OSError:
            return False
        return (
            facts.st_uid == os.getuid()
            # Nobody has put another in its place since it was locked.
            and facts.st_ino == os.fstat(self.lock).st_ino
            and manifest.get("key") == key
            and {name: manifest.get(name) for name in now} == now
        )

    def _open(self, name: str) -> BinaryIO:
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.lock)
        except OSError as error:
            reply = f"the template's {name} cannot be read: {error.strerror}"
            raise MonitorError(command="migrate-incoming", reply=reply) from error
        return os.fdopen(file, "rb")


def write_manifest(folder: Path, key: str, facts: Mapping[str, Any]) -> None:
    """Describe what was built, once it has reached the disk.

    Raises:
        OSError: a file is missing or cannot be written.
    """
    for path in _files(folder):
        # A crash of the machine must not leave zeros under a manifest that vouches for them.
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = {"key": key, "facts": dict(facts), "built": clock.wall(), **_prints(folder)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the folder's manifest; an empty one where there is none that can be read."""
    try:
        return read_object(folder / _MANIFEST)
    except (OSError, ValueError):
        return {}


def last_use(folder: Path) -> float:
    """Return when the template was last used, in seconds since the epoch."""
    try:
        return (folder / _MANIFEST).stat().st_mtime
    except FileNotFoundError:  # given up as damaged: first to go
        return 0.0


def size_on_disk(folder: Path) -> int:
    """Return the bytes that the template takes; a memory's untouched pages take none."""
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    except FileNotFoundError:  # removed at this moment
        return 0


def _prints(folder: Path) -> dict[str, Any]:
    """Return what the files must still have to be those that were built.

    Reading a whole memory would take longer than a clone.
    """
    prints = {path.name: fingerprint(path) for path in _files(folder)}
    with os.fdopen(open_regular(folder / "state"), "rb") as file:
        state = hashlib.sha256(file.read())
    return {"files": prints, "state_sha256": state.hexdigest()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != _MANIFEST)

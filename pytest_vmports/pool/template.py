"""One template: the saved state of a guest that was booted once, from which clones start.

It is a folder with ``ram`` (the guest's memory, sparse), ``state`` (its devices), ``console`` (what
it wrote there until then), ``clock`` (the host's time at that moment), what it wrote to its disks
if it has any, and ``manifest.json``. It is named by a key of everything that shapes it, and checked
before it is believed. Sources: QEMU's documentation of ``x-ignore-shared`` and
``memory-backend-file``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import MonitorError
from pytest_vmports.system import clock
from pytest_vmports.system.fingerprint import fingerprint, fingerprint_of
from pytest_vmports.system.private_folder import refusal
from pytest_vmports.system.small_file import open_regular, read_object
from pytest_vmports.vm.argv import Ram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

CLOCK = "clock"
_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_WRITE = 0o222


@dataclass(frozen=True)
class Template:
    """A template that is in use: its folder is locked against removal while ``lock`` is open.

    QEMU before 8.2 opens the memory to write, so a guest that has taken over its own could leave
    something there for the others. So each clone looks, once QEMU has mapped it, whether all files
    are as they were when the template was found sound: that costs some microseconds. Where it lies
    on a tmpfs, whose files do not tell of what is written to them by a mapping, nothing shows; the
    user's cache hardly ever does.

    Attributes:
        folder: its folder.
        lock: that folder, open and locked.
        seen: what its files looked like when it was found sound.
    """

    folder: Path
    lock: int
    seen: dict[str, list[int]] = field(default_factory=dict, compare=False)

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
            MonitorError: it is not there any more, or a file was written to.
        """
        for name, then in self.seen.items():
            try:
                now = fingerprint_of(os.stat(name, dir_fd=self.lock))
            except FileNotFoundError:
                continue  # with all others, see below
            if now != then:
                reply = f"the template's {name} was written to since it was saved"
                raise MonitorError(command="migrate-incoming", reply=reply)
        return self._open("state")

    @property
    def console(self) -> str:
        """What the guest wrote to its console before it was saved.

        Raises:
            MonitorError: it is not there any more.
        """
        with self._open("console") as file:
            return file.read().decode(errors="replace")

    @property
    def saved_at(self) -> float:
        """When it was saved, a `clock.wall` value.

        Raises:
            MonitorError: that is not there any more.
        """
        with self._open(CLOCK) as file:
            return float(file.read())

    @property
    def clock_behind(self) -> float:
        """By how many seconds its clock was behind then: it had been booted, so by none."""
        return 0.0

    def touch(self) -> bool:
        """Note that it is used now; False when it has been given up."""
        try:
            os.utime(_MANIFEST, dir_fd=self.lock)
        except OSError:
            # In a folder that is read-only nobody sweeps by last use either.
            return self._has_manifest()
        return True

    def give_up(self) -> bool:
        """Let nobody begin to use it any more; False where its folder cannot be written."""
        try:
            os.unlink(_MANIFEST, dir_fd=self.lock)
        except OSError:
            return not self._has_manifest()
        return True

    @property
    def writable(self) -> bool:
        """Whether QEMU can open its memory, which before 8.2 it does to write, whatever it maps."""
        return os.access(self.ram, os.W_OK)

    def copy_to(self, folder: Path) -> None:
        """Put a copy of its files into an empty folder; pages that hold nothing take no room.

        Raises:
            StateDirError: it cannot be copied.
        """
        try:
            for file in _files(self.folder):
                _copy(file, folder / file.name)
        except OSError as error:
            raise refusal(folder.parent, error, "free some space") from error

    def _has_manifest(self) -> bool:
        try:
            os.stat(_MANIFEST, dir_fd=self.lock)
        except FileNotFoundError:
            return False
        return True

    def sound(self, key: str) -> bool:
        """Whether it is what was built for ``key``, to the last file."""
        manifest = read_manifest(self.folder)
        try:
            now = _prints(self.folder)
            facts = self.folder.stat()
        except OSError:
            return False
        sound = (
            facts.st_uid == os.getuid()
            # Nobody has put another in its place since it was locked.
            and facts.st_ino == os.fstat(self.lock).st_ino
            and manifest.get("key") == key
            and manifest.get("state_sha256") == now["state_sha256"]
            and manifest.get("files", {}).keys() == now["files"].keys()
            and all(self._unchanged(manifest["files"], now["files"], name) for name in now["files"])
        )
        if sound and not self.seen:
            self.seen.update(now["files"])
        return sound

    def _unchanged(self, then: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
        if then[name] == now[name]:
            return True
        # Made read-only since, which sets the inode's change time and no other.
        read_only = not (self.folder / name).stat().st_mode & _WRITE
        return bool(read_only and then[name][:-1] == now[name][:-1])

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


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # nothing but a hole
            hole = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < hole and (data := os.pread(old.fileno(), min(_CHUNK, hole - at), at)):
                at += os.pwrite(new.fileno(), data, at)

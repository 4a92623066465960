"""One thing of a store: a folder named by a key, with a manifest, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_vmports.system import clock
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.records import Record, read_record
from pytest_vmports.system.small_file import open_regular, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEY_LENGTH = 24
_MANIFEST = "manifest.json"
_WRITE = 0o222


class _Manifest(Record):
    """What says of a folder that it is whole; `Stored.digested` gives it a member each."""

    key: str
    facts: dict[str, Any]
    built: float
    files: dict[str, list[int]]


@dataclass(frozen=True)
class Stored:
    """A folder in use: it is locked against removal while ``lock`` is open.

    Attributes:
        folder: its folder.
        lock: that folder, open and locked.
        seen: what its files looked like when it was found sound.
    """

    folder: Path
    lock: int
    seen: dict[str, list[int]] = field(default_factory=dict, compare=False)

    digested: ClassVar[tuple[str, ...]] = ()
    """Its files of which the content is looked at too, as they are small."""

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

    def sound(self, key: str) -> bool:
        """Whether it is what was built for ``key``, to the last file."""
        try:
            manifest = read_record(self.folder / _MANIFEST, _Manifest).model_dump()
            now = _prints(self.folder, self.digested)
            facts = self.folder.stat()
        except (OSError, ValueError):
            return False
        sound = (
            facts.st_uid == os.getuid()
            # Nobody has put another in its place since it was locked.
            and facts.st_ino == os.fstat(self.lock).st_ino
            and manifest["key"] == key
            and all(manifest.get(name) == now[name] for name in now if name != "files")
            and manifest["files"].keys() == now["files"].keys()
            and all(self._unchanged(manifest["files"], now["files"], name) for name in now["files"])
        )
        if sound and not self.seen:
            self.seen.update(now["files"])
        return sound

    def _has_manifest(self) -> bool:
        try:
            os.stat(_MANIFEST, dir_fd=self.lock)
        except FileNotFoundError:
            return False
        return True

    def _unchanged(self, then: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
        if then[name] == now[name]:
            return True
        # Made read-only since, which sets the inode's change time and no other.
        read_only = not (self.folder / name).stat().st_mode & _WRITE
        return bool(read_only and then[name][:-1] == now[name][:-1])


def write_manifest(
    folder: Path, key: str, facts: Mapping[str, Any], digested: tuple[str, ...] = ()
) -> None:
    """Describe what was built, once it has reached the disk.

    Args:
        folder: of what was built.
        key: what it was built for.
        facts: what the key is made of.
        digested: see `Stored`.

    Raises:
        OSError: a file is missing or cannot be written.
    """
    for path in files_of(folder):
        # A crash of the machine must not leave zeros under a manifest that vouches for them.
        with path.open("rb") as file:
            os.fsync(file.fileno())
    prints = _prints(folder, digested)
    manifest = {"key": key, "facts": dict(facts), "built": clock.wall(), **prints}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the folder's manifest, to be shown; an empty one where there is none to be read.

    What stands in it need not be what we would write: `Stored.sound` tells.
    """
    try:
        return read_object(folder / _MANIFEST)
    except (OSError, ValueError):
        return {}


def last_use(folder: Path) -> float:
    """Return when it was last used, in seconds since the epoch."""
    try:
        return (folder / _MANIFEST).stat().st_mtime
    except FileNotFoundError:  # given up as damaged: first to go
        return 0.0


def size_on_disk(folder: Path) -> int:
    """Return the bytes that it takes; a memory's untouched pages take none."""
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    except FileNotFoundError:  # removed at this moment
        return 0


def files_of(folder: Path) -> list[Path]:
    """Return its files, without the manifest."""
    return sorted(path for path in folder.iterdir() if path.name != _MANIFEST)


def _prints(folder: Path, digested: tuple[str, ...]) -> dict[str, Any]:
    """Return what the files must still have to be those that were built.

    Reading a whole memory would take longer than a clone.
    """
    prints: dict[str, Any] = {"files": {path.name: fingerprint(path) for path in files_of(folder)}}
    for name in digested:
        with os.fdopen(open_regular(folder / name), "rb") as file:
            prints[f"{name}_sha256"] = hashlib.sha256(file.read()).hexdigest()
    return prints

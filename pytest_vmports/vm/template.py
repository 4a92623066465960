"""Templates: the saved state of a guest that was booted once, from which clones start.

A template is a folder with ``ram`` (the guest's memory, sparse), ``state`` (its devices),
``console`` (what it wrote there until then) and ``manifest.json``. It is named by a key of
everything that shapes it, built by one process under a lock, published by a rename, and checked
before it is believed. Sources: QEMU's documentation of ``x-ignore-shared`` and
``memory-backend-file``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock, Timeout

from pytest_vmports.errors import StateDirError, TemplateBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FORMAT = 2
_MANIFEST = "manifest.json"
_LOCK_POLL_SECONDS = 0.02


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
    def state(self) -> Path:
        """The state of its devices."""
        return self.folder / "state"

    @property
    def console(self) -> str:
        """What the guest wrote to its console before it was saved."""
        return (self.folder / "console").read_text(errors="replace")


class TemplateStore:
    """The templates of one user.

    Args:
        base: the folder; None means the user's cache folder.
        limit: bytes on disk that all of them may take; the least recently used go first.
        say: told when there is something to wait for.

    Raises:
        StateDirError: the folder is not this user's alone.
    """

    def __init__(
        self, base: Path | None, limit: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.base = base or Path(platformdirs.user_cache_dir("pytest-vmports")) / "templates"
        self._limit = limit
        self._say = say
        self._open: dict[str, Template] = {}
        try:
            self.base.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateDirError(
                path=str(self.base), reason=str(error), remedy="set cache_dir"
            ) from error
        facts = self.base.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise StateDirError(
                path=str(self.base), reason="others may write to it",
                remedy="make it yours alone (chmod 700), or set cache_dir",
            )  # fmt: skip

    def get(
        self, facts: Mapping[str, Any], build: Callable[[Path], None], timeout: float
    ) -> Template:
        """Return the template for ``facts``, built when it is not there or not sound.

        Args:
            facts: everything that shapes it.
            build: fills a folder with ``ram`` and ``state``; its errors pass through.
            timeout: seconds to wait for another process that builds it.

        Raises:
            TemplateBusyError: another process has been building it for longer.
        """
        key = _key(facts)
        found = self._open.get(key) or self._use(key)
        if found is None:
            lock = FileLock(self.base / f"{key}.lock", poll_interval=_LOCK_POLL_SECONDS)
            self._wait_for_turn(lock, facts, timeout)
            try:
                # Whoever had the lock before has probably built it.
                found = self._use(key) or self._build(key, facts, build)
            finally:
                lock.release()
        self._open[key] = found
        os.utime(found.folder / _MANIFEST)  # its time of last use
        return found

    def discard(self, template: Template) -> None:
        """Give up a template that did not work; the next `get` builds it anew."""
        self._open = {key: t for key, t in self._open.items() if t is not template}
        (template.folder / _MANIFEST).unlink(missing_ok=True)
        os.close(template.lock)

    def entries(self) -> list[tuple[dict[str, Any], int, float]]:
        """Return manifest, bytes on disk and time of last use of each, the latest used first."""
        found = []
        for folder in self._folders():
            try:
                manifest = json.loads((folder / _MANIFEST).read_text())
            except (OSError, ValueError):  # removed at this moment, or damaged: not an entry
                continue
            found.append((manifest, _size(folder), _last_use(folder)))
        return sorted(found, key=lambda entry: -entry[2])

    def clear(self) -> int:
        """Remove every template that nobody uses; return how many were removed."""
        return sum(self._remove(folder) for folder in list(self._folders()))

    def close(self) -> None:
        """Let go of the templates in use. Safe to call again."""
        for template in self._open.values():
            os.close(template.lock)
        self._open.clear()

    def _wait_for_turn(self, lock: FileLock, facts: Mapping[str, Any], timeout: float) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            name = facts.get("name", "guest")
            self._say(f"waiting for another process that builds the template of {name}")
            try:
                lock.acquire(timeout=timeout)
            except Timeout as error:
                raise TemplateBusyError(name=name, timeout=timeout, lock=lock.lock_file) from error

    def _use(self, key: str) -> Template | None:
        """Return the template when it is there and sound."""
        folder = self.base / key
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        # Shared: many use one. Whoever removes a template takes it exclusively.
        fcntl.flock(lock, fcntl.LOCK_SH)
        template = Template(folder, lock)
        if _sound(template, key):
            return template
        # Left where it is: only the holder of the key's lock may remove it, or it could be
        # somebody's who has just built it anew.
        os.close(lock)
        return None

    def _build(self, key: str, facts: Mapping[str, Any], build: Callable[[Path], None]) -> Template:
        # We have the key's lock, so what lies here is of builders that were killed.
        for remains in self.base.glob(f"{key}.building-*"):
            shutil.rmtree(remains, ignore_errors=True)
        folder = self.base / f"{key}.building-{os.getpid()}"
        folder.mkdir(mode=0o700)
        try:
            build(folder)
            manifest = {"key": key, "facts": dict(facts), "built": time.time(), **_prints(folder)}
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))
            shutil.rmtree(self.base / key, ignore_errors=True)  # damaged, or it would be used
            folder.rename(self.base / key)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        template = self._use(key)
        if template is None:
            raise StateDirError(
                path=str(self.base / key), reason="a template vanished as soon as it was built",
                remedy="look who cleans this folder, or set cache_dir",
            )  # fmt: skip
        self._evict(keep=key)
        return template

    def _evict(self, keep: str) -> None:
        sizes = {folder: _size(folder) for folder in self._folders()}
        total = sum(sizes.values())
        by_use = sorted(sizes, key=_last_use)
        for folder in by_use:
            if total <= self._limit:
                return
            if folder.name != keep and self._remove(folder):
                total -= sizes[folder]

    def _remove(self, folder: Path) -> bool:
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # in use, by somebody or by us
            return False
        else:
            shutil.rmtree(folder, ignore_errors=True)
            return True
        finally:
            os.close(lock)

    def _folders(self) -> Iterator[Path]:
        return (f for f in self.base.iterdir() if f.is_dir() and ".building-" not in f.name)


def _key(facts: Mapping[str, Any]) -> str:
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _prints(folder: Path) -> dict[str, Any]:
    """Return what a file must still have to be the one that was built.

    The inode and its change time cannot be set back by a program: a copied, restored, truncated or
    written file shows, at no cost of reading a whole memory.
    """
    prints = {}
    for name in ("ram", "state"):
        facts = (folder / name).stat()
        prints[name] = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    return {"files": prints, "state_sha256": _sha256(folder / "state")}


def _sound(template: Template, key: str) -> bool:
    try:
        manifest = json.loads((template.folder / _MANIFEST).read_text())
        owner = template.folder.stat().st_uid
        now = _prints(template.folder)
    except (OSError, ValueError):
        return False
    return (
        owner == os.getuid()
        and manifest.get("key") == key
        and {name: manifest.get(name) for name in now} == now
    )


def _last_use(folder: Path) -> float:
    try:
        return (folder / _MANIFEST).stat().st_mtime
    except FileNotFoundError:  # given up as damaged: first to go
        return 0.0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    except FileNotFoundError:  # removed at this moment
        return 0

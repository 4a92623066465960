"""What is built once and used by many: by one process, under a lock, published by a rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from filelock import FileLock, Timeout

from pytest_vmports.errors import StateDirError
from pytest_vmports.system import clock
from pytest_vmports.system.private_folder import WRITE_ACCESS, make_private, refusal
from pytest_vmports.system.progress import for_whom, slowly
from pytest_vmports.system.stored import (
    KEY_LENGTH,
    Stored,
    last_use,
    read_manifest,
    size_on_disk,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

One = TypeVar("One", bound=Stored)

# Nothing else is ever removed: the folder may be one that somebody keeps other things in.
_OURS = re.compile(rf"(?P<key>[0-9a-f]{{{KEY_LENGTH}}})(?P<building>\.building-\d+)?")
_LOCK_POLL_SECONDS = 0.02


class Store(ABC, Generic[One]):
    """A folder of them, of one user.

    Args:
        base: the folder.
        limit: bytes on disk that all of them may take; the least recently used go first.
        say: told when there is something to wait for.

    Raises:
        StateDirError: the folder is not this user's alone.
    """

    word: ClassVar[str]
    """What one of them is called."""
    doing: ClassVar[str]
    """What the process does that builds one, before the name of what it is for."""
    remedy: ClassVar[str]
    """What to do where nothing can be kept here."""
    digested: ClassVar[tuple[str, ...]] = ()
    """Files of which the content is looked at too, as they are small."""

    def __init__(self, base: Path, limit: int, say: Callable[[str], None] = lambda _: None) -> None:
        self.base = base
        self._limit = limit
        self._say = say
        self._open: dict[str, One] = {}
        self._make()

    @staticmethod
    @abstractmethod
    def key(facts: Mapping[str, Any]) -> str:
        """Return the name under which what has these facts is kept, and no other."""

    @abstractmethod
    def _opened(self, folder: Path, lock: int) -> One:
        """Return what a folder holds, which is open and locked as long as ``lock`` is."""

    @abstractmethod
    def _busy(self, name: str, timeout: float, lock: str) -> Exception:
        """Return the error of whoever has waited too long for another process."""

    def get(self, facts: Mapping[str, Any], build: Callable[[Path], None], timeout: float) -> One:
        """Return what is kept for ``facts``, built when it is not there or not sound.

        Args:
            facts: everything that shapes it.
            build: fills a folder; its errors pass through.
            timeout: seconds to wait for another process that builds it.

        Raises:
            VmPortsError: another process has been building it for longer.
            StateDirError: nothing can be kept here.
        """
        found = self.use(facts)
        if found is not None:
            return found
        key = self.key(facts)
        lock = FileLock(self.base / f"{key}.lock", poll_interval=_LOCK_POLL_SECONDS)
        self._make()  # somebody may have removed it since
        with self.refusing():
            # Where no file can be made filelock may go on trying.
            os.close(os.open(lock.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._wait_for_turn(lock, facts, timeout)
        try:
            # Whoever had the lock before has probably built it.
            return self.use(facts) or self._build(key, facts, build)
        finally:
            lock.release()

    def use(self, facts: Mapping[str, Any]) -> One | None:
        """Return what is kept for ``facts`` when it is there and sound; nothing is written.

        Raises:
            StateDirError: the folder cannot be read.
        """
        key = self.key(facts)
        found = self._open.get(key)
        if found is not None and not found.touch():  # given up by another process, or removed
            os.close(self._open.pop(key).lock)
            found = None
        with self.refusing():
            found = found or self._use(key)
        if found is not None:
            self._open[key] = found
            found.touch()
        return found

    def discard(self, one: One) -> bool:
        """Give up one that did not work; the next `get` builds it anew.

        Returns:
            False where it stays, for nothing can be written here.
        """
        self._open = {key: it for key, it in self._open.items() if it is not one}
        gone = one.give_up()
        os.close(one.lock)
        return gone

    def entries(self) -> list[tuple[dict[str, Any], int, float]]:
        """Return manifest, bytes on disk and time of last use of each, the latest used first."""
        found = []
        for folder in self._folders():
            manifest = read_manifest(folder)
            if manifest.get("key") == folder.name:  # else damaged, or removed at this moment
                found.append((manifest, size_on_disk(folder), last_use(folder)))
        return sorted(found, key=lambda entry: -entry[2])

    def clear(self) -> int:
        """Remove all that nobody uses; return how many were removed.

        Raises:
            StateDirError: the folder is read-only.
        """
        with self.refusing():
            self._sweep()
            return sum(self._remove(folder) for folder in self._folders())

    def close(self) -> None:
        """Let go of those in use. Safe to call again."""
        for one in self._open.values():
            os.close(one.lock)
        self._open.clear()

    def _make(self) -> None:
        make_private(
            self.base, remedy=self.remedy, forbidden=WRITE_ACCESS, parents=True, follow=True
        )

    def _wait_for_turn(self, lock: FileLock, facts: Mapping[str, Any], timeout: float) -> None:
        if _acquired(lock):
            return
        name = str(facts.get("name", "guest"))
        what = f"waiting for another process that {self.doing} {name}"
        # Counted here: filelock's own timeout is counted by a clock that tests stop.
        deadline = clock.now() + timeout
        with slowly(self._say, for_whom(what)):
            while not _acquired(lock):
                if clock.now() >= deadline:
                    raise self._busy(name, timeout, lock.lock_file)
                clock.sleep(_LOCK_POLL_SECONDS)

    def _use(self, key: str) -> One | None:
        """Return it when it is there and sound."""
        folder = self.base / key
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Shared: many use one. Whoever removes it takes it exclusively.
        fcntl.flock(lock, fcntl.LOCK_SH)
        one = self._opened(folder, lock)
        if one.sound(key):
            return one
        # Left where it is: only the holder of the key's lock may remove it, or it could be
        # somebody's who has just built it anew.
        os.close(lock)
        return None

    def _build(self, key: str, facts: Mapping[str, Any], build: Callable[[Path], None]) -> One:
        folder = self.base / f"{key}.building-{os.getpid()}"
        with self.refusing():
            self._remove_remains(key)
            folder.mkdir(mode=0o700)
        try:
            build(folder)
            with self.refusing():
                write_manifest(folder, key, facts, self.digested)
                self._retire(key)
                folder.rename(self.base / key)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        one = self.use(facts)
        if one is None:
            raise StateDirError(
                path=str(self.base / key), reason=f"{self.word} vanished as soon as it was built",
                remedy=f"look who cleans this folder, or {self.remedy}",
            )  # fmt: skip
        with self.refusing():
            self._evict(keep=key)
        return one

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Make what the folder refuses, as one that is read-only or full, an error that says so."""
        try:
            yield
        except OSError as error:
            # Descriptors are this process's to run out of, wherever it keeps its files.
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise
            raise refusal(self.base, error, self.remedy) from error

    def _retire(self, key: str) -> None:
        """Remove what has the key's name: it is damaged, or it would be used."""
        old = self.base / f"{key}.building-0"
        shutil.rmtree(old, ignore_errors=True)
        # By a rename, so that nobody finds half of it: QEMU makes a memory file that is missing.
        with contextlib.suppress(FileNotFoundError):
            (self.base / key).rename(old)
            shutil.rmtree(old, ignore_errors=True)

    def _remove_remains(self, key: str) -> None:
        """Remove what killed builders left. Who calls this holds the key's lock."""
        for remains in self._folders(building=True):
            if remains.name.startswith(key):
                shutil.rmtree(remains, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed builders left of what nobody may ever ask for again."""
        for key in {folder.name[:KEY_LENGTH] for folder in self._folders(building=True)}:
            with contextlib.suppress(Timeout), self._locked_now(key):
                self._remove_remains(key)

    def _locked_now(self, key: str) -> AbstractContextManager[object]:
        return FileLock(self.base / f"{key}.lock").acquire(blocking=False)

    def _evict(self, keep: str) -> None:
        self._sweep()
        sizes = {folder: size_on_disk(folder) for folder in self._folders()}
        total = sum(sizes.values())
        by_use = sorted(sizes, key=last_use)
        for folder in by_use:
            if total <= self._limit:
                return
            if folder.name != keep and self._remove(folder):
                total -= sizes[folder]

    def _remove(self, folder: Path) -> bool:
        """Remove one unless somebody uses or builds it; return whether it was removed."""
        # The key's lock, or it could be one that was built anew since it was found unused.
        with contextlib.suppress(Timeout, FileNotFoundError), self._locked_now(folder.name):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._retire(folder.name)
            except BlockingIOError:  # in use, by somebody or by us
                return False
            finally:
                os.close(lock)
            return True
        return False

    def _folders(self, *, building: bool = False) -> list[Path]:
        """Return the folders, or what is being built."""
        named = ((folder, _OURS.fullmatch(folder.name)) for folder in self.base.iterdir())
        return [
            folder
            for folder, name in named
            if name and bool(name["building"]) == building and folder.is_dir()
        ]


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True

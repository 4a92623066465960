"""A private folder per process for sockets, consoles and initrds; remains of the dead are swept.

Each folder is locked by its process for as long as it lives. After a SIGKILL the folder stays, and
the next process that makes one removes it: its lock is free.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import lock_descriptor

from pytest_vmports.system.private_folder import make_private, refusal

if TYPE_CHECKING:
    from typing_extensions import Self

# Longest path of a Unix socket is 107 bytes on Linux, 103 on macOS; ours add about 45.
_LONGEST_BASE = 55
REMEDY = "make it writable, free some space, or set TMPDIR"


class RunDir:
    """A locked, private (0700) folder; a context manager that removes it.

    Args:
        base: where to make it; None means the system's folder for temporary files.

    Raises:
        StateDirError: the folder cannot be made.
    """

    path: Path
    _lock: int | None

    def __init__(self, base: Path | None = None) -> None:
        parent = base or default_base("run")
        make_private(parent, remedy=REMEDY)
        try:
            self.path, self._lock = _make_locked(parent)
        except OSError as error:
            raise refusal(parent, error, REMEDY) from error
        self._pid = os.getpid()
        sweep(parent)

    def close(self) -> None:
        """Remove the folder. Safe to call again; does nothing in a forked child."""
        if self._lock is not None and os.getpid() == self._pid:
            shutil.rmtree(self.path)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dead_folders(base: Path | None = None) -> list[Path]:
    """Return the folders whose process is gone; the next run removes them."""
    parent = base or default_base("run")
    dead = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        fd = _lock(folder, blocking=False)
        if fd is not None:
            os.close(fd)
            dead.append(folder)
    return dead


def sweep(parent: Path) -> None:
    """Remove the folders that no process holds a lock on; what is no folder is left alone."""
    for folder in parent.iterdir():
        remove_unused(folder)


def remove_unused(folder: Path) -> None:
    """Remove a folder, unless a process holds a lock on it."""
    fd = _lock(folder, blocking=False)
    if fd is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def temporary_folder() -> Path:
    """Return the system's folder for temporary files.

    Raises:
        StateDirError: none can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # names those that it has tried
        path = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - only told
        raise refusal(Path(path), error, REMEDY) from error


def default_base(kind: str) -> Path:
    """Return this user's folder for temporary things of a kind; it may not be there.

    Raises:
        StateDirError: no folder for temporary files can be written.
    """
    base = temporary_folder()
    if len(os.fsencode(base)) > _LONGEST_BASE or not _can_be_told(base):
        base = Path("/tmp")  # noqa: S108 - what lies below is private and verified
    return base / f"pytest-vmports-{os.getuid()}-{kind}"


def _can_be_told(path: Path) -> bool:
    """Whether QEMU's monitor and ssh's configuration have a word for a path.

    The one takes JSON, which holds UTF-8 alone, the other lines.
    """
    try:
        text = os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return text.isprintable()


def _make_locked(parent: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="r", dir=parent))
        fd = _lock(folder, blocking=True)
        # Until it was locked it looked like a dead process's, and may have been swept.
        if fd is not None and folder.exists():
            return folder, fd
        if fd is not None:
            os.close(fd)


def _lock(folder: Path, *, blocking: bool) -> int | None:
    """Return a descriptor that holds the folder's lock; None when it is gone or somebody's.

    What cannot be opened as a folder is nobody's run either; only one that we made has to be.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT or not blocking:
            return None
        raise
    if lock_descriptor(fd, blocking=blocking):
        return fd
    os.close(fd)
    return None

"""A private folder per process for sockets, consoles and initrds; remains of the dead are swept.

Each folder is locked by its process for as long as it lives. After a SIGKILL the folder stays, and
the next process that makes one removes it: its lock is free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from pytest_vmports.errors import StateDirError

# Longest path of a Unix socket is 107 bytes on Linux, 103 on macOS; ours add about 45.
_LONGEST_BASE = 55


class RunDir:
    """A locked, private (0700) folder; a context manager that removes it.

    Args:
        base: where to make it; None means the system's folder for temporary files.

    Raises:
        StateDirError: the folder cannot be made.
    """

    def __init__(self, base: Path | None = None) -> None:
        parent = base or _default_base()
        try:
            _make_private(parent)
            self.path = Path(tempfile.mkdtemp(prefix="r", dir=parent))
        except OSError as error:
            raise StateDirError(
                path=str(parent), reason=error.strerror or str(error),
                remedy="make it writable, free some space, or set TMPDIR",
            ) from error  # fmt: skip
        self._pid = os.getpid()
        self._lock = _lock(self.path)
        _sweep(parent)

    def close(self) -> None:
        """Remove the folder. Safe to call again; does nothing in a forked child."""
        if self._lock is not None and os.getpid() == self._pid:
            shutil.rmtree(self.path)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _default_base() -> Path:
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST_BASE:
        base = Path("/tmp")  # noqa: S108 - what lies below is private and verified
    return base / f"pytest-vmports-{os.getuid()}-run"


def _make_private(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if folder.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise StateDirError(
            path=str(folder), reason="it is not a folder of this user alone (mode 0700)",
            remedy="remove it",
        )  # fmt: skip


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, or None when somebody has it."""
    from filelock import lock_descriptor

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # swept by somebody else at this moment
        return None
    if lock_descriptor(fd, blocking=False):
        return fd
    os.close(fd)
    return None


def _sweep(parent: Path) -> None:
    for folder in parent.iterdir():
        fd = _lock(folder) if folder.is_dir() else None
        if fd is None:
            continue
        # One that was made and not yet locked would look like a dead one's; it is empty, and its
        # maker is about to lock it. So only what has content is removed.
        if any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)

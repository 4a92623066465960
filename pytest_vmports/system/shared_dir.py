"""A private folder that all processes of one test run share; remains of dead runs are swept.

Each process holds a shared lock on it while it uses it. Who leaves last removes it; what a killed
run left is found by its free lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.system.private_folder import make_private, refusal
from pytest_vmports.system.run_dir import REMEDY, default_base, remove_unused, sweep

if TYPE_CHECKING:
    from typing_extensions import Self


class SharedDir:
    """A folder of this user alone, the same for every process that names the same run.

    Args:
        run: names the run.
        base: where to make it; None means the system's folder for temporary files.

    Raises:
        StateDirError: the folder cannot be made.
    """

    _lock: int | None

    def __init__(self, run: str, base: Path | None = None) -> None:
        parent = base or default_base("shared")
        make_private(parent, remedy=REMEDY)
        # Whoever runs the tests may choose the name.
        self.path: Path = parent / hashlib.sha256(run.encode()).hexdigest()[:16]
        try:
            self._lock = _join(self.path)
            sweep(parent)
        except OSError as error:
            raise refusal(parent, error, REMEDY) from error
        self._pid = os.getpid()

    def close(self) -> None:
        """Leave it; the last one removes it. Safe to call again; nothing in a forked child."""
        if self._lock is not None and os.getpid() == self._pid:
            os.close(self._lock)
            self._lock = None
            remove_unused(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _join(folder: Path) -> int:
    """Return the descriptor that holds our shared lock on a folder, made when it is not there."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # the last one of its run has just left
        if _lock(fd, fcntl.LOCK_EX):
            # Nobody uses it: what lies there is a dead run's of the same name.
            for remains in Path(folder).iterdir():
                _remove(remains)
        fcntl.flock(fd, fcntl.LOCK_SH)
        # Before it was locked it looked unused, and may have been removed.
        if folder.exists() and folder.stat().st_ino == os.fstat(fd).st_ino:
            return fd
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

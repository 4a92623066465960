"""Folders that are one user's alone: whoever else could write there could take or break things."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import StateDirError

if TYPE_CHECKING:
    from pathlib import Path

ANY_ACCESS: Final = 0o077
WRITE_ACCESS: Final = 0o022


def user_id() -> int:
    """Return the number of the user whose folders these are; 0 where users have none."""
    return os.geteuid() if sys.platform != "win32" else 0


def make_private(
    folder: Path,
    *,
    remedy: str,
    forbidden: int = ANY_ACCESS,
    parents: bool = False,
    follow: bool = False,
) -> None:
    """Make a folder of this user alone (mode 0700), or see that the one that is there is.

    Args:
        folder: the folder.
        remedy: what to do where another place is the answer.
        forbidden: what others must not be allowed, as bits of a mode.
        parents: make what is missing above it too, as private.
        follow: a symbolic link may lead to it.

    Raises:
        StateDirError: it cannot be made, or is not such a folder.
    """
    try:
        if parents:
            for above in reversed([above for above in folder.parents if not above.exists()]):
                above.mkdir(mode=0o700, exist_ok=True)
        # Also a symbolic link or a file may be there; what follows tells which.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        facts = folder.stat() if follow else folder.lstat()
    except OSError as error:
        raise refusal(folder, error, remedy) from error
    problem = _problem(folder, facts, forbidden, remedy)
    if problem:
        reason, remedy = problem
        raise StateDirError(path=str(folder), reason=reason, remedy=remedy)


def refusal(folder: Path, error: OSError, remedy: str) -> StateDirError:
    """Return what to raise for a folder that the system refuses."""
    return StateDirError(path=str(folder), reason=error.strerror or str(error), remedy=remedy)


def _problem(
    folder: Path, facts: os.stat_result, forbidden: int, elsewhere: str
) -> tuple[str, str] | None:
    """Return what is wrong with a folder and what to do, or None."""
    if stat.S_ISLNK(facts.st_mode):
        return "it is a symbolic link, which could lead anywhere", "remove the link"
    if not stat.S_ISDIR(facts.st_mode):
        return "it is not a directory", "remove the file"
    if sys.platform == "win32":
        return None  # knows neither owners nor modes
    if facts.st_uid != user_id():
        return f"it belongs to user {facts.st_uid} and we are {user_id()}", elsewhere
    if facts.st_mode & forbidden:
        may = "use it" if forbidden & ~WRITE_ACCESS else "write to it"
        mode = f"{stat.S_IMODE(facts.st_mode):04o}"
        return (
            f"others may {may} (mode {mode})",
            f"run: chmod 700 {shlex.quote(str(folder))}; or {elsewhere}",
        )
    return None

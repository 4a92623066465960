"""The directory of the lock files: one per user and network namespace, shared by everything.

Two checkouts, two virtual environments and two versions of this plugin must meet in the same
directory, or they could give one port to two tests. Whoever can write there can take or break
leases, so it is private, and anything odd about it is an error, never a fallback.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from pytest_vmports.errors import StateDirError

STATE_DIR_VARIABLE: Final = "VMPORTS_STATE_DIR"
MOUNTINFO: Final = Path("/proc/self/mountinfo")
NETNS: Final = Path("/proc/self/ns/net")

# Their flock is missing, or seen by one machine only, or emulated with other locks.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "lustre"),
        *("glusterfs", "gpfs", "ocfs2", "beegfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
    }
)

_ELSEWHERE: Final = f"set {STATE_DIR_VARIABLE} to a directory of your own on a local file system"


def default_base() -> Path:
    """Return where the state directory lies when nobody says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # `sudo -E` keeps the variable of the other user: a directory of ours in there would lock
    # that user out of it. A stale variable (su, cron) points nowhere.
    if runtime and _owner(runtime) == _user():
        return Path(runtime) / "pytest-vmports"
    return Path(tempfile.gettempdir()) / f"pytest-vmports-{_user()}"


def network_namespace() -> str:
    """Return a name for our network namespace; ports are counted per namespace."""
    try:
        return f"net-{NETNS.stat().st_ino}"
    except OSError:
        # Not Linux, or no /proc: the machine has the one.
        return "host"


def state_dir_path(override: Path | str | None = None) -> Path:
    """Return the directory of the lock files without making it.

    Args:
        override: the base directory; None means ``VMPORTS_STATE_DIR``, else the default.
    """
    base = override or os.environ.get(STATE_DIR_VARIABLE) or default_base()
    return Path(base).absolute() / network_namespace()


def make_state_dir(override: Path | str | None = None) -> Path:
    """Make the directory of the lock files, verify it and return it.

    Args:
        override: the base directory; None means ``VMPORTS_STATE_DIR``, else the default.

    Raises:
        StateDirError: it cannot be made, is a symbolic link, belongs to somebody else, is open
            to others, or lies on a network file system.
    """
    path = state_dir_path(override)
    missing = [folder for folder in path.parent.parents if not folder.exists()]
    for folder in reversed(missing):
        _make(folder)
    # One after the other: what is made inside a symbolic link is made somewhere else.
    _make(path.parent)
    _verify(path.parent, forbidden=0o022)
    _make(path)
    _verify(path, forbidden=0o077)
    _verify_surroundings(path.parent)
    kind = network_file_system(path)
    if kind:
        raise StateDirError(
            path=str(path),
            reason=f"it lies on a network file system ({kind}), whose locks cannot be trusted",
            remedy=_ELSEWHERE,
        )
    return path


def network_file_system(path: Path, mountinfo: Path = MOUNTINFO) -> str:
    """Return the type of the network file system that ``path`` lies on, or ``""``."""
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        # Linux only; elsewhere a lock that the file system refuses is what we see.
        return ""
    real = str(path.resolve())
    longest, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")  # a space is written \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of several mounts on one point the last one is seen, hence >=.
        if inside and len(point) >= longest:
            longest, kind = len(point), right.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        # Also a symbolic link or a file; _verify tells which.
        return
    except OSError as error:
        raise _refusal(folder, error) from error


def _verify(folder: Path, forbidden: int) -> None:
    try:
        facts = folder.lstat()
    except OSError as error:
        raise _refusal(folder, error) from error
    if stat.S_ISLNK(facts.st_mode):
        reason, remedy = "it is a symbolic link, which could lead anywhere", "remove the link"
    elif not stat.S_ISDIR(facts.st_mode):
        reason, remedy = "it is not a directory", "remove the file"
    elif facts.st_uid != _user() and sys.platform != "win32":
        reason = f"it belongs to user {facts.st_uid} and we are {_user()}"
        remedy = _ELSEWHERE
    elif facts.st_mode & forbidden and sys.platform != "win32":
        reason = f"others may use it (mode {stat.S_IMODE(facts.st_mode):04o})"
        remedy = f"run: chmod 700 {folder}"
    else:
        return
    raise StateDirError(path=str(folder), reason=reason, remedy=remedy)


def _verify_surroundings(folder: Path) -> None:
    facts = folder.parent.stat()
    others_write = facts.st_mode & 0o002
    if others_write and not facts.st_mode & stat.S_ISVTX and sys.platform != "win32":
        raise StateDirError(
            path=str(folder),
            reason=f"{folder.parent} lets everybody rename what is in it",
            remedy=f"run: chmod +t {folder.parent}",
        )


def _refusal(path: Path, error: OSError) -> StateDirError:
    return StateDirError(path=str(path), reason=error.strerror or str(error), remedy=_ELSEWHERE)


def _owner(path: str) -> int | None:
    try:
        return Path(path).stat().st_uid
    except OSError:
        return None


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else 0

"""The directory of the lock files: one per user and network namespace, shared by everything.

Two checkouts, two virtual environments and two versions of this plugin must meet in the same
directory, or they could give one port to two tests. Whoever can write there can take or break
leases, so it is private, and anything odd about it is an error, never a fallback.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Final

from pytest_vmports.errors import StateDirError
from pytest_vmports.system.paths import absolute
from pytest_vmports.system.private_folder import WRITE_ACCESS, make_private, user_id
from pytest_vmports.system.run_dir import temporary_folder

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

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")  # a space is written \040
_ELSEWHERE: Final = f"set {STATE_DIR_VARIABLE} to a directory of your own on a local file system"


def default_base() -> Path:
    """Return where the state directory lies when nobody says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # `sudo -E` keeps the variable of the other user: a directory of ours in there would lock
    # that user out of it. A stale variable (su, cron) points nowhere.
    if runtime and _owner(runtime) == user_id():
        return Path(runtime) / "pytest-vmports"
    return temporary_folder() / f"pytest-vmports-{user_id()}"


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
    try:
        return absolute(base) / network_namespace()
    except ValueError as error:
        raise StateDirError(path=str(base), reason=str(error), remedy=_ELSEWHERE) from error


def make_state_dir(override: Path | str | None = None) -> Path:
    """Make the directory of the lock files, verify it and return it.

    Args:
        override: the base directory; None means ``VMPORTS_STATE_DIR``, else the default.

    Raises:
        StateDirError: it cannot be made, is a symbolic link, belongs to somebody else, is open
            to others, or lies on a network file system.
    """
    path = state_dir_path(override)
    # One after the other: what is made inside a symbolic link is made somewhere else.
    make_private(path.parent, remedy=_ELSEWHERE, forbidden=WRITE_ACCESS, parents=True)
    make_private(path, remedy=_ELSEWHERE)
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
        lines = mountinfo.read_bytes().splitlines()
    except OSError:
        # Linux only; elsewhere a lock that the file system refuses is what we see.
        return ""
    real = os.fsencode(path.resolve())
    longest, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(b" - ")
        point = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), left.split()[4])
        inside = real == point or real.startswith(point.rstrip(b"/") + b"/")
        # Of several mounts on one point the last one is seen, hence >=.
        if inside and len(point) >= longest:
            longest, kind = len(point), right.split()[0].decode("ascii", "replace")
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def _verify_surroundings(folder: Path) -> None:
    facts = folder.parent.stat()
    others_write = facts.st_mode & 0o002
    if others_write and not facts.st_mode & stat.S_ISVTX and sys.platform != "win32":
        raise StateDirError(
            path=str(folder),
            reason=f"{folder.parent} lets everybody rename what is in it",
            remedy=f"run: chmod +t {folder.parent}",
        )


def _owner(path: str) -> int | None:
    try:
        return Path(path).stat().st_uid
    except OSError:
        return None

"""Links that came out of a guest: known as such, so that no copy of ours follows one elsewhere.

They are kept as the guest has them, and may lead anywhere on the host. Who copies to or from a path
of the host later may have one on the way: a guest would write there, or be given what is there.
"""

from __future__ import annotations

import os
import stat

from pytest_vmports.errors import GuestFileError
from pytest_vmports.system.mishaps import printable

# The fraction of their times, by which they are known: it stays with them when they are moved, are
# copied with their times, and in later runs.
_FRACTION, _SECOND = 141_592_653, 1_000_000_000
# As many as Linux follows.
_MOST = 40


def mark(path: str | os.PathLike[str], seconds: float) -> None:
    """Give a link that a guest sent its time, and with it the sign that it is one.

    Raises:
        OSError: it is not ours.
    """
    # A time out of a file system's range loses its fraction.
    for whole in (int(seconds), 0):
        when = whole * _SECOND + _FRACTION
        os.utime(path, ns=(when, when), follow_symlinks=False)
        if _is_a_guests(os.lstat(path)):
            return


def refuse(path: str) -> None:
    """See that no link of a guest's leads on the way of a path to somewhere else.

    Raises:
        GuestFileError: one does.
    """
    link = _on_the_way(path)
    if link is not None:
        way, link = (printable(one.replace("\n", "\\n")) for one in (path, link))
        raise GuestFileError(
            what=f"{way} leads through {link}, a link that came out of a guest",
            remedy="look where it leads: name that place itself, or remove the link",
        )


def _on_the_way(path: str) -> str | None:
    """Return the first link of a guest's that a path leads through and that leaves its folder."""
    here, left = "/" if path.startswith("/") else ".", path.split("/")[::-1]
    links = 0
    while left and links < _MOST:
        one = os.path.join(here, left.pop())  # noqa: PTH118 - which keeps each dot
        try:
            seen = os.lstat(one)
            target = os.readlink(one) if stat.S_ISLNK(seen.st_mode) else None  # noqa: PTH115
        except (OSError, ValueError):  # it is for others to tell that it is not there
            return None
        if target is None:
            here = one
            continue
        ways = target.split("/")[::-1]
        leaves = target.startswith("/") or ".." in ways
        if leaves and _is_a_guests(seen):
            return one
        links += 1
        left += ways
        here = "/" if target.startswith("/") else here
    return None


def _is_a_guests(link: os.stat_result) -> bool:
    return link.st_mtime_ns % _SECOND == _FRACTION

"""What tells that a file is still the one that was seen, without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from pathlib import Path


def fingerprint(path: Path) -> list[int]:
    """Return size, inode, and times of modification and of the inode's change, in ns.

    A program can set back neither the inode nor its change time, so a file that was copied,
    restored, truncated or written shows.

    Raises:
        OSError: it cannot be looked at.
    """
    return fingerprint_of(path.stat())


def fingerprint_of(facts: os.stat_result) -> list[int]:
    """Return the same of what is known of a file."""
    return [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]

"""Where a user's programs keep what they can make again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from pytest_vmports.errors import StateDirError


def user_cache(setting: str) -> Path:
    """Return our folder in the user's cache folder; it may not be there.

    Args:
        setting: names another folder.

    Raises:
        StateDirError: the user has no home.
    """
    try:
        # Made of HOME, or of the list of users, which a number without a name is not in.
        cache = Path(platformdirs.user_cache_dir("pytest-vmports"))
    except RuntimeError:
        cache = Path("~")
    # Older releases of platformdirs take an empty HOME for the root folder.
    is_root = os.environ.get("HOME") == "" and cache.parts[1:2] == (".cache",)
    if is_root or not cache.is_absolute():
        raise StateDirError(
            path="~/.cache/pytest-vmports",
            reason="no home directory is known for this user, and HOME is not set",
            remedy=f"set HOME, XDG_CACHE_HOME or {setting}",
        )
    return cache

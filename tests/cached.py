"""What tests make once and keep in the user's cache folder, for later runs and other checkouts."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable

_OLD_SECONDS = 7 * 24 * 3600


def cached(name: str, source: bytes, make: Callable[[Path], None]) -> Path:
    """Return the folder of what ``make`` puts into an empty one, made when it is not there.

    Args:
        name: what it is.
        source: everything that shapes it; with another source another folder is made.
        make: called in one process at a time.
    """
    cache = Path(platformdirs.user_cache_dir("pytest-vmports-tests"))
    folder = cache / f"{name}-{hashlib.sha256(source).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f"{name}.lock"):
        if not folder.exists():
            for old in cache.glob(f"{name}-*"):
                # Not those that another checkout may be using.
                if time.time() - old.stat().st_mtime > _OLD_SECONDS:
                    shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=cache, prefix="part-") as part:
                make(Path(part))
                Path(part).chmod(0o755)
                Path(part).rename(folder)
                Path(part).mkdir()  # for the context to remove
    return folder

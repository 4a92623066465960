"""What tests make once and keep in the user's cache folder, for later runs and other checkouts."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable

_UNUSED_SECONDS = 7 * 24 * 3600


class CannotMakeError(Exception):
    """What should be made cannot be made now; the text tells why."""


def cached(
    name: str, source: bytes, make: Callable[[Path], None], *, days: float | None = None
) -> Path:
    """Return the folder of what ``make`` puts into an empty one, made when it is not there.

    Args:
        name: what it is; no other may begin with this and a dash.
        source: everything that shapes it; with another source another folder is made.
        make: called in one process at a time; may raise `CannotMakeError`.
        days: how old it may be; an older one is used only when it cannot be made anew.

    Raises:
        CannotMakeError: it cannot be made, and there is no older one.
    """
    cache = Path(platformdirs.user_cache_dir("pytest-vmports-tests"))
    cache.mkdir(parents=True, exist_ok=True)
    prefix = f"{name}-{hashlib.sha256(source).hexdigest()[:12]}-"
    with filelock.FileLock(cache / f"{name}.lock"):
        # The name ends with the time of making: that of the folder itself is when it was last used.
        newest = max(cache.glob(f"{prefix}*"), key=_made, default=None)
        if newest is None or (days is not None and time.time() - _made(newest) > days * 86400):
            newest = _renewed(cache, f"{prefix}{int(time.time())}", make, newest)
        os.utime(newest)
        for other in cache.glob(f"{name}-*"):
            # Not those that another checkout, or a run that began before, may be using.
            if time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(other)
    return newest


def _made(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _renewed(cache: Path, name: str, make: Callable[[Path], None], older: Path | None) -> Path:
    with tempfile.TemporaryDirectory(dir=cache, prefix="part-") as part:
        try:
            make(Path(part))
        except CannotMakeError as error:
            if older is None:
                raise
            made = time.strftime("%Y-%m-%d", time.localtime(_made(older)))
            print(f"{error}\nusing what was made on {made} instead", file=sys.stderr)
            return older
        Path(part).chmod(0o755)
        Path(part).rename(cache / name)
        Path(part).mkdir()  # for the context to remove
    return cache / name

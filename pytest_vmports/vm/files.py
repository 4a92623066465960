"""Those files of a VM's private folder that a report may want, also when the folder is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Files:
    """Files by name.

    Args:
        names: what they are called; none of them needs to be there.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._open: dict[str, int] = {}

    def keep(self, folder: Path) -> None:
        """Keep what is in ``folder`` readable: it is about to be removed.

        As open descriptors, so that nothing is left on the disk when we are killed; they are closed
        when this object is let go.
        """
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                self._open[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, _close, list(self._open.values()))

    def copy(self, folder: Path, target: Path) -> None:
        """Copy them, from ``folder`` as long as it is there.

        Raises:
            OSError: they cannot be copied.
        """
        for name in self._names:
            if name in self._open:
                with os.fdopen(os.dup(self._open[name]), "rb") as source:
                    source.seek(0)
                    with (target / name).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
            elif (folder / name).exists():
                shutil.copyfile(folder / name, target / name)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

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

    Attributes:
        names: the same.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._open: dict[str, int] = {}

    def keep(self, folder: Path) -> None:
        """Keep what is in ``folder`` readable: it is about to be removed.

        As open descriptors, so that nothing is left on the disk when we are killed; they are closed
        when this object is let go.
        """
        for name in self.names:
            with contextlib.suppress(FileNotFoundError):
                self._open[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, _close, list(self._open.values()))

    def copy(self, name: str, folder: Path, target: Path) -> None:
        """Copy one of them to ``target``, from ``folder`` as long as it is there.

        Raises:
            OSError: it cannot be copied.
        """
        if name in self._open:
            with os.fdopen(os.dup(self._open[name]), "rb") as source, target.open("wb") as copy:
                source.seek(0)
                shutil.copyfileobj(source, copy)
        elif (folder / name).exists():
            shutil.copyfile(folder / name, target)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

"""What a report may want of a VM, also when its private folder is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref
from typing import TYPE_CHECKING

from pytest_vmports.system.mishaps import noting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pytest_vmports.system.process import Process
    from pytest_vmports.vm.console import Console


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

        Raises:
            OSError: one cannot be opened; then none is kept.
        """
        try:
            for name in self.names:
                with contextlib.suppress(FileNotFoundError):
                    self._open[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Where there are too few descriptors, the folder's removal needs some.
            _close(self._open.values())
            self._open.clear()
            raise
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


def keep_all(
    console: Console,
    processes: Sequence[Process],
    files: Files,
    folder: Path,
    lost: list[str],
) -> None:
    """Keep all that a report may want of a VM that has ended; what is lost is added to ``lost``."""
    steps: dict[str, Callable[[], None]] = {"its console": console.keep}
    steps.update({f"what {process.name} said": process.keep_output for process in processes})
    steps["its files"] = lambda: files.keep(folder)
    for what, step in steps.items():
        with noting(f"lost at a VM's end: {what}", lost.append):
            step()
    lost.extend(console.problems)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

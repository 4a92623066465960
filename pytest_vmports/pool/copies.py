"""What a test copies into its VM and out of it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.progress import for_whom, slowly
from pytest_vmports.system.surroundings import restored
from pytest_vmports.vm import arguments, failures
from pytest_vmports.vm.inside import copying
from pytest_vmports.vm.inside.moved import Moved
from pytest_vmports.vm.owner import OfOneProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.machine import Machine


# From when on a copy is worth a line. Most are over by then.
_SLOW_SECONDS = 5.0
_LONGEST_NAME = 80


class Copies(OfOneProcess):
    """The files' part of a `VM`, and the way into it.

    Args:
        machine: the running machine.
        copy_limit: MiB that one `get` may bring.
        tell: writes a line to the terminal.
    """

    def __init__(self, machine: Machine, copy_limit: int, tell: Callable[[str], None]) -> None:
        self._machine, self._copy_limit, self._tell = machine, copy_limit, tell
        self._paused = False

    def put(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        timeout: float | None = 120.0,
    ) -> None:
        """Copy a file or folder from the host into the guest as ``cp -a`` does; root owns it there.

        Args:
            source: on the host. A link that is named itself is followed; those in it are copied.
            target: in the guest. A folder that is there, or a name that ends in a slash: it is
                put into that folder. Else this is its new name. Missing folders are made.
            timeout: the longest time, in seconds, in which nothing goes on; None for any.

        Raises:
            GuestFileError: it is not there or cannot be copied.
            CopyTimeoutError: nothing has gone on for so long (also a `CommandTimeoutError`).
            TypeError, ValueError: an argument means nothing.
        """
        with self._living(), self._telling(source, "into") as moved:
            copying.put(self._shell, source, target, timeout, moved=moved)

    def get(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        timeout: float | None = 120.0,
        max_size: int | str | None = None,
    ) -> Path:
        """Copy a file or folder out of the guest as ``cp -a`` does; return where it is on the host.

        It is ours there. Neither devices nor pipes are made, and no program runs as its owner. It
        is written as it comes: after a failure the files that were whole by then stay.

        Args:
            source: in the guest. A link that is named itself is followed; those in it are copied.
            target: on the host, as for `put`.
            timeout: as for `put`.
            max_size: the most that all files together may have, in bytes or as ``"2 GiB"``, with
                one file, folder or link for each 4 KiB of it; None: what ``copy_limit`` says.

        Raises:
            GuestFileError: it is not there, cannot be copied, or is larger than that.
            CopyTimeoutError: nothing has gone on for so long (also a `CommandTimeoutError`).
            GuestSaidError: what the guest says of it is none of what can be said.
            TypeError, ValueError: an argument means nothing.
        """
        with self._living(), self._telling(source, "out of") as moved:
            limit = arguments.size(max_size, "max_size", self._copy_limit << 20)
            return copying.get(self._shell, source, target, timeout, limit, moved=moved)

    @contextlib.contextmanager
    def _living(self) -> Iterator[None]:
        """Find out that the VM is gone before something is asked of it, or when that fails."""
        with restored(), failures.cause_first(self._machine.vitals):
            self._machine.check_alive()
            yield

    @contextlib.contextmanager
    def _telling(self, source: str | os.PathLike[str], way: str) -> Iterator[Moved]:
        """Say on the terminal how far a copy is that takes long."""
        moved = Moved()
        name = printable(os.path.basename(str(source).rstrip("/"))[:_LONGEST_NAME])  # noqa: PTH119
        what = for_whom(f"copying {name} {way} the guest")
        with slowly(self._tell, what, moved.so_far, first=_SLOW_SECONDS):
            yield moved

    @property
    def _shell(self) -> Shell:
        if self._paused:
            raise MachineError("the VM is paused: nothing runs in it before resume()")
        return self._machine.shell

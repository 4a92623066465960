"""One template: the saved state of a guest that was booted once, from which clones start.

It is a folder with ``ram`` (the guest's memory, sparse), ``state`` (its devices), ``console`` (what
it wrote there until then), ``clock`` (the host's time at that moment), what it wrote to its disks
if it has any, and ``manifest.json``. It is named by a key of everything that shapes it, and checked
before it is believed. Sources: QEMU's documentation of ``x-ignore-shared`` and
``memory-backend-file``.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pytest_vmports.errors import MonitorError
from pytest_vmports.system.fingerprint import fingerprint_of
from pytest_vmports.system.private_folder import refusal
from pytest_vmports.system.stored import Stored, files_of
from pytest_vmports.vm.argv import Ram

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

CLOCK = "clock"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Template(Stored):
    """A template that is in use.

    QEMU before 8.2 opens the memory to write, so a guest that has taken over its own could leave
    something there for the others. So each clone looks, once QEMU has mapped it, whether all files
    are as they were when the template was found sound: that costs some microseconds. Where it lies
    on a tmpfs, whose files do not tell of what is written to them by a mapping, nothing shows; the
    user's cache hardly ever does.
    """

    digested: ClassVar[tuple[str, ...]] = ("state",)

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.folder / "ram"

    @property
    def memory(self) -> Ram:
        """The same as a clone maps it: what it writes stays its own."""
        return Ram(self.ram, share=False)

    def open_state(self) -> BinaryIO:
        """Return the state of its devices, open.

        From the folder that was checked: had another process put a new one in its place since
        QEMU opened the memory, the two would not belong together, and this fails.

        Raises:
            MonitorError: it is not there any more, or a file was written to.
        """
        for name, then in self.seen.items():
            try:
                now = fingerprint_of(os.stat(name, dir_fd=self.lock))
            except FileNotFoundError:
                continue  # with all others, see below
            if now != then:
                reply = f"the template's {name} was written to since it was saved"
                raise MonitorError(command="migrate-incoming", reply=reply)
        return self._open("state")

    @property
    def console(self) -> str:
        """What the guest wrote to its console before it was saved.

        Raises:
            MonitorError: it is not there any more.
        """
        with self._open("console") as file:
            return file.read().decode(errors="replace")

    @property
    def saved_at(self) -> float:
        """When it was saved, a `clock.wall` value.

        Raises:
            MonitorError: that is not there any more.
        """
        with self._open(CLOCK) as file:
            return float(file.read())

    @property
    def clock_behind(self) -> float:
        """By how many seconds its clock was behind then: it had been booted, so by none."""
        return 0.0

    @property
    def writable(self) -> bool:
        """Whether QEMU can open its memory, which before 8.2 it does to write, whatever it maps."""
        return os.access(self.ram, os.W_OK)

    def copy_to(self, folder: Path) -> None:
        """Put a copy of its files into an empty folder; pages that hold nothing take no room.

        Raises:
            StateDirError: it cannot be copied.
        """
        try:
            for file in files_of(self.folder):
                _copy(file, folder / file.name)
        except OSError as error:
            raise refusal(folder.parent, error, "free some space") from error

    def _open(self, name: str) -> BinaryIO:
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.lock)
        except OSError as error:
            reply = f"the template's {name} cannot be read: {error.strerror}"
            raise MonitorError(command="migrate-incoming", reply=reply) from error
        return os.fdopen(file, "rb")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # nothing but a hole
            hole = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < hole and (data := os.pread(old.fileno(), min(_CHUNK, hole - at), at)):
                at += os.pwrite(new.fileno(), data, at)

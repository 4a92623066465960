"""A crashed guest's memory, written to a file for drgn or crash."""

from __future__ import annotations

import re
import struct
from typing import IO, TYPE_CHECKING

from pytest_vmports.errors import GuestSaidError, MonitorError
from pytest_vmports.system import patience
from pytest_vmports.system.said import malformed

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.failures import Vitals

# Name of the file in a VM's private folder, and among the artifacts.
VMCORE = "vmcore"
# Source: makedumpfile's diskdump_mod.h and makedumpfile.h: a stream of pieces with their places,
# and the header that they make up, in which six texts are uname's.
_FLAT, _FLAT_HEADER, _PIECE = b"makedumpfile\0", 4096, struct.Struct(">qq")
_KDUMP, _UNAME, _UNAME_SIZE = b"KDUMP   ", 12, 65
_RELEASE = re.compile(rb"OSRELEASE=([!-~]{1,64})\n")
_LOOK_BYTES, _LARGEST = 1 << 20, 1 << 46
# A gigabyte takes about half a minute to compress.
_SECONDS = 120.0


class CrashDump:
    """The dump of one QEMU's guest, taken once, when its kernel has crashed.

    Args:
        file: where it goes; None where none is wanted.

    Attributes:
        problem: why there is none although one is wanted; empty where nothing went wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self.problem: str = ""
        self._file = file
        self._tried = False

    def take(self, vitals: Vitals) -> None:
        """Write it, if the kernel has crashed. Safe to call again, and whatever QEMU does.

        What goes wrong is no reason for a test to end otherwise: it is kept as `problem`.
        """
        if self._file is None or self._tried:
            return
        try:
            if vitals.panic is None and vitals.failed is None:
                return
            self._tried = True
            if not vitals.qemu.running:
                self.problem = "QEMU had ended: a kernel that reboots when it panics leaves nothing"
                return
            # Also while a report is gathered: a dump was asked for, and takes its time.
            with self._file.open("w+b") as file, patience.as_long_as_it_takes():
                vitals.monitor.dump(file.fileno(), _SECONDS)
            make_readable(self._file)
        except (GuestSaidError, MonitorError, OSError) as error:
            self.problem = f"the guest's memory could not be written: {error}"
            self._file.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Make of a dump what drgn and crash open as it is.

    QEMU before 8.2 writes kdump's format as a stream, whose pieces have to be put in their places;
    and it leaves uname's texts empty but for the machine's, without which drgn (by libkdumpfile)
    does not believe the header.

    Raises:
        GuestSaidError: it is malformed.
        OSError: it cannot be read or written.
    """
    with path.open("rb") as file:
        flat = file.read(len(_FLAT)) == _FLAT
    if flat:
        whole = path.with_suffix(".whole")
        try:
            with path.open("rb") as source, whole.open("wb") as target:
                _put_in_place(source, target)
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)
    with path.open("r+b") as file:
        _name_kernel(file)


def _put_in_place(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(_FLAT_HEADER)
    while len(head := source.read(_PIECE.size)) == _PIECE.size:
        place, size = _PIECE.unpack(head)
        if place < 0:
            return
        if size < 0 or place + size > _LARGEST:
            raise malformed("QEMU's dump", f"a piece of {size} bytes at {place}", head)
        target.seek(place)
        while size and (part := source.read(min(size, _LOOK_BYTES))):
            target.write(part)
            size -= len(part)
        if size:
            break
    raise OSError("QEMU's dump has no end")


def _name_kernel(file: IO[bytes]) -> None:
    begin = file.read(_LOOK_BYTES)
    if not begin.startswith(_KDUMP) or begin[_UNAME : _UNAME + 1] != b"\0":
        return
    release = _RELEASE.search(begin)
    names = (b"Linux", b"vmports", release[1] if release else b"unknown", b"unknown")
    for number, name in enumerate(names):
        file.seek(_UNAME + number * _UNAME_SIZE)
        file.write(name)

"""Memory that we and one guest share, for what is too much for a serial port.

It is a file of no folder, of a size that nobody can change: with QEMU it is the memory of an
ivshmem device, with us a mapping. The guest may write there what and when it likes, so all that is
read is a copy. Where what lies is written in ``guests/agent.c``.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

SLOT: Final = 1 << 20
"""Bytes of input, of output or of error output that have room in it at a time."""

SIZE: Final = 4 * SLOT
BUS_SLOT: Final = 0x1E
"""The device's place on the guest's first bus, which our agent knows."""

LONGEST_TEXT: Final = (1 << 18) - 1
_NONCE = 16
_TEXT_AT, _INPUT_AT = 4096, SLOT
_OUTPUTS_AT = {"o": 2 * SLOT, "e": 3 * SLOT}
# As QEMU names the window in the list of memory that a state begins with: the length of its name,
# its name and its size; then comes its place.
_NAME = f"0000:00:{BUS_SLOT:02x}.0/window".encode()
_BLOCK = bytes([len(_NAME)]) + _NAME + SIZE.to_bytes(8, "big")
_BEGIN, _PLACE = 1 << 16, 8
# Nothing in it is to be run; kernels before 6.3 do not know the word, and need none.
_NOEXEC_SEAL = 0x0008


class Window:
    """Our side of it.

    Args:
        file: the file, which `close` does not close.

    Attributes:
        seen: the guest's agent has shown that it sees the same memory.
    """

    seen: bool

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, SIZE)  # holds the file open by itself
        self._nonce = os.urandom(_NONCE)
        self.offer()

    def offer(self) -> None:
        """Leave there what an agent has to show: a loaded state may have taken it away."""
        self._map[:_NONCE] = self._nonce
        self.seen = False

    def look(self) -> None:
        """Find out whether the agent, which has just spoken, sees it now."""
        told = slice(_NONCE, 2 * _NONCE)
        self.seen = self._map[told] == self._nonce
        # Of an agent that comes after it nothing is known by that.
        self._map[told] = bytes(_NONCE)

    def put_text(self, text: bytes) -> None:
        """Leave a command's text there."""
        self._map[_TEXT_AT : _TEXT_AT + len(text)] = text

    def put_input(self, fill: Callable[[memoryview], int], most: int) -> int:
        """Leave some of a command's input there; return how much.

        Args:
            fill: puts it into what it is given, and returns how much that was.
            most: bytes; no more than `SLOT`.
        """
        with memoryview(self._map) as whole, whole[_INPUT_AT : _INPUT_AT + most] as room:
            return fill(room)

    def output(self, kind: str, size: int) -> bytes:
        """Return a copy of what lies there; the kind is that of the frame that told of it."""
        at = _OUTPUTS_AT[kind]
        return self._map[at : at + size]

    def close(self) -> None:
        """Give up our mapping. Safe to call again."""
        self.seen = False
        self._map.close()


def open_window(until_spawned: ExitStack) -> tuple[Window | None, int | None]:
    """Return a window and its file for QEMU; None where this host has none: then there is none.

    The serial port does without. Nobody finds the file by a name, and who has it cannot cut it
    short, at which whoever reads a mapping of it would die.

    Args:
        until_spawned: closes the file, which QEMU has inherited by then.
    """
    if sys.platform != "linux":
        return None, None
    try:
        file = _memory_file()
        until_spawned.callback(os.close, file)
        os.ftruncate(file, SIZE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        return Window(file), file
    except OSError:
        return None, None


def forget_place(state: int) -> None:
    """Take from a saved state, an open file, where the guest had the window in its memory.

    QEMU, which leaves shared memory out of a state, writes down where that was, and loads the state
    only where it is at the same place already. But a device's memory has no place before its own
    state is loaded, which comes later. Source: QEMU's migration/ram.c, ``parse_ramblock``.

    Raises:
        OSError: it cannot be read or written.
    """
    begin = os.pread(state, _BEGIN, 0)
    at = begin.find(_BLOCK)
    if at >= 0:
        os.pwrite(state, bytes(_PLACE), at + len(_BLOCK))


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with contextlib.suppress(OSError):
        return os.memfd_create("vmports-window", flags | _NOEXEC_SEAL)
    return os.memfd_create("vmports-window", flags)

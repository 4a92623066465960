r"""A program of 200 bytes that waits on the control channel and sets the guest's clock.

A guest restored from a template has the template's time. Starting busybox's ``date`` in it costs a
quarter of a second under emulation, more than all the rest of the restoring; a program that is
already running and only waits costs next to nothing. Its instructions::

    again:  read(0, buffer, 16), until 16 bytes came: a struct timespec
            clock_settime(CLOCK_REALTIME, buffer)       leave unless it returned 0
            write(1, "vmports-clock 0\n", 16)
            go to again
    leave:  exit(1)
"""

from __future__ import annotations

import struct
from typing import Final

from pytest_vmports.guests import elf

ANSWER: Final = b"vmports-clock 0\n"
_X86_64: Final = bytes.fromhex(
    "4883ec10"  # sub rsp, 16
    "31db"  # again: xor ebx, ebx
    "31c0" "31ff" "488d341c" "6a10" "5a" "29da" "0f05"  # more: read(0, rsp + rbx, 16 - ebx)
    "85c0" "7e2b" "01c3" "83fb10" "75e6"  # jle leave; add ebx, eax; cmp ebx, 16; jne more
    "b8e3000000" "31ff" "4889e6" "0f05"  # clock_settime(0, rsp)
    "85c0" "7514"  # test eax, eax; jne leave
    "6a01" "58" "6a01" "5f"  # write(1, ANSWER, 16)
    "488d350f000000" "6a10" "5a" "0f05" "ebc0"  # ...; jmp again
    "6a3c" "58" "6a01" "5f" "0f05"  # leave: exit(1)
)  # fmt: skip


def message(now: float) -> bytes:
    """Return the bytes that make it ``now``, in seconds since the epoch."""
    whole = int(now)
    return struct.pack("<qq", whole, int((now - whole) * 1e9))


def program() -> bytes:
    """Return the executable for x86-64."""
    return elf.x86_64(_X86_64 + ANSWER)

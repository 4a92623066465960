r"""A program of 200 bytes that sets the guest's clock.

A guest restored from a template has the template's time. Starting busybox's ``date`` in it costs a
quarter of a second under emulation, more than all the rest of the restoring; a program that is
already running and only waits costs next to nothing. There is no compiler where this package is
installed, so here are its instructions::

    again:  read(0, buffer, 16), until 16 bytes came: a struct timespec
            (the shell's printf writes in pieces where a byte is a newline)
            clock_settime(CLOCK_REALTIME, buffer)       leave unless it returned 0
            write(1, "vmports-clock 0\n", 16)
            go to again
    leave:  exit(1)
"""

from __future__ import annotations

import struct
from typing import Final

MESSAGE: Final = b"vmports-clock 0\n"
_BASE: Final = 0x400000
_X86_64: Final = bytes.fromhex(
    "4883ec10"  # sub rsp, 16
    "31db"  # again: xor ebx, ebx
    "31c0" "31ff" "488d341c" "6a10" "5a" "29da" "0f05"  # more: read(0, rsp + rbx, 16 - ebx)
    "85c0" "7e2b" "01c3" "83fb10" "75e6"  # jle leave; add ebx, eax; cmp ebx, 16; jne more
    "b8e3000000" "31ff" "4889e6" "0f05"  # clock_settime(0, rsp)
    "85c0" "7514"  # test eax, eax; jne leave
    "6a01" "58" "6a01" "5f"  # write(1, message, 16)
    "488d350f000000" "6a10" "5a" "0f05" "ebc0"  # ...; jmp again
    "6a3c" "58" "6a01" "5f" "0f05"  # leave: exit(1)
)  # fmt: skip


def line(now: float) -> str:
    """Return the agent's line that makes it ``now``, in seconds since the epoch."""
    whole = int(now)
    timespec = struct.pack("<qq", whole, int((now - whole) * 1e9))
    return "clock " + "".join(f"\\{byte:03o}" for byte in timespec)


def program() -> bytes:
    """Return the ELF executable for x86-64: one header, one segment, no sections."""
    code = _X86_64 + MESSAGE
    size = 64 + 56 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code

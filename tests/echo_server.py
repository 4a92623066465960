"""The guest's server: one process that echoes what it receives, one connection after the other.

Most servers run before the first connection comes; ``nc -e`` starts a program for each, which
under emulation takes longer than all the rest, in a clone as in any other VM. The bundled guest
has no server that does not, hence these instructions::

    socket, bind to port 8080 of all addresses, listen
    again:  accept
    more:   read up to 32 bytes; end of them: close, go to again
            write them, go to more
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PORT = 8080
SETUP = "/bin/echo-server &"
_X86_64 = bytes.fromhex(
    "6a29 58 6a02 5f 6a01 5e 31d2 0f05 89c3"  # ebx = socket(AF_INET, SOCK_STREAM, 0)
    "488d3541000000 6a31 58 89df 6a10 5a 0f05"  # bind(ebx, address, 16)
    "6a32 58 6a7f 5e 0f05"  # listen(ebx, 127)
    "6a2b 58 89df 31f6 31d2 0f05 89c5"  # again: ebp = accept(ebx, 0, 0)
    "31c0 89ef 488d7424c0 6a20 5a 0f05"  # more: read(ebp, rsp - 64, 32)
    "85c0 7e09 89c2 6a01 58 0f05 ebe5"  # jle done; write as many; jmp more
    "6a03 58 0f05 ebd1"  # done: close; jmp again
)
_BASE = 0x400000
_ADDRESS = b"\x02\0" + PORT.to_bytes(2, "big") + bytes(12)


def files(folder: Path) -> dict[str, str]:
    """Write the server to ``folder``; return the setting that puts it into the guest."""
    program = folder / "echo-server"
    program.write_bytes(executable(_X86_64 + _ADDRESS))
    program.chmod(0o755)
    return {str(program): "/bin/echo-server"}


def executable(code: bytes) -> bytes:
    """Return the smallest ELF executable that Linux runs: one header, one segment, no sections."""
    size = 64 + 56 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code

"""The guest's servers where TCP itself is tested: each connection gets a process, by fork and exec.

busybox's ``nc -lk -e`` does so too, but lets few connections wait and loses some of many. These
instructions do what inetd does::

    socket, bind to a port of all addresses, listen
    again:  accept, fork
    parent: close the connection, reap whoever has ended, go to again
    child:  make the connection its standard input and output, exec the port's script
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echo_server import executable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_X86_64 = bytes.fromhex(
    "6a29 58 6a02 5f 6a01 5e 31d2 0f05 89c3"  # ebx = socket(AF_INET, SOCK_STREAM, 0)
    "6a31 58 89df 488d357c000000 6a10 5a 0f05"  # bind(ebx, address, 16)
    "6a32 58 89df 6a7f 5e 0f05"  # listen(ebx, 127)
    "6a2b 58 89df 31f6 31d2 0f05 89c5"  # again: ebp = accept(ebx, 0, 0)
    "6a39 58 0f05 85c0 741d"  # fork(); the child goes to child
    "6a03 58 89ef 0f05"  # close(ebp)
    "6a3d 58 6aff 5f 31f6 6a01 5a 4531d2 0f05 85c0 7fec"  # reap: wait4(-1, 0, WNOHANG, 0)
    "ebcd"  # jmp again
    "6a21 58 89ef 31f6 0f05 6a21 58 89ef 6a01 5e 0f05"  # child: dup2(ebp, 0), dup2(ebp, 1)
    "6a03 58 89ef 0f05 6a03 58 89df 0f05"  # close(ebp), close(ebx)
    "488d3d22000000 6a00 57 4889e6 31d2 6a3b 58 0f05"  # execve(script, [script], no variables)
    "6a3c 58 0f05"  # exit
)
_END_HALF = bytes.fromhex(
    "6a30 58 31ff 6a01 5e 0f05"  # shutdown of standard input's sending half
    "6a3c 58 31ff 0f05"  # exit with 0
)
END_HALF = "/bin/end-half"
"""Ends the sending half of its standard input, which no shell can."""


def files(folder: Path, scripts: Mapping[int, str]) -> dict[str, str]:
    """Write what serves each port to ``folder``; return the setting that puts it into the guest."""
    given = {}

    def add(guest_path: str, content: bytes) -> None:
        file = folder / guest_path.rpartition("/")[2]
        file.write_bytes(content)
        file.chmod(0o755)
        given[str(file)] = guest_path

    add(END_HALF, executable(_END_HALF))
    for port, script in scripts.items():
        address = b"\2\0" + port.to_bytes(2, "big") + bytes(12)
        add(f"/bin/script-{port}", f"#!/bin/sh\n{script}\n".encode())
        add(f"/bin/server-{port}", executable(_X86_64 + address + b"/bin/script-%d\0" % port))
    return given


def setup(scripts: Mapping[int, str]) -> str:
    """Return the setup that starts them."""
    return "".join(f"/bin/server-{port} &\n" for port in scripts)

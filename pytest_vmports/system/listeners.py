"""What a process listens on, as the kernel says it; of the process's own words nothing is believed.

Source: proc(5), ``/proc/PID/net``, and Linux's include/net/tcp_states.h for the states.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import TYPE_CHECKING

from pytest_vmports.system import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

    Place = tuple[str, str, int]

# A UDP socket that anybody may send to is one that is not connected.
_STATES = {"tcp": b"0A", "udp": b"07"}
# Number, address and port, the other side's, state, two pairs of counters, a counter, user, a
# counter, inode.
_PORT = re.compile(
    rb"^ *\d+: ((?:[0-9A-F]{8}){1,4}):([0-9A-F]{4}) [0-9A-F:]+ ([0-9A-F]{2})"
    rb" \S+ \S+ \S+ +\d+ +\d+ (\d+)",
    re.MULTILINE,
)
# /proc/net/unix: the flag __SO_ACCEPTCON in column 3, the inode in column 6, and the path as it is,
# newlines too, in column 7 where there is one.
_LISTENING = 0x10000
_UNIX = re.compile(
    rb"^[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]+) [0-9A-F]+ [0-9A-F]+ +(\d+)(?: (.*))?$",
    re.MULTILINE,
)


def of(pid: int) -> set[Place] | None:
    """Return protocol, host and port of every socket by which others reach a process.

    A Unix socket's protocol is ``unix``, its host the path, its port 0. None where it cannot be
    told: the process is gone, or there is no ``/proc`` that tells.
    """
    before = proc.sockets(pid)
    if before is None:
        return None
    # Twice, as one line may be missed when others go while a long table is read.
    found = [*_ports(pid), *_paths(pid), *_ports(pid), *_paths(pid)]
    # What was opened meanwhile stands in the tables, and in the second list alone.
    after = proc.sockets(pid)
    if after is None:
        return None
    owned = {*before.values(), *after.values()}
    return {place for inode, place in found if inode in owned}


def _ports(pid: int) -> Iterator[tuple[int, Place]]:
    for protocol, state in _STATES.items():
        for table in (protocol, f"{protocol}6"):
            for row in _PORT.finditer(proc.raw(f"{pid}/net/{table}")):
                if row[3] == state:
                    yield int(row[4]), (protocol, _host(row[1].decode()), int(row[2], 16))


def _paths(pid: int) -> Iterator[tuple[int, Place]]:
    for row in _UNIX.finditer(proc.raw(f"{pid}/net/unix")):
        if int(row[1], 16) & _LISTENING:
            yield int(row[2]), ("unix", os.fsdecode(row[3] or b""), 0)


def _host(told: str) -> str:
    """Return an address that is written as words of four bytes, each in this machine's order."""
    words = [int(told[at : at + 8], 16) for at in range(0, len(told), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)

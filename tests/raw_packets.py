"""Any packets of IP from a real guest: a program of some hundred bytes that sends what it reads.

The guests' busybox has none that does, nor has their kernel packet(7), and no compiler need be
there. By raw(7) a packet goes to one neighbour and is addressed to another.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_vmports.pool.handle import VM

# Neighbours of the guest's: who has the way out, and one whose card is said to be everybody's.
GATEWAY, EVERYBODY = "192.168.127.1", "192.168.127.200"
# By IPv6, where a neighbour would have to answer first.
ALL_NODES, ETH0 = "ff02::1", 2
_RECORD, _PACKET_AT = 256, 32
_BASE, _BUFFER = 0x400000, 0x401000
_HEADER = 64 + 56


def send(vm: VM, packets: Iterable[bytes], folder: Path) -> None:
    """Have the guest, of x86-64, send these packets, each to its way out and to everybody."""
    packets = [*packets]
    whole = [_record(packet, to) for to in (GATEWAY, EVERYBODY) for packet in packets]
    (folder / "send").write_bytes(_program())
    (folder / "send").chmod(0o755)
    (folder / "packets").write_bytes(b"".join(whole))
    for name in ("send", "packets"):
        vm.put(folder / name, f"/{name}")
    # Until its own address is known to be nobody else's there is none to send from.
    vm.run(
        "n=0; until ip -6 addr show dev eth0 | grep fe80 | grep -qv tentative"
        " || [ $((n += 1)) -gt 100 ]; do sleep 0.1; done"
    )
    vm.run(f"arp -s {EVERYBODY} ff:ff:ff:ff:ff:ff && exec /send < /packets 3>&- 4>&-")


def _record(packet: bytes, to: str) -> bytes:
    """Return a packet as the program reads it: its size, the socket, the neighbour, itself."""
    if packet[0] >> 4 == 4:
        number, address = 3, struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(to))
    else:
        number, packed = 4, ipaddress.ip_address(ALL_NODES).packed
        address = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed, ETH0)
    head = struct.pack("<HH", len(packet), number) + address.ljust(_PACKET_AT - 4, b"\0")
    assert len(head + packet) <= _RECORD
    return (head + packet).ljust(_RECORD, b"\0")


def _program() -> bytes:
    """Return an executable for Linux on x86-64, which ends with what its last call returned."""

    def number(value: int) -> str:
        return struct.pack("<I", value).hex()

    def opened(family: int) -> str:  # socket(family, SOCK_RAW, IPPROTO_RAW)
        return f"bf{number(family)} be{number(3)} ba{number(255)} b8{number(41)} 0f05"

    start = bytes.fromhex(opened(2) + opened(10))
    # Read a record.
    read = bytes.fromhex(f"31ff be{number(_BUFFER)} ba{number(_RECORD)} 31c0 0f05 85c0")
    # Send its packet, by the socket and to the neighbour that it names.
    send = bytes.fromhex(
        f"0fb73c25{number(_BUFFER + 2)} be{number(_BUFFER + _PACKET_AT)} "
        f"0fb71425{number(_BUFFER)} 4531d2 41b8{number(_BUFFER + 4)} 41b9{number(28)} "
        f"b8{number(44)} 0f05 85c0"
    )
    # Not more than 0: go on behind the loop. More than 0: read again.
    loop = read + b"\x7e" + bytes([len(send) + 2]) + send
    code = start + loop + b"\x7f" + struct.pack("b", -(len(loop) + 2))
    code += bytes.fromhex(f"89c7 b8{number(60)} 0f05")
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADER, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, _HEADER + len(code), 0x2000, 0x1000)
    return elf + code

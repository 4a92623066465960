"""The guest's answers to connections, seen on its side of the wire.

What a forwarder says of its other side is not always there to be asked for: gvproxy's counter of
openings moves when it dials, answer or not. So QEMU writes what passes the guest's network card to
a file while a connection is tried (source: ``filter-dump`` in QEMU's manual), in pcap's format.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

from pytest_vmports.constants import GUEST_IP
from pytest_vmports.errors import MonitorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_vmports.network.wiring import MonitorCommands

_FILTER = "handshake"
# Ethernet, the longest IP header and TCP's up to the flags: no data of the guest's is written.
_BYTES_A_PACKET = 96
_MOST_BYTES = 1 << 20
_FILE_HEADER, _PACKET_HEADER, _ETHERNET_HEADER = 24, 16, 14
_IPV4, _TCP = b"\x08\x00", 6
_SYN_ACK = 0x12
FILE = "handshake.pcap"
"""Name of the file of packets in a VM's private folder."""
_GUEST = socket.inet_aton(GUEST_IP)


@contextlib.contextmanager
def watch(
    monitor: MonitorCommands, netdev: str, file: Path, guest_port: int
) -> Iterator[Callable[[], bool | None]]:
    """Yield a function that tells whether the guest has accepted a connection since.

    It returns None while no packet of TCP has come from that port: then whatever ends the
    connection is not the guest.

    Args:
        monitor: of the guest's QEMU.
        netdev: what the guest's network card is connected to.
        file: where to write the packets; emptied afterwards. QEMU may make no file.
        guest_port: where the connection leads.

    Raises:
        MonitorError: QEMU refused to write them, or hung up.
    """
    monitor.execute(
        "object-add", id=_FILTER, netdev=netdev, file=str(file), maxlen=_BYTES_A_PACKET,
        **{"qom-type": "filter-dump"},
    )  # fmt: skip
    try:
        answers = _Answers(guest_port)
        yield lambda: answers.look(file)
    finally:
        # When QEMU has died meanwhile, whoever waits for the guest finds out and says so.
        with contextlib.suppress(MonitorError):
            monitor.execute("object-del", id=_FILTER)
        with contextlib.suppress(FileNotFoundError):
            os.truncate(file, 0)


def accepted(capture: bytes, guest_port: int) -> bool | None:
    """Whether a pcap file shows the guest accepting a TCP connection to ``guest_port``.

    None: it shows no packet from there.
    """
    answers = _Answers(guest_port)
    answers.read(capture[_FILE_HEADER:])
    return answers.accepted


class _Answers:
    """Reads a pcap file packet by packet, each once: a guest may send a lot while it is asked."""

    def __init__(self, guest_port: int) -> None:
        self.accepted: bool | None = None
        self._port = guest_port
        self._at = _FILE_HEADER

    def look(self, file: Path) -> bool | None:
        """Return what the file shows by now; see `accepted`."""
        with file.open("rb") as opened:
            opened.seek(self._at)
            self.read(opened.read(_MOST_BYTES))
        return self.accepted

    def read(self, packets: bytes) -> None:
        for begin, end in _packets(packets):
            self._at += _PACKET_HEADER + end - begin
            flags = _flags(packets[begin:end], self._port)
            if flags is not None:
                self.accepted = bool(self.accepted) or flags & _SYN_ACK == _SYN_ACK


def _packets(capture: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each packet begins and ends that is there whole."""
    at = 0
    while (begin := at + _PACKET_HEADER) <= len(capture):
        (size,) = struct.unpack_from("=I", capture, at + 8)
        at = begin + size
        if at <= len(capture):
            yield begin, at


def _flags(packet: bytes, guest_port: int) -> int | None:
    """Return TCP's flags in a packet from the guest's port; None for any other packet."""
    ip = packet[_ETHERNET_HEADER:]
    tcp = ip[(ip[0] & 0xF) * 4 :] if ip else b""
    ours = (
        len(tcp) > 13  # noqa: PLR2004 - the flags' place
        and packet[12:14] == _IPV4
        and ip[9] == _TCP
        and ip[12:16] == _GUEST
        and int.from_bytes(tcp[:2], "big") == guest_port
    )
    return tcp[13] if ours else None

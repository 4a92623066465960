"""Seconds that a MB of hostile text takes to be read, and microseconds of a fragment at the relay.

python benchmarks/hostile_text.py
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

from pytest_vmports.constants import GUEST_IP, GUEST_MAC, UDP_RELAY_IP, UDP_RELAY_MAC
from pytest_vmports.guests import cloud_init
from pytest_vmports.network.udp_frames import Receiver
from pytest_vmports.vm import crashes, hints
from pytest_vmports.vm.console import shown
from pytest_vmports.vm.last_words import last_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB, PIECE = 1_000_000, 16_384
TEXTS = {
    "ordinary lines": "[    1.000000] a line of a kernel's, as there are many\r\n",
    "begun reports": "vmports-cloud-init: {",
    "ended reports": "} :vmports",
    "failed services": "Failed to start ",
    "carriage returns": "\r",
    "kernel's times": "[ 1.0] ",
    "an oops begun": "[ 1.0] BUG: unable to handle ",
    "hanging tasks": "[ 1.0] INFO: task x:1 blocked a ",
    "panics": "[ 1.0] Kernel panic - not syncing: ",
    "panics of memory": "Kernel panicout of",
    "traps": "a, [#Oops",
    "boot sectors": "Missing operating system\n Press ",
    "targets": "Reached target ",
    "escapes": "\x1b[0",
}


def _watch(text: str) -> None:
    watch = crashes.Watch()
    for at in range(0, len(text), PIECE):
        watch.feed(text[at : at + PIECE])


def _reports(text: str) -> None:
    found = cloud_init.Reports()
    for at in range(0, len(text), PIECE):
        found.feed(text[at : at + PIECE])


READERS: dict[str, Callable[[str], object]] = {
    "crashes": _watch,
    "cloud-init": _reports,
    "passage": crashes.passage,
    "shown": shown,
    "hints": lambda text: hints.of(text[-256 * 1024 :]),
    "last words": lambda text: last_words(text[-64 * 1024 :]),
}


def _frames(size: int) -> Iterator[bytes]:
    """Yield datagrams of the guest's in fragments of this size, none of them whole."""
    macs = bytes.fromhex((UDP_RELAY_MAC + GUEST_MAC).replace(":", ""))
    ends = socket.inet_aton(GUEST_IP) + socket.inet_aton(UDP_RELAY_IP)
    for ident in range(200):
        for at in range(size, 60_000, size):
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, ident, 0x2000 | at // 8, 64, 17, 0)
            yield macs + b"\x08\x00" + head + ends + bytes(size)


def main() -> None:
    """Print the seconds that each reader takes of a MB of each text, and a fragment's time."""
    print(f"{'seconds a MB':18}" + "".join(f"{name:>12}" for name in READERS))
    for name, words in TEXTS.items():
        text = words * (MB // len(words))
        print(f"{name:18}", end="")
        for reader in READERS.values():
            begin = time.perf_counter()
            reader(text)
            print(f"{time.perf_counter() - begin:12.3f}", end="", flush=True)
        print()
    for size in (8, 64, 1480):
        frames, receiver = list(_frames(size))[:100_000], Receiver()
        begin = time.perf_counter()
        for frame in frames:
            receiver.read(frame)
        each = (time.perf_counter() - begin) / len(frames)
        print(f"fragments of {size} bytes: {each * 1e6:.1f} µs each")


if __name__ == "__main__":
    main()

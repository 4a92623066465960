"""What a guest asked of the network, and what it was refused: `VM.network_log`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from pytest_vmports.system import clock

MOST = 1000
"""Entries of each sort, allowed and refused, that are kept: the guest decides how many come."""


@dataclass(frozen=True)
class NetworkEntry:
    """Something that a guest asked of the network.

    Attributes:
        time: when, the first time, as seconds since 1970.
        kind: ``name`` for a question to a name server, ``connect`` for a connection, or the first
            of a UDP conversation's datagrams.
        name: the name; of a connection one that led to its address, empty for none.
        address: where to, in figures; empty for a name.
        port: where to; 0 for a name.
        protocol: ``tcp`` or ``udp``; for a name the type of the record, as ``A``.
        allowed: whether it was let through; what became of it then is not known.
        why: what allows or forbids it.
        times: how often.
    """

    time: float
    kind: str
    name: str
    address: str
    port: int
    protocol: str
    allowed: bool
    why: str
    times: int = 1

    def __str__(self) -> str:
        verb = "let" if self.allowed else "refused"
        where = f"{self.address}:{self.port}" if self.kind == "connect" else self.name
        also = f", {self.name}" if self.kind == "connect" and self.name else ""
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{verb} {self.kind} {where} ({self.protocol}{also}{often}): {self.why}"


class NetworkEntries(list[NetworkEntry]):
    """A VM's entries so far, the oldest first.

    Attributes:
        refused: those that were not allowed.
        dropped: how many more there were than are kept; of those that were refused, and of those
            that were allowed, the first thousand of each are here.
    """

    def __init__(self, entries: list[NetworkEntry], dropped: int) -> None:
        super().__init__(entries)
        self.dropped = dropped

    @property
    def refused(self) -> list[NetworkEntry]:
        """Those that were not allowed."""
        return [one for one in self if not one.allowed]


class NetworkLog:
    """Takes note, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[object, ...], NetworkEntry] = {}
        self._of = {True: 0, False: 0}
        self._dropped = 0

    def note(
        self, kind: str, *, name: str = "", address: str = "", port: int = 0, protocol: str,
        allowed: bool, why: str,
    ) -> None:  # fmt: skip
        """Take note of something; what is the same as before is counted.

        Those of one sort never push out the other's: a guest could hide behind many that are
        allowed.
        """
        key = kind, name, address, port, protocol, allowed
        with self._lock:
            known = self._entries.get(key)
            if known is not None:
                self._entries[key] = replace(known, times=known.times + 1)
            elif self._of[allowed] >= MOST:
                self._dropped += 1
            else:
                self._of[allowed] += 1
                self._entries[key] = NetworkEntry(
                    clock.wall(), kind, name, address, port, protocol, allowed, why
                )

    def entries(self) -> NetworkEntries:
        """Return what there is so far."""
        with self._lock:
            return NetworkEntries([*self._entries.values()], self._dropped)

"""What gvproxy's sockets, or passt's, may reach: the policy of the `gate`. It hears none of them.

The guest tells gvproxy where to connect, and were the filter of `seal` not there, what to listen on
too: gvproxy binds the forwards that were asked for, and where it may connect to says `outgoing`.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from pytest_vmports.system.paths import as_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.system.gate import Asked

# Go tries by them whether there is IPv6, and listens on none of them.
_TRIALS = {("::1", 0), ("::ffff:127.0.0.1", 0)}


def nowhere(_asked: Asked) -> int:
    """Return that it may not connect."""
    return errno.EACCES


class Doorman:
    """Decides for one gvproxy, or passt.

    Args:
        listeners: the Unix sockets that it listens on, until `shut`.
        ports: what it forwards from the start.
        outgoing: says where it may connect to; by itself nowhere.

    Attributes:
        opening: until `shut`.
    """

    def __init__(
        self,
        listeners: Iterable[Path],
        ports: Iterable[ExposedPort],
        outgoing: Callable[[Asked], int | tuple[str, int]] = nowhere,
    ) -> None:
        self._listeners = {as_bytes(path) for path in listeners}
        self._lock = threading.Lock()
        self._ports: set[tuple[str, str, int]] = set().union(*map(places, ports))
        self._outgoing = outgoing
        self.opening: bool = True

    def allow(self, port: ExposedPort) -> None:
        """Let a host port be bound from now on."""
        with self._lock:
            self._ports |= places(port)

    def forbid(self, port: ExposedPort) -> None:
        """Let it be bound no more."""
        with self._lock:
            self._ports -= places(port)

    def shut(self) -> None:
        """Let it listen on no Unix socket any more: it listens on all that it needs."""
        with self._lock:
            self.opening = False

    def has(self, protocol: str, host: str, port: int) -> bool:
        """Whether this host port may be bound."""
        with self._lock:
            return (protocol, host, port) in self._ports

    def __call__(self, asked: Asked) -> int | tuple[str, int]:
        """Return 0 for what may be done, an errno, or where to connect to instead."""
        if asked.call == "connect":
            return self._outgoing(asked)
        with self._lock:
            return 0 if self._listens(asked) else errno.EACCES

    def _listens(self, asked: Asked) -> bool:
        if asked.address is None:
            return False
        if isinstance(asked.address, bytes):
            return self.opening and asked.address in self._listeners
        if asked.call == "bind" and asked.protocol == "tcp" and asked.address in _TRIALS:
            return True
        return (asked.protocol, *asked.address) in self._ports


def places(port: ExposedPort) -> set[tuple[str, str, int]]:
    """Return what a forward is bound to: Go takes all of IPv6 for all of IPv4, and both work."""
    hosts = {port.host, "::"} if port.host == "0.0.0.0" else {port.host}  # noqa: S104
    return {(port.protocol, host, port.external) for host in hosts}

"""Our end of a serial port of the guest's: bytes there and back, and no wait without an end.

A guest need not read what it is sent, nor say anything: whoever waits for it brings a deadline.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vmports.system import clock
from pytest_vmports.system.poll import readable, writable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

_CHUNK = 1 << 16
# Waits are bounded, for platforms whose processes have no descriptor to wait on.
_LOOK_SECONDS = 1.0


class Channel:
    """One end of the socket pair whose other end QEMU has.

    Args:
        connection: ours; closed by `close`.
        name: of the channel, for errors.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._name = name

    def receive(
        self, deadline: float | None, check: Callable[[], None], deaths: Sequence[int] = ()
    ) -> bytes:
        """Return what has come; nothing at the deadline.

        Args:
            deadline: `clock.now` value; None waits for ever.
            check: called often; raises when waiting has become pointless.
            deaths: descriptors that become readable when a process of the VM ends.

        Raises:
            ConnectionError: QEMU hung up.
        """
        while (left := _left(deadline)) > 0:
            ready = readable([self._connection, *deaths], min(left, _LOOK_SECONDS))
            check()
            if self._connection in ready:
                data = self._connection.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError(f"QEMU closed {self._name}")
                return data
        return b""

    def send(self, data: bytes, deadline: float | None, check: Callable[[], None]) -> bool:
        """Send all of it; return whether that was done by the deadline.

        Raises:
            OSError: QEMU hung up.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except BlockingIOError:  # noqa: PERF203 - once a buffer
                left = _left(deadline)
                if left <= 0:
                    return False
                writable(self._connection, min(left, _LOOK_SECONDS))
                check()
        return True

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._connection.close()


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline - clock.now()

"""The control channel: between us and the agent in a guest we prepared, which answers in lines.

It is the guest's second serial port, so that no kernel message can tear a line.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


class Control:
    """One end of the channel.

    Args:
        connection: our end of the socket pair; closed by `close`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = b""

    def await_answer(
        self, word: str, deadline: float, deaths: Sequence[int], check: Callable[[], None]
    ) -> int | None:
        """Return the number that the agent sends after ``word``; None at the deadline.

        Args:
            word: the first word of the awaited line.
            deadline: `time.monotonic` value.
            deaths: descriptors that become readable when a process of this VM ends.
            check: raises when one has ended.
        """
        watched: list[socket.socket | int] = [self._connection, *deaths]
        while (left := deadline - time.monotonic()) > 0:
            # Bounded, for platforms whose processes have no descriptor to wait on.
            ready, _, _ = select.select(watched, [], [], min(left, 1.0))
            check()
            if self._connection in ready:
                self._unread += self._connection.recv(4096)
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                words = line.split()
                if words[:1] == [word.encode()] and words[1:]:
                    return int(words[1])
        return None

    def send(self, message: bytes) -> None:
        """Send the agent a message.

        Raises:
            OSError: QEMU hung up.
        """
        self._connection.sendall(message)

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._connection.close()

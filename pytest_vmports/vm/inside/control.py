"""The control channel: frames between us and the agent in a guest we prepared.

It is a serial port beside the console's, so that no kernel message can tear a frame. What the
frames mean is written in ``guests/agent.c``.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from pytest_vmports.system import clock
from pytest_vmports.system.poll import readable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

READY, CLOCK = "V", "C"
LARGEST = 4096
_HEAD = 4
# What the agent sends once for each frame of a command.
_ANSWERS = {"S": "A", "s": "A", "I": "A", "X": "X"}
# As many bytes as the kernel's generator has for its key.
_SEED = 32


class Control:
    """One end of the channel.

    Args:
        connection: our end of the socket pair; closed by `close`.

    Attributes:
        deaths: descriptors that become readable when a process of this VM ends.
        owed: the types of frames that the agent has yet to send, of a command.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.deaths: Sequence[int] = ()
        self.owed: list[str] = []
        self._connection = connection
        self._unread = b""

    def await_number(self, kind: str, deadline: float, check: Callable[[], None]) -> int | None:
        """Return the number in the next frame of ``kind``; None at the deadline.

        Args:
            kind: the frame's type; others before it are passed over.
            deadline: `clock.now` value.
            check: raises when a process of this VM has ended.
        """
        while (frame := self.receive(deadline, check)) is not None:
            if frame[0] == kind:
                return int(frame[1])
        return None

    def receive(
        self, deadline: float | None, check: Callable[[], None]
    ) -> tuple[str, bytes] | None:
        """Return the next frame's type and payload; None at the deadline.

        Args:
            deadline: `clock.now` value; None waits for ever.
            check: as for `await_number`.
        """
        while (frame := self._next()) is None:
            left = 1.0 if deadline is None else deadline - clock.now()
            if left <= 0:
                return None
            # Bounded, for platforms whose processes have no descriptor to wait on.
            ready = readable([self._connection, *self.deaths], min(left, 1.0))
            check()
            if self._connection in ready:
                self._unread += self._connection.recv(1 << 16)
        if frame[0] == READY:  # it was started anew, and knows nothing of any command
            self.owed.clear()
        elif frame[0] in self.owed:
            self.owed.remove(frame[0])
        return frame

    def send(self, kind: str, payload: bytes = b"") -> None:
        """Send a frame.

        Raises:
            OSError: QEMU hung up.
        """
        if kind in _ANSWERS:
            self.owed.append(_ANSWERS[kind])
        head = kind.encode() + len(payload).to_bytes(_HEAD - 1, "little")
        self._connection.sendall(head + payload)

    def send_clock(self, now: float, *, seed: bool = False) -> None:
        """Ask for the guest's clock to be set; the answer is a frame of type `CLOCK`.

        Args:
            now: seconds since the epoch.
            seed: send one for random numbers too. The guest was restored, and so are others like
                it; where its board tells it so, it needs none, and each byte takes it a while.

        Raises:
            OSError: QEMU hung up.
        """
        whole = int(now)
        time_spec = struct.pack("<qq", whole, int((now - whole) * 1e9))
        self.send(CLOCK, time_spec + (os.urandom(_SEED) if seed else b""))

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._connection.close()

    def _next(self) -> tuple[str, bytes] | None:
        size = int.from_bytes(self._unread[1:_HEAD], "little")
        if len(self._unread) < _HEAD + size:
            return None
        kind, payload = self._unread[:1], self._unread[_HEAD : _HEAD + size]
        self._unread = self._unread[_HEAD + size :]
        return kind.decode("latin-1"), payload

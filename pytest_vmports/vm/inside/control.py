"""The control channel: frames between us and the agent in a guest we prepared.

It is a serial port beside the console's, so that no kernel message can tear a frame. What the
frames mean is written in ``guests/agent.c``.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestSaidError, MachineError
from pytest_vmports.system.said import malformed, number_said
from pytest_vmports.vm.inside.channel import Channel
from pytest_vmports.vm.inside.window import SLOT

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pytest_vmports.vm.inside.window import Window

READY, CLOCK, MOVED, WARM, ENDED = "V", "C", "N", "T", "X"
CONSUMED, OUTPUT, ERRORS = "A", "O", "E"
LARGEST = 4096
WHO = "the guest's control channel"
_HEAD = 4
# As many bytes as the kernel's generator has for its key.
_SEED = 32
# What the guest's agent sends: its numbers up to an exit status, errno and wait status, its bytes
# up to a frame's.
_NUMBERS = {READY: 0xFF, CLOCK: 4095, MOVED: 4095, WARM: 4095, ENDED: 0xFFFF, "o": SLOT, "e": SLOT}
_BYTES = {CONSUMED: 0, OUTPUT: LARGEST, ERRORS: LARGEST}
_SAYS_READY = re.compile(rb"V(?:\x01\0\0[0-9]|\x02\0\0[0-9]{2}|\x03\0\0[0-9]{3})")
_LONGEST_READY = _HEAD + 3
_LAST_SIGNAL, _DUMPED = 64, 0x80
# Those that tell of what lies in the window.
_IN_WINDOW = {"o": OUTPUT, "e": ERRORS}


class Frames:
    """Takes the guest's bytes as they come, and gives back whole frames.

    Args:
        lost: what comes first may be any part of a frame, as when a guest was reset while it spoke:
            all is passed over until its agent says that it is ready.
    """

    def __init__(self, *, lost: bool = False) -> None:
        self._unread = bytearray()
        self._lost = lost

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._unread += data

    def skip_past(self, whole: bytes) -> bool:
        """Drop all up to the end of this frame; False, and all but a part of it, where it is not.

        Of what was dropped nothing is read.
        """
        at = self._unread.find(whole)
        end = at + len(whole) if at >= 0 else max(0, len(self._unread) - len(whole) + 1)
        del self._unread[:end]
        self._lost = self._lost and at < 0
        return at >= 0

    def next(self) -> tuple[str, bytes] | None:
        """Return the next frame's type and payload; None where there is none yet.

        What is malformed, or longer than any frame, is refused by its first four bytes.

        Raises:
            GuestSaidError: it is nothing that our agent says.
        """
        if self._lost:
            self._pass_over()
        if self._lost or len(self._unread) < _HEAD:
            return None
        kind, size = chr(self._unread[0]), int.from_bytes(self._unread[1:_HEAD], "little")
        longest = len(str(_NUMBERS[kind])) if kind in _NUMBERS else _BYTES.get(kind)
        if longest is None:
            raise malformed(WHO, f"a frame of the unknown type {kind!r}", self._unread)
        if size > longest:
            raise malformed(WHO, f"a frame of {size} bytes, {longest} at the most", self._unread)
        if len(self._unread) < _HEAD + size:
            return None
        payload = bytes(self._unread[_HEAD : _HEAD + size])
        del self._unread[: _HEAD + size]
        if kind in _NUMBERS:
            number = number_said(WHO, payload, _NUMBERS[kind])
            if kind == ENDED and not _is_an_end(number):
                raise malformed(WHO, "no wait status of a process that has ended", payload)
        return kind, payload

    def _pass_over(self) -> None:
        begins = [one.start() for one in _SAYS_READY.finditer(self._unread)]
        self._lost = not begins
        # The last one: before it there may be what was said before the reset.
        del self._unread[: begins[-1] if begins else -_LONGEST_READY]


class Control:
    """One end of the channel.

    Who has once said what is no frame of ours cannot be followed any more: all that comes later is
    refused with the same error.

    Args:
        connection: our end of the socket pair; closed by `close`.
        window: memory that the guest may share with us; closed likewise.

    Attributes:
        deaths: descriptors that become readable when a process of this VM ends.
    """

    def __init__(self, connection: socket.socket, window: Window | None = None) -> None:
        self.deaths: Sequence[int] = ()
        self._window = window
        self._channel = Channel(connection, WHO)
        self._frames = Frames()
        self._broken: GuestSaidError | None = None

    def await_number(self, kind: str, deadline: float, check: Callable[[], None]) -> int | None:
        """Return the number in the next frame of ``kind``; None at the deadline.

        Args:
            kind: the frame's type; others before it are passed over.
            deadline: `clock.now` value.
            check: raises when a process of this VM has ended.

        Raises:
            GuestSaidError: what came is malformed.
        """
        while (frame := self.receive(deadline, check)) is not None:
            if frame[0] == kind:
                return int(frame[1])
        return None

    def await_begin(
        self, kind: str, number: int, deadline: float, check: Callable[[], None]
    ) -> bool:
        """Return whether a frame with this number has come; False at the deadline.

        Whatever came before it was written by others, who had the port first, and is passed over.

        Args:
            kind: the frame's type.
            number: what stands in it.
            deadline: `clock.now` value.
            check: as for `await_number`.

        Raises:
            ConnectionError: QEMU hung up.
        """
        whole = _frame(kind, str(number).encode())
        while not self._frames.skip_past(whole):
            data = self._channel.receive(deadline, check, self.deaths)
            if not data:
                return False
            self._frames.feed(data)
        return True

    def receive(
        self, deadline: float | None, check: Callable[[], None]
    ) -> tuple[str, bytes] | None:
        """Return the next frame's type and payload; None at the deadline.

        What lies in the window comes as the payload of a frame that could be as long.

        Args:
            deadline: `clock.now` value; None waits for ever.
            check: as for `await_number`.

        Raises:
            ConnectionError: QEMU hung up.
            GuestSaidError: what came is malformed, or something before was.
        """
        if self._broken is not None:
            raise GuestSaidError(**self._broken.fields)
        try:
            while (frame := self._frames.next()) is None:
                data = self._channel.receive(deadline, check, self.deaths)
                if not data:
                    return None
                self._frames.feed(data)
        except GuestSaidError as error:
            self._broken = error
            raise
        kind, payload = frame
        if kind in _IN_WINDOW:
            return _IN_WINDOW[kind], self._from_window(kind, payload)
        if kind in {READY, CLOCK} and self._window is not None:
            self._window.look()
        return frame

    @property
    def window(self) -> Window | None:
        """The memory that we share with the agent as it is now, if any."""
        return self._window if self._window is not None and self._window.seen else None

    def read(self) -> None:
        """Let the agent use all of the window again, whether what lies there was read or not.

        Raises:
            OSError: QEMU hung up.
        """
        if self.window is not None:
            for kind in _IN_WINDOW:
                self.send("R", kind.encode())

    def send_size(self, kind: str, size: int) -> None:
        """Send a frame that tells of so many bytes in the window.

        Raises:
            MachineError, OSError: as `send`.
        """
        self.send(kind, struct.pack("<I", size))

    def _from_window(self, kind: str, payload: bytes) -> bytes:
        if self.window is None:
            raise self.refused("it tells of a window, and has not shown that it sees one", payload)
        data = self.window.output(kind, int(payload))
        self.send("R", kind.encode())
        return data

    def refused(self, problem: str, payload: bytes) -> GuestSaidError:
        """Return the error of a frame that nobody may send now; nothing is received after it."""
        self._broken = malformed(WHO, problem, payload)
        return self._broken

    def send(self, kind: str, payload: bytes = b"") -> None:
        """Send a frame.

        Raises:
            MachineError: the guest has not read what it was sent before, for long.
            OSError: QEMU hung up.
        """
        # Who reads has room: no more than one large frame is under way at a time.
        if not self._channel.send(_frame(kind, payload), 0.0, lambda: None):
            raise MachineError("the guest's agent does not read what it is sent")

    def send_clock(self, now: float, *, seed: bool = False) -> None:
        """Ask for the guest's clock to be set; the answer is a frame of type `CLOCK`.

        Args:
            now: seconds since the epoch.
            seed: send one for random numbers too. The guest was restored, and so are others like
                it.

        Raises:
            OSError: QEMU hung up.
        """
        if self._window is not None:
            self._window.offer()
        whole = int(now)
        time_spec = struct.pack("<qq", whole, int((now - whole) * 1e9))
        self.send(CLOCK, time_spec + (os.urandom(_SEED) if seed else b""))

    def send_mark(self) -> None:
        """Ask for a frame of type `CLOCK` and for nothing else: the guest refuses this time.

        Raises:
            OSError: QEMU hung up.
        """
        self.send(CLOCK, struct.pack("<qq", 0, -1))

    def begin_anew(self) -> None:
        """Forget what a guest that was reset has said, up to where its agent is ready again."""
        self._frames, self._broken = Frames(lost=True), None
        if self._window is not None:
            self._window.offer()

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._channel.close()
        if self._window is not None:
            self._window.close()


def _frame(kind: str, payload: bytes) -> bytes:
    return kind.encode() + len(payload).to_bytes(_HEAD - 1, "little") + payload


def _is_an_end(status: int) -> bool:
    """Whether it is the wait status of an exit, or of a signal, with a core dump or without."""
    signal = status & ~_DUMPED
    return not status & 0xFF or 0 < signal <= _LAST_SIGNAL

r"""Ethernet frames between our process and QEMUs, one datagram a frame.

A `Pump` is one thread that reads any number of `Link`\ s; what becomes of a frame is told by the
function that a link was made with. Source: the invocation chapter of QEMU's documentation,
``-netdev dgram``.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_FRAME = 65536
# Frames kept for a QEMU that does not read just now; TCP sends again what is lost beyond.
_MOST_WAITING = 2048
_LINK_BYTES = 1 << 20


class Link:
    """Our end of a connection to a QEMU, which inherits the other. Made by `Pump.link`.

    Attributes:
        dropped: frames that could not be delivered.
    """

    def __init__(self, pump: Pump, handle: Callable[[bytes], None]) -> None:
        self.dropped = 0
        self._pump = pump
        self._handle = handle
        self._waiting: deque[bytes] = deque()
        self._ours, self._qemu_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BYTES)

    @property
    def waiting(self) -> int:
        """How many frames wait for QEMU to read."""
        return len(self._waiting)

    @property
    def qemu_fd(self) -> int:
        """The descriptor for QEMU to inherit: ``-netdev dgram,local.type=fd,local.str=…``."""
        return self._qemu_end.fileno()

    def send(self, frame: bytes) -> None:
        """Send a frame, now or when QEMU reads again; for functions that handle frames only."""
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(frame)
        if len(self._waiting) == 1:
            self._flush()
            if self._waiting:
                self._pump.watch(self, writable=True)

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._ours.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # QEMU has ended, or the frame is too long
                self.dropped += 1
            self._waiting.popleft()

    def on_event(self, events: int) -> None:
        """Read a frame, or send what waits; called by the pump."""
        if events & selectors.EVENT_WRITE:
            self._flush()
            if not self._waiting:
                self._pump.watch(self, writable=False)
        if events & selectors.EVENT_READ:
            try:
                frame = self._ours.recv(_LONGEST_FRAME)
            except OSError:
                return  # nothing there after all
            self._handle(frame)

    def fileno(self) -> int:
        """Return the descriptor of our end."""
        return self._ours.fileno()

    def close(self) -> None:
        """Close both ends; QEMU keeps its own."""
        self._ours.close()
        self._qemu_end.close()


class Pump:
    """A thread that reads links; close it, or the thread lives as long as the process.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()  # held for one event at a time
        self._links: list[Link] = []
        with ExitStack() as stack:
            wake, wake_end = socket.socketpair()
            stack.enter_context(wake)
            stack.enter_context(wake_end)
            # An epoll or kqueue takes notice of what is registered while it waits.
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(wake, selectors.EVENT_READ, None)
            stack.callback(self._close_links)
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            thread.start()
            # Run in the opposite order: the thread is woken, and has ended before all else goes.
            stack.callback(thread.join)
            stack.callback(wake_end.close)
            self._close = stack.pop_all().close

    def link(self, handle: Callable[[bytes], None]) -> Link:
        """Return a new link whose frames ``handle`` is given, in the pump's thread."""
        with self._lock:
            link = Link(self, handle)
            self._links.append(link)
            self._selector.register(link, selectors.EVENT_READ, link)
        return link

    def unlink(self, link: Link) -> None:
        """Close a link. Not from a function that handles frames."""
        with self._lock:
            self._links.remove(link)
            self._selector.unregister(link)
            link.close()

    def watch(self, link: Link, *, writable: bool) -> None:
        """Have the link told when QEMU reads again, or no more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(link, events, link)

    def close(self) -> None:
        """End the thread and close every link. Safe to call again."""
        self._close()

    def _close_links(self) -> None:
        while self._links:
            self._links.pop().close()

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    return
                with self._lock:
                    if key.data in self._links:  # else it was closed since its event
                        key.data.on_event(events)

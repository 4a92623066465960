r"""Ethernet frames between our process and QEMUs, one datagram a frame.

A `Pump` is one thread that reads any number of `Link`\ s, and other sockets beside them; what
becomes of a frame is told by the function that a link was made with. Sources: the invocation
chapter of QEMU's documentation, ``-netdev dgram``; socket(7), ``SO_ATTACH_FILTER``.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import struct
import threading
from collections import deque
from contextlib import ExitStack
from threading import Thread
from typing import TYPE_CHECKING

from pytest_vmports.system import sockets

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_FRAME = 65536
# Frames kept for a QEMU that does not read just now; TCP sends again what is lost beyond.
_MOST_WAITING, _MOST_WAITING_BYTES = 2048, 8 << 20
# All fragments of UDP's longest datagram and some more, where the kernel allows.
_LINK_BYTES = 1 << 20
# Source: asm-generic/socket.h; the same on x86-64 and arm64. Python's socket module has no name
# for it.
_ATTACH_FILTER = 26
_STEP_BYTES = 8


def attach_filter(receiver: socket.socket, program: bytes) -> None:
    """Have the kernel look at what is sent to a socket, and drop what ``program`` tells.

    Args:
        receiver: what is sent to it is filtered.
        program: an array of ``struct sock_filter`` (classic BPF).

    Raises:
        OSError: the kernel has no such filters, or does not take this one.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("@HP", len(program) // _STEP_BYTES, ctypes.addressof(buffer))
    receiver.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, given)


class Link:
    """Our end of a connection to a QEMU, which inherits the other. Made by `Pump.link`.

    Attributes:
        dropped: frames that could not be delivered.
    """

    def __init__(self, pump: Pump, handle: Callable[[bytes], None]) -> None:
        self.dropped: int = 0
        self._pump = pump
        self._handle = handle
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._ours, self._qemu_end = sockets.pair(socket.SOCK_DGRAM)
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

    def filter(self, program: bytes) -> None:
        """Have the kernel drop frames of the guest's before they get here; see `attach_filter`."""
        attach_filter(self._ours, program)

    def send(self, frame: bytes) -> bool:
        """Send a frame, now or when QEMU reads again; for functions that the pump calls only.

        Returns:
            whether there was room for it.
        """
        full = self._waiting_bytes >= _MOST_WAITING_BYTES
        if full or len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return False
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if len(self._waiting) == 1:
            self._flush()
            if self._waiting:
                self._pump.watch(self, writable=True)
        return True

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._ours.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # QEMU has ended, or the frame is too long
                self.dropped += 1
            self._waiting_bytes -= len(self._waiting.popleft())

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
    """A thread that reads links and sockets; close it, or the thread lives as long as the process.

    Args:
        name: the thread's.

    Attributes:
        lock: held during each event. Whoever holds it may change what those work with, and add and
            remove sockets.
    """

    def __init__(self, name: str) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._files: list[Link | socket.socket] = []
        with ExitStack() as stack:
            wake, wake_end = sockets.pair()
            stack.enter_context(wake)
            stack.enter_context(wake_end)
            # An epoll or kqueue takes notice of what is registered while it waits.
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(wake, selectors.EVENT_READ, None)
            stack.callback(self._close_files)
            thread = Thread(target=self._run, name=name, daemon=True)
            thread.start()
            # Run in the opposite order: the thread is woken, and has ended before all else goes.
            stack.callback(thread.join)
            stack.callback(wake_end.close)
            self._close = stack.pop_all().close

    def link(self, handle: Callable[[bytes], None]) -> Link:
        """Return a new link whose frames ``handle`` is given, in the pump's thread."""
        link = Link(self, handle)
        try:
            self.add(link, link.on_event)
        except BaseException:
            link.close()
            raise
        return link

    def add(self, file: Link | socket.socket, on_event: Callable[[int], None]) -> None:
        """Read another socket, which is the pump's to close from now on.

        Args:
            file: the socket; it does not block.
            on_event: called in the pump's thread when there is something to read, with the
                selector's events.

        Raises:
            OSError: the kernel does not let us watch any more; the socket is the caller's still.
        """
        with self.lock:
            self._selector.register(file, selectors.EVENT_READ, on_event)
            self._files.append(file)

    def remove(self, file: Link | socket.socket) -> None:
        """Close a link or socket. Not from a function that the pump calls."""
        with self.lock:
            self._files.remove(file)
            self._selector.unregister(file)
            file.close()

    def watch(self, link: Link, *, writable: bool) -> None:
        """Have the link told when QEMU reads again, or no more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(link, events, link.on_event)

    def close(self) -> None:
        """End the thread and close every link and socket. Safe to call again."""
        self._close()

    def _close_files(self) -> None:
        while self._files:
            self._files.pop().close()

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    return
                with self.lock:
                    if key.fileobj in self._files:  # else it was closed since its event
                        key.data(events)

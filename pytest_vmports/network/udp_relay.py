"""UDP for a guest behind ``restrict=on``: a relay in our own process.

libslirp, the network of QEMU's ``-netdev user``, drops every UDP packet of a restricted guest, and
with them its answers to what ``hostfwd`` delivered (libslirp's ``udp.c``). So the relay is a second
neighbour of the guest, on a QEMU hub: it owns one address there, brings it the datagrams that
arrive on the host's ports, and takes answers to those back. It forwards nothing else: the guest
cannot begin a conversation.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import struct
import sys
import threading
from collections import OrderedDict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_vmports.constants import MAX_PORT, UDP_RELAY_MAC
from pytest_vmports.errors import ForwardError
from pytest_vmports.network.udp_frames import LONGEST_PAYLOAD, Receiver, arp_answer, to_guest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.models import ExposedPort

    Address = tuple[str, int]

# Clients remembered at a time; an answer to the one that was silent longest gets lost.
MOST_CLIENTS = 1024
# The relay's own ports, one a client: where the kernels of most guests choose theirs.
_FIRST_PORT = 32768
_LONGEST_FRAME = 65536
# All fragments of the longest datagram and some more, where the kernel allows.
_LINK_BYTES = 1 << 20
# QEMU reads while its guest runs or not; one that has not by then hangs.
_SEND_SECONDS = 0.2
# Of Linux on x86-64 and arm64; Python's socket module does not name it.
_SO_ATTACH_FILTER = 26


@dataclass(frozen=True)
class _Conversation:
    """Who is spoken for by one of the relay's own ports."""

    port: ExposedPort
    client: Address


class UdpRelay:
    """A neighbour of one guest that brings it datagrams and takes its answers back.

    Close it, or its thread and sockets live as long as the process.

    Attributes:
        dropped: datagrams and frames that were lost because a send failed.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._lock = threading.Lock()  # held for one event at a time
        self._receiver = Receiver()
        self._ident = 0
        self._sockets: dict[ExposedPort, socket.socket] = {}
        self._conversations: OrderedDict[_Conversation, int] = OrderedDict()
        self._by_own_port: dict[int, _Conversation] = {}
        self._last_own_port = MAX_PORT
        with ExitStack() as stack:
            self._link, self._qemu_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            stack.enter_context(self._link)
            stack.enter_context(self._qemu_end)
            _ignore_others(self._link)
            self._link.settimeout(_SEND_SECONDS)
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BYTES)
            wake, wake_end = socket.socketpair()
            stack.enter_context(wake)
            stack.enter_context(wake_end)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(wake, selectors.EVENT_READ, None)
            self._selector.register(self._link, selectors.EVENT_READ, self._from_guest)
            stack.callback(self._close_ports)
            thread = threading.Thread(target=self._run, name="vmports-udp", daemon=True)
            thread.start()
            # Run in the opposite order: the thread is woken, and has ended before all else goes.
            stack.callback(thread.join)
            stack.callback(wake_end.close)
            self._close = stack.pop_all().close

    @property
    def qemu_fd(self) -> int:
        """The descriptor for QEMU to inherit: ``-netdev dgram,local.type=fd,local.str=…``."""
        return self._qemu_end.fileno()

    def forward(self, port: ExposedPort) -> None:
        """Bind a host port and bring what arrives there to the guest from now on.

        Raises:
            ForwardError: it cannot be bound.
        """
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.bind(port.address)
            with self._lock:
                # The thread's wait takes notice of what is registered meanwhile: so epoll and
                # kqueue, the selectors of the systems we run on.
                self._selector.register(
                    bound, selectors.EVENT_READ, partial(self._from_client, port, bound)
                )
                self._sockets[port] = bound
        except OSError as error:
            bound.close()
            raise ForwardError(
                program="the UDP relay", port=port.external, protocol=port.protocol,
                host=port.host, detail=str(error),
            ) from error  # fmt: skip
        except BaseException:
            bound.close()
            raise

    def unforward(self, port: ExposedPort) -> None:
        """Close a host port; answers that are still to come for it get lost.

        Raises:
            KeyError: it is not forwarded.
        """
        with self._lock:
            bound = self._sockets.pop(port)
            self._selector.unregister(bound)
            bound.close()
            for conversation in [c for c in self._conversations if c.port == port]:
                self._forget(conversation)

    def close(self) -> None:
        """End the thread and close everything. Safe to call again."""
        self._close()

    def _close_ports(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with self._lock:
                    key.data()

    def _from_client(self, port: ExposedPort, bound: socket.socket) -> None:
        try:
            payload, client = bound.recvfrom(_LONGEST_FRAME)
        except OSError:
            return  # closed between its event and this, or what came had a wrong checksum
        if len(payload) > LONGEST_PAYLOAD:
            self.dropped += 1
            return
        own_port = self._own_port(_Conversation(port, client))
        self._ident = (self._ident + 1) % 0x10000
        self._send(to_guest(own_port, port.internal, payload, self._ident))

    def _from_guest(self) -> None:
        try:
            frame = self._link.recv(_LONGEST_FRAME)
        except OSError:
            return  # nothing there after all
        answer = arp_answer(frame)
        if answer is not None:
            self._send([answer])
            return
        datagram = self._receiver.read(frame)
        conversation = datagram and self._by_own_port.get(datagram.target)
        if not datagram or not conversation or datagram.source != conversation.port.internal:
            return
        self._conversations.move_to_end(conversation)
        try:
            self._sockets[conversation.port].sendto(datagram.payload, conversation.client)
        except OSError:
            # The client cannot be reached just now, or its answers pile up: its loss alone, and
            # one that UDP allows.
            self.dropped += 1

    def _send(self, frames: Iterable[bytes]) -> None:
        try:
            for frame in frames:
                self._link.send(frame)
        except OSError:
            # QEMU has ended or does not read. The rest of a datagram is worth nothing then.
            self.dropped += 1

    def _own_port(self, conversation: _Conversation) -> int:
        """Return the relay's own port for a client, a new one for a new client."""
        known = self._conversations.get(conversation)
        if known is not None:
            self._conversations.move_to_end(conversation)
            return known
        while len(self._conversations) >= MOST_CLIENTS:
            self._forget(next(iter(self._conversations)))
        # In turn, so that a late answer to a forgotten client does not reach another.
        while True:
            self._last_own_port = _next(self._last_own_port)
            if self._last_own_port not in self._by_own_port:
                break
        self._conversations[conversation] = self._last_own_port
        self._by_own_port[self._last_own_port] = conversation
        return self._last_own_port

    def _forget(self, conversation: _Conversation) -> None:
        del self._by_own_port[self._conversations.pop(conversation)]


def _next(port: int) -> int:
    return port + 1 if port < MAX_PORT else _FIRST_PORT


def _ignore_others(link: socket.socket) -> None:
    """Have the kernel drop what is not for the relay, where it can.

    A hub shows the relay the guest's TCP too; waking our thread for each packet of it would slow
    down the test. The relay looks for itself all the same. Source: the kernel's documentation of
    socket filters.
    """
    if not sys.platform.startswith("linux"):
        return
    mac = bytes.fromhex(UDP_RELAY_MAC.replace(":", ""))
    load_word, load_half, jump_if_equal, give_back = 0x20, 0x28, 0x15, 0x06
    program = [
        (load_half, 0, 0, 12),  # the kind of frame
        (jump_if_equal, 4, 0, 0x0806),  # ARP: to the end but one
        (load_word, 0, 0, 0),  # whom it is for
        (jump_if_equal, 0, 3, int.from_bytes(mac[:4], "big")),
        (load_half, 0, 0, 4),
        (jump_if_equal, 0, 1, int.from_bytes(mac[4:], "big")),
        (give_back, 0, 0, _LONGEST_FRAME),
        (give_back, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    # Where a kernel or a sandbox refuses it, all is as before but slower.
    with suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)

"""UDP for a guest behind ``restrict=on``: a relay in our own process.

libslirp, the network of QEMU's ``-netdev user``, drops every UDP packet of a restricted guest, and
with them its answers to what ``hostfwd`` delivered (libslirp's ``udp.c``). So the relay is a second
neighbour of the guest, on a QEMU hub: it owns one address there, brings it the datagrams that
arrive on the host's ports, and takes answers to those back. It forwards nothing else: the guest
cannot begin a conversation.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.constants import MAX_PORT, UDP_RELAY_MAC
from pytest_vmports.errors import ForwardError
from pytest_vmports.network.links import Pump
from pytest_vmports.network.udp_frames import LONGEST_PAYLOAD, Receiver, arp_answer, to_guest
from pytest_vmports.system import sockets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.links import Link

    Address = tuple[str, int]

# Clients remembered at a time; an answer to the one that was silent longest gets lost.
MOST_CLIENTS = 1024
# The relay's own ports, one a client: where the kernels of most guests choose theirs.
_FIRST_PORT = 32768
_LONGEST_FRAME = 65536


@dataclass(frozen=True)
class _Conversation:
    """Who is spoken for by one of the relay's own ports."""

    port: ExposedPort
    client: Address


class UdpRelay:
    """A neighbour of one guest that brings it datagrams and takes its answers back.

    Close it, or its thread and sockets live as long as the process.
    """

    def __init__(self) -> None:
        self._lost = 0
        self._receiver = Receiver()
        self._ident = 0
        self._sockets: dict[ExposedPort, socket.socket] = {}
        self._conversations: OrderedDict[_Conversation, int] = OrderedDict()
        self._by_own_port: dict[int, _Conversation] = {}
        self._last_own_port = MAX_PORT
        self._pump = Pump("vmports-udp")
        try:
            self._link = self._pump.link(self._from_guest)
            _ignore_others(self._link)
        except BaseException:
            self.close()
            raise

    @property
    def dropped(self) -> int:
        """How many datagrams and frames were lost because a send failed."""
        return self._lost + self._link.dropped

    @property
    def qemu_fd(self) -> int:
        """The descriptor for QEMU to inherit: ``-netdev dgram,local.type=fd,local.str=…``."""
        return self._link.qemu_fd

    def forward(self, port: ExposedPort) -> None:
        """Bind a host port and bring what arrives there to the guest from now on.

        Raises:
            ForwardError: it cannot be bound.
        """
        bound = sockets.Socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.bind(port.address)
            with self._pump.lock:
                self._pump.add(bound, lambda _: self._from_client(port, bound))
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
        with self._pump.lock:
            self._pump.remove(self._sockets.pop(port))
            for conversation in [c for c in self._conversations if c.port == port]:
                self._forget(conversation)

    def close(self) -> None:
        """End the thread and close everything. Safe to call again."""
        self._pump.close()

    def _from_client(self, port: ExposedPort, bound: socket.socket) -> None:
        try:
            payload, client = bound.recvfrom(_LONGEST_FRAME)
        except OSError:
            return  # closed between its event and this, or what came had a wrong checksum
        if len(payload) > LONGEST_PAYLOAD:
            self._lost += 1
            return
        own_port = self._own_port(_Conversation(port, client))
        self._ident = (self._ident + 1) % 0x10000
        self._send(to_guest(own_port, port.internal, payload, self._ident))

    def _from_guest(self, frame: bytes) -> None:
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
            self._lost += 1

    def _send(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            if not self._link.send(frame):
                return  # QEMU does not read. The rest of a datagram is worth nothing then.

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


def _ignore_others(link: Link) -> None:
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
    # Where a kernel or a sandbox refuses it, all is as before but slower.
    with suppress(OSError):
        link.filter(b"".join(struct.pack("=HBBI", *step) for step in program))

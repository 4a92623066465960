"""The name server that a guest's questions are led to: it notes them, and asks the host's.

It answers on the loopback, where gvproxy alone is led to it (see `outgoing`). A question is put
anew, so that nothing but a name and a record's type leaves by it. What answers is not trusted: of
an answer those addresses count that belong to the name that was asked for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from threading import Thread
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from pytest_vmports.errors import GuestSaidError
from pytest_vmports.network.destinations import plain_name
from pytest_vmports.network.links import Pump
from pytest_vmports.system import clock, resolving, sockets
from pytest_vmports.system.poll import readable
from pytest_vmports.system.said import malformed, said_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vmports.network.destinations import Destinations
    from pytest_vmports.network.log import NetworkLog
    from pytest_vmports.system.sockets import Address

NOT_LISTED = "not in allow_network"
"""Why something is refused that nothing allows."""
MOST_AT_ONCE, MOST_WAITING = 64, 256
"""Questions that are being answered, and that wait for that; who asks more gets no answer, and asks
again after seconds. A browser, or a package manager, asks for some fifty at a time."""
_LONGEST, _LEAST_ANSWER, _OURS = 65535, 512, 1232
# gvproxy asks again after five seconds.
_SERVER_SECONDS, _CLIENT_SECONDS = 2.0, 5.0
_LENGTH = struct.Struct("!H")
_GUEST = "the guest's question for a name"
_VERDICTS = {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}
_ADDRESSES = {(dns.rdataclass.IN, kind) for kind in (dns.rdatatype.A, dns.rdatatype.AAAA)}
# dnspython loads what reads a type when the first comes, when a test may have replaced the imports.
for _type in ("A", "AAAA", "CNAME", "SOA", "NS", "MX", "SRV", "TXT", "PTR", "OPT"):
    dns.rdata.get_rdata_class(  # type: ignore[no-untyped-call]
        dns.rdataclass.IN, dns.rdatatype.from_text(_type)
    )


class Names:
    """One guest's.

    Args:
        allowed: whose names may be asked for; None for all.
        log: takes note of each question.
        learn: is told a name and the addresses that it led to, before the guest is.
    """

    def __init__(
        self,
        allowed: Destinations | None,
        log: NetworkLog,
        learn: Callable[[str, list[str]], None],
    ) -> None:
        self._allowed, self._log, self._learn = allowed, log, learn
        self._lock = threading.Lock()
        self._answering = 0
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._pump: Pump | None = None
        self._addresses: dict[str, tuple[str, int]] = {}
        self._closed = False

    def address(self, protocol: str) -> tuple[str, int]:
        """Return where it answers by ``tcp`` or ``udp``; from the first time on it does.

        Raises:
            OSError: no socket can be had, or it was closed.
        """
        if self._closed:
            raise OSError("it was closed")
        if self._pump is None:
            self._open()
        return self._addresses[protocol]

    def close(self) -> None:
        """End it. Safe to call again."""
        self._closed = True
        if self._pump is not None:
            self._pump.close()

    def _open(self) -> None:
        with contextlib.ExitStack() as stack:
            udp = stack.enter_context(sockets.Socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp = stack.enter_context(sockets.Socket(socket.AF_INET, socket.SOCK_STREAM))
            for bound in (udp, tcp):
                bound.setblocking(False)
                bound.bind(("127.0.0.1", 0))
            tcp.listen()
            pump = Pump("vmports-names")
            stack.callback(pump.close)
            pump.add(udp, lambda _: self._from_udp(udp))
            pump.add(tcp, lambda _: self._from_tcp(tcp))
            self._addresses = {"udp": udp.getsockname(), "tcp": tcp.getsockname()}
            self._pump = pump
            stack.pop_all()

    def _from_udp(self, udp: socket.socket) -> None:
        with contextlib.suppress(OSError):  # nothing there after all
            question, client = udp.recvfrom(_LONGEST)
            self._begin(lambda: self._answer_udp(udp, question, client), MOST_WAITING)

    def _from_tcp(self, tcp: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = tcp.accept()
            if not self._begin(lambda: self._answer_tcp(connection)):
                connection.close()

    def _begin(self, answer: Callable[[], None], most_waiting: int = 0) -> bool:
        """Answer in a thread of its own, since servers let us wait, now or when one is free.

        Return whether there was room.
        """
        with self._lock:
            if self._answering >= MOST_AT_ONCE:
                if len(self._waiting) < most_waiting:
                    self._waiting.append((clock.now() + _CLIENT_SECONDS, answer))
                    return True
                return False
            self._answering += 1
        try:
            Thread(
                target=self._answer_all, args=(answer,), name="vmports-name", daemon=True
            ).start()
        except RuntimeError:  # we may start no thread more
            with self._lock:
                self._answering -= 1
            return False
        return True

    def _answer_all(self, answer: Callable[[], None] | None) -> None:
        try:
            while answer is not None:
                # A question that means nothing, or somebody who has gone.
                with contextlib.suppress(OSError, GuestSaidError):
                    answer()
                answer = self._next()
        except BaseException:
            with self._lock:
                self._answering -= 1
            raise

    def _next(self) -> Callable[[], None] | None:
        """Return what has waited longest and is still waited for; None gives the room back."""
        with self._lock:
            while self._waiting:
                until, answer = self._waiting.popleft()
                if clock.now() < until and not self._closed:
                    return answer
            self._answering -= 1
            return None

    def _answer_udp(self, udp: socket.socket, question: bytes, client: tuple[str, int]) -> None:
        asked = _parsed(question, _GUEST)
        answer = self.answer(asked)
        room = (
            max(_LEAST_ANSWER, min(asked.payload, _LONGEST)) if asked.edns >= 0 else _LEAST_ANSWER
        )
        wire = _wire(answer)
        if len(wire) > room:  # it is to ask by TCP
            short = dns.message.make_response(asked)
            short.flags |= dns.flags.TC | dns.flags.RA
            wire = _wire(short)
        udp.sendto(wire, client)

    def _answer_tcp(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_CLIENT_SECONDS)
            while question := _message(connection):
                answer = self.answer(_parsed(question, _GUEST))
                wire = _wire(answer)
                connection.sendall(_LENGTH.pack(len(wire)) + wire)

    def answer(self, asked: dns.message.Message) -> dns.message.Message:
        """Return the answer to a question, after taking note of it.

        Raises:
            GuestSaidError: it is no question.
        """
        with _read(_GUEST, asked):
            return self._answer(asked)

    def _answer(self, asked: dns.message.Message) -> dns.message.Message:
        if asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
            raise malformed(_GUEST, "it asks for no name", asked)
        (question,) = asked.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        listed = [] if self._allowed is None else self._allowed.named(name)
        allowed = self._allowed is None or bool(listed)
        why = str(listed[0]) if listed else ("allow_network" if allowed else NOT_LISTED)
        self._log.note("name", name=plain_name(name), protocol=kind, allowed=allowed, why=why)
        answer = dns.message.make_response(asked)
        answer.flags |= dns.flags.RA
        found = self._ask(question) if allowed else None
        if found is None:
            answer.set_rcode(dns.rcode.SERVFAIL if allowed else dns.rcode.NXDOMAIN)
            return answer
        if (question.rdclass, question.rdtype) in _ADDRESSES:
            self._learn(plain_name(name), _addresses(found))
        answer.answer, answer.authority = found.answer, found.authority
        answer.set_rcode(found.rcode())
        return answer

    def _ask(self, question: dns.rrset.RRset) -> dns.message.Message | None:
        """Return what the first of the host's name servers says that knows; None for nothing.

        One may refuse what is not its own, as a VPN's does: the next one is asked, as libraries do.
        """
        query = dns.message.make_query(
            question.name, question.rdtype, question.rdclass, use_edns=0, payload=_OURS
        )
        refusal = None
        for server in upstream():
            with contextlib.suppress(OSError, GuestSaidError):
                answer = _by_udp(query, server)
                if answer.flags & dns.flags.TC:
                    answer = _by_tcp(query, server)
                if answer.rcode() in _VERDICTS:
                    return answer
                refusal = refusal or answer
        return refusal


def upstream() -> list[Address]:
    """Return where the host's name servers answer, the first to be asked first."""
    found: list[Address] = []
    for server in resolving.name_servers(zones=True):
        address, _, zone = server.partition("%")
        if not zone:
            found.append((address, resolving.PORT))
            continue
        with contextlib.suppress(OSError):  # there is no such interface
            index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
            found.append((address, resolving.PORT, 0, index))
    return found


def _by_udp(query: dns.message.Message, server: Address) -> dns.message.Message:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    deadline = clock.now() + _SERVER_SECONDS
    with sockets.Socket(family, socket.SOCK_DGRAM) as udp:
        udp.connect(server)
        udp.send(query.to_wire())
        # Who guesses the port may send what is no answer of the server's.
        while readable([udp], deadline - clock.now()):
            with contextlib.suppress(GuestSaidError):
                answer = _parsed(udp.recv(_LONGEST), f"the name server {server[0]}")
                if query.is_response(answer):
                    return answer
    raise TimeoutError(f"no answer of {server[0]}")


def _by_tcp(query: dns.message.Message, server: Address) -> dns.message.Message:
    wire = query.to_wire()
    with sockets.connected(server, _SERVER_SECONDS) as tcp:
        tcp.sendall(_LENGTH.pack(len(wire)) + wire)
        answer = _parsed(_message(tcp), f"the name server {server[0]}")
    if not query.is_response(answer):
        raise malformed(f"the name server {server[0]}", "it is the answer to something else")
    return answer


def _message(tcp: socket.socket) -> bytes:
    """Return the next message of a connection; nothing at its end."""
    deadline = clock.now() + _CLIENT_SECONDS
    head = _exactly(tcp, _LENGTH.size, deadline)
    return _exactly(tcp, _LENGTH.unpack(head)[0], deadline) if head else b""


def _exactly(tcp: socket.socket, size: int, deadline: float) -> bytes:
    """Return so many bytes; nothing where there are fewer before the deadline or the end."""
    got = b""
    while len(got) < size and readable([tcp], deadline - clock.now()):
        more = tcp.recv(size - len(got))
        if not more:
            return b""
        got += more
    return got if len(got) == size else b""


def _parsed(wire: bytes, who: str) -> dns.message.Message:
    """Return a message.

    Raises:
        GuestSaidError: it is malformed.
    """
    with _read(who, wire):
        return dns.message.from_wire(wire)


def _wire(message: dns.message.Message) -> bytes:
    """Return a message as it is sent.

    Raises:
        GuestSaidError: it cannot be: a name server said more than a message holds.
    """
    with _read("a name server"):
        return message.to_wire(max_size=_LONGEST)


@contextlib.contextmanager
def _read(who: str, said: object = "") -> Iterator[None]:
    """Read what was said, as `said_by`; the library has an error of its own for malformed words."""
    with said_by(who, said):
        try:
            yield
        except dns.exception.DNSException as error:
            raise malformed(who, f"{type(error).__name__}: {error}", said) from error


def _addresses(answer: dns.message.Message) -> list[str]:
    """Return the addresses of the name that was asked for, by way of its other names."""
    if not isinstance(answer, dns.message.QueryMessage):
        return []
    try:
        found = answer.resolve_chaining().answer
    except dns.exception.DNSException:
        return []  # there is no such name, or its other names go round in a circle
    return [] if found is None else [one.address for one in found]

"""A name server for tests: on the loopback, saying what it is told to say."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading

import dns.message
import dns.rrset


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


def both(stack, where, by_udp, by_tcp):
    """Return servers of one port; a number that is free for UDP may be somebody's TCP port."""
    while True:
        udp = stack.enter_context(socketserver.ThreadingUDPServer(where, by_udp))
        try:
            return udp, stack.enter_context(Tcp(udp.server_address, by_tcp))
        except OSError:
            if where[1]:
                raise


@contextlib.contextmanager
def serving(answer, where=("127.0.0.1", 0)):
    """Run one and yield its address.

    Args:
        answer: is given each question as a message, and returns a message, bytes, or None for
            no answer.
        where: to listen.
    """

    def wire(question):
        said = answer(dns.message.from_wire(question))
        return said if said is None or isinstance(said, bytes) else said.to_wire(max_size=65535)

    class ByUdp(socketserver.BaseRequestHandler):
        def handle(self):
            question, back = self.request
            said = wire(question)
            if said is not None and len(said) > 1232:  # what our own questions have room for
                short = dns.message.make_response(dns.message.from_wire(question))
                short.flags |= dns.flags.TC
                said = short.to_wire()
            if said is not None:
                back.sendto(said, self.client_address)

    class ByTcp(socketserver.StreamRequestHandler):
        def handle(self):
            (size,) = struct.unpack("!H", self.rfile.read(2))
            said = wire(self.rfile.read(size))
            if said is not None:
                self.wfile.write(struct.pack("!H", len(said)) + said)

    with contextlib.ExitStack() as stack:
        udp, tcp = both(stack, where, ByUdp, ByTcp)
        udp.max_packet_size = 65535
        for server in (udp, tcp):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
        yield udp.server_address


def saying(*records):
    """Return what answers every question with these records, as ``"a.example. 60 IN A 192.0.2.7"``.

    Whatever was asked: whoever lies may.
    """

    def answer(question):
        said = dns.message.make_response(question)
        said.answer = [dns.rrset.from_text(*one.split(maxsplit=4)) for one in records]
        return said

    return answer

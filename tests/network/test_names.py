"""The name server that a guest's questions are led to, before real and lying ones."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from name_server import saying, serving
from vm_helpers import until

from pytest_vmports.errors import GuestSaidError
from pytest_vmports.network import names
from pytest_vmports.network.destinations import read
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.names import MOST_AT_ONCE, Names
from pytest_vmports.system import resolving

LISTED = read(["a.example", "*.b.example:443"])


class Relay:
    """One that is asked as gvproxy asks, and what it told."""

    def __init__(self, allowed):
        self.log, self.learned, self.seconds = NetworkLog(), [], 20
        self.names = Names(allowed, self.log, lambda *told: self.learned.append(told))

    def ask(self, name, kind="A", *, protocol="udp", **how):
        query = dns.message.make_query(name, kind, **how)
        answer = dns.message.from_wire(self.ask_wire(query.to_wire(), protocol))
        assert query.is_response(answer)
        return answer

    def ask_wire(self, wire, protocol="udp"):
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(type=kind) as asker:
            asker.settimeout(self.seconds)
            asker.connect(self.names.address(protocol))
            if protocol == "udp":
                asker.send(wire)
                return asker.recv(65535)
            asker.sendall(struct.pack("!H", len(wire)) + wire)
            return asker.makefile("rb").read(struct.unpack("!H", asker.recv(2))[0])

    def noted(self):
        return [(one.name, one.protocol, one.allowed, one.why) for one in self.log.entries()]


@pytest.fixture
def relay(monkeypatch):
    """Return a function that makes a relay before these name servers."""
    with contextlib.ExitStack() as stack:

        def make(*answers, allowed=LISTED):
            servers = [stack.enter_context(serving(answer)) for answer in answers]
            monkeypatch.setattr(names, "upstream", lambda: servers)
            made = Relay(allowed)
            stack.callback(made.names.close)
            return made

        yield make


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_listed_name_is_asked_for_and_what_it_led_to_is_learned_first(relay, protocol):
    one = relay(saying("a.example. 60 IN A 192.0.2.7", "a.example. 60 IN A 192.0.2.8"))
    answer = one.ask("A.Example.", protocol=protocol)
    assert sorted(record.address for record in answer.answer[0]) == ["192.0.2.7", "192.0.2.8"]
    ((name, addresses),) = one.learned
    assert name == "a.example" and sorted(addresses) == ["192.0.2.7", "192.0.2.8"]
    assert one.noted() == [("a.example", "A", True, "a.example")]


def test_a_name_that_is_not_listed_is_asked_of_nobody_and_does_not_exist(relay):
    asked = []
    one = relay(asked.append)
    for name in ("evil.example", "a.example.evil.example", "b.example", "xa.example"):
        assert one.ask(name).rcode() == dns.rcode.NXDOMAIN
        assert one.ask(name, "TXT", protocol="tcp").rcode() == dns.rcode.NXDOMAIN
    assert asked == [] and one.learned == []
    assert {allowed for _, _, allowed, _ in one.noted()} == {False}
    assert len(one.noted()) == 8


def test_without_a_list_every_name_is_asked_for_and_noted(relay):
    one = relay(saying("evil.example. 60 IN A 192.0.2.7"), allowed=None)
    assert one.ask("evil.example").rcode() == dns.rcode.NOERROR
    assert one.noted() == [("evil.example", "A", True, "allow_network")]


def test_other_names_lead_on(relay):
    one = relay(saying("a.example. 60 IN CNAME cdn.example.net.",
                       "cdn.example.net. 60 IN CNAME edge.example.net.",
                       "edge.example.net. 60 IN A 192.0.2.7"))  # fmt: skip
    one.ask("a.example")
    assert one.learned == [("a.example", ["192.0.2.7"])]


@pytest.mark.parametrize(
    "records",
    [
        ["other.example. 60 IN A 192.0.2.66"],
        ["a.example. 60 IN CNAME x.example.", "y.example. 60 IN A 192.0.2.66"],
        ["a.example. 60 IN CNAME a.example."],
        ["a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example."],
        ["a.example. 60 IN TXT 192.0.2.66"],
    ],
)
def test_addresses_that_are_not_those_of_the_name_are_not_learned(relay, records):
    one = relay(saying(*records))
    one.ask("a.example")
    assert [addresses for _, addresses in one.learned if addresses] == []


def test_an_answer_to_something_else_is_no_answer(relay):
    def another(question):
        return saying("a.example. 60 IN A 192.0.2.66")(dns.message.make_query("c.example", "A"))

    one = relay(another, saying("a.example. 60 IN A 192.0.2.7"))
    answer = one.ask("a.example")  # by the next server
    assert [record.address for record in answer.answer[0]] == ["192.0.2.7"]


@pytest.mark.parametrize("said", [None, b"", b"\0" * 11, b"nonsense" * 20])
def test_servers_that_say_nothing_leave_a_failure(relay, monkeypatch, said):
    monkeypatch.setattr(names, "_SERVER_SECONDS", 0.1)
    one = relay(lambda _question: said, lambda _question: said)
    assert one.ask("a.example").rcode() == dns.rcode.SERVFAIL
    assert one.learned == []


def test_a_server_that_is_not_there_is_passed_over(relay, monkeypatch):
    one = relay(saying("a.example. 60 IN A 192.0.2.7"))
    there, gone = names.upstream(), ("127.0.0.1", 1)
    monkeypatch.setattr(names, "upstream", lambda: [gone, *there])
    assert one.ask("a.example").answer


def refusing(code):
    def answer(question):
        refusal = dns.message.make_response(question)
        refusal.set_rcode(code)
        return refusal

    return answer


@pytest.mark.parametrize("code", [dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NOTIMP])
def test_a_server_that_does_not_know_is_passed_over(relay, code):
    one = relay(refusing(code), saying("a.example. 60 IN A 192.0.2.7"))
    assert [record.address for record in one.ask("a.example").answer[0]] == ["192.0.2.7"]


def test_of_servers_that_all_do_not_know_the_first_ones_word_is_passed_on(relay):
    one = relay(refusing(dns.rcode.REFUSED), refusing(dns.rcode.SERVFAIL))
    assert one.ask("a.example").rcode() == dns.rcode.REFUSED


def test_that_a_name_does_not_exist_is_a_verdict(relay):
    one = relay(refusing(dns.rcode.NXDOMAIN), saying("a.example. 60 IN A 192.0.2.7"))
    assert one.ask("a.example").rcode() == dns.rcode.NXDOMAIN


def test_a_link_local_server_is_asked_behind_its_interface(monkeypatch):
    servers = ["fe80::1%lo", "fe80::2%7", "fe80::3%never0", "10.0.0.1"]
    monkeypatch.setattr(resolving, "name_servers", lambda zones: servers if zones else [])
    lo = socket.if_nametoindex("lo")
    # The index has to stand there: of a zone in the host's name `connect` makes nothing.
    assert names.upstream() == [("fe80::1", 53, 0, lo), ("fe80::2", 53, 0, 7), ("10.0.0.1", 53)]


def test_a_long_answer_comes_by_tcp(relay):
    records = [f"a.example. 60 IN TXT {'x' * 200}{number}" for number in range(40)]
    one = relay(saying(*records))
    short = one.ask("a.example", "TXT")
    assert short.flags & dns.flags.TC and not short.answer
    whole = one.ask("a.example", "TXT", protocol="tcp")
    assert len(whole.answer[0]) == 40


def test_nothing_but_name_and_type_leaves_with_a_question(relay):
    seen = []

    def note(question):
        seen.append(question)
        return saying("a.example. 60 IN A 192.0.2.7")(question)

    one = relay(note)
    one.ask("a.example", use_edns=0, options=[dns.edns.GenericOption(65001, b"a secret")])
    (question,) = seen
    assert not question.options and not question.additional and not question.authority


def test_what_is_no_question_gets_no_answer_and_does_not_end_it(relay):
    one = relay(saying("a.example. 60 IN A 192.0.2.7"))
    update = dns.message.make_query("a.example", "A")
    update.set_opcode(dns.opcode.NOTIFY)
    two = dns.message.make_query("a.example", "A")
    two.question *= 2
    for message in (update, two):
        with pytest.raises(GuestSaidError):
            one.names.answer(message)
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        for wire in (b"", b"x", update.to_wire(), os.urandom(500)):
            asker.sendto(wire, one.names.address("udp"))
    with socket.create_connection(one.names.address("tcp")) as asker:
        asker.sendall(b"\xff\xff" + b"x" * 100)
    assert one.ask("a.example").answer


def test_ten_thousand_mutilated_messages_are_refused_or_read():
    seeded, query = random.Random(7), dns.message.make_query("a.b.example", "A", use_edns=0)
    answer = saying("a.b.example. 60 IN CNAME c.example.", "c.example. 60 IN A 192.0.2.7")(query)
    for number in range(10_000):
        wire = bytearray((query, answer)[number % 2].to_wire())
        for _ in range(seeded.randint(1, 6)):
            wire[seeded.randrange(len(wire))] = seeded.randrange(256)
        wire = bytes(wire[: seeded.randint(0, len(wire))] if seeded.random() < 0.3 else wire)
        with contextlib.suppress(GuestSaidError):
            message = names._parsed(wire, "a test")
            for address in names._addresses(message):
                ipaddress.ip_address(address)
            again = dns.message.make_response(query)
            again.answer, again.authority = message.answer, message.authority
            again.set_rcode(message.rcode())
            names._wire(again)


@contextlib.contextmanager
def asking(one, times):
    """Yield the socket by which one name was asked for so many times at once."""
    query = dns.message.make_query("a.example", "A").to_wire()
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(60)
        asker.connect(one.names.address("udp"))
        for _ in range(times):
            asker.send(query)
        yield asker


def test_a_guest_that_asks_for_more_than_can_be_answered_stops_nothing_else(relay, monkeypatch):
    monkeypatch.setattr(names, "_SERVER_SECONDS", 60.0)
    held, threads = threading.Event(), threading.active_count()

    def slow(question):
        held.wait(60)
        return saying("a.example. 60 IN A 192.0.2.7")(question)

    one = relay(slow)
    with asking(one, 5 * MOST_AT_ONCE) as asker:
        until(
            lambda: one.log.entries() and one.log.entries()[0].times >= MOST_AT_ONCE, 60,
            "as many questions as are answered at once",
        )  # fmt: skip
        # The server's threads and ours, one of each for a question, and the servers' and our own.
        assert threading.active_count() <= threads + 2 * MOST_AT_ONCE + 4
        held.set()
        for _ in range(MOST_AT_ONCE):
            assert asker.recv(1000)
    # What it has not read yet may leave no room for one more, and who is not heard asks again.
    one.seconds = 1

    def answered():
        with contextlib.suppress(TimeoutError):
            return one.ask("a.example").answer

    until(answered, 60, "an answer")


def test_as_many_questions_as_a_browser_has_are_answered_at_once(relay):
    together = threading.Barrier(50)

    def slow(question):
        together.wait(60)
        return saying("a.example. 60 IN A 192.0.2.7")(question)

    one = relay(slow)
    with asking(one, 50) as asker:
        for _ in range(50):
            assert dns.message.from_wire(asker.recv(1000)).answer


def test_a_host_without_threads_leaves_a_question_and_goes_on(relay, monkeypatch):
    one = relay(saying("a.example. 60 IN A 192.0.2.7"))
    assert one.ask("a.example").answer

    def none_left(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(2 * MOST_AT_ONCE):
            assert not one.names._begin(pytest.fail)
    assert one.ask("a.example").answer


def test_a_test_that_replaces_threads_leaves_names_to_the_guest(relay, monkeypatch):
    one = relay()
    monkeypatch.setattr(threading, "Thread", None)  # as a mock of a test's own
    assert one.ask("c.example").rcode() == dns.rcode.NXDOMAIN


def test_it_can_be_closed_before_and_after_it_was_used(relay):
    one, other = relay(saying()), relay(saying())
    one.names.close()
    with pytest.raises(OSError, match="closed"):
        one.names.address("udp")
    address = other.names.address("tcp")
    other.names.close()
    other.names.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)

"""What counts as an answer, with a wiring that is told what to say and real local sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.settings.wait_for import WaitFor
from pytest_vmports.vm.readiness import REFUSED, UNREACHED, Probe

GUEST_PORTS = (8080, 9090)


class GoneError(Exception):
    """Waiting is pointless."""


def alive():
    """Is called while a probe waits; the VM lives."""


class FakeWiring:
    """Knows of each guest port whether the guest took the connection; see `Wiring.watch`."""

    def __init__(self, *ports, taken=()):
        self.ports = ports
        self.taken = set(taken)
        self.watched = []
        self.asked = threading.Event()

    @contextlib.contextmanager
    def watch(self, port, monitor):
        self.watched.append((port.internal, monitor))
        yield lambda: self.asked.set() or port.internal in self.taken


class Server:
    """Stands for the forwarder: says ``answer`` to who connects, then closes or stays.

    ``None`` says nothing. ``asked`` is what was received until an empty line. ``resets`` is an
    event: at it the connection is not closed but reset.
    """

    def __init__(self, answer=None, *, stays=False, resets=None):
        self.answer, self.stays, self.resets = answer, stays, resets
        self.asked = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self):
        return self._listener.getsockname()[1]

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._held.append(connection)
                self._answer(connection)

    def _answer(self, connection):
        if self.answer is not None and self.answer.startswith(b"HTTP"):
            asked = b""
            while b"\r\n\r\n" not in asked and (chunk := connection.recv(1000)):
                asked += chunk
            self.asked.append(asked)
        for part in (self.answer or b"").partition(b" "):
            connection.sendall(part)
        if self.resets is not None:
            self.resets.wait(60)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if not self.stays:
            connection.close()

    def close(self):
        # A thread in accept() or recv() keeps its socket open until that is shut down.
        for one in (self._listener, *self._held):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        for one in (self._listener, *self._held):
            one.close()


@pytest.fixture
def serve():
    """Return a function that starts a server behind a guest port; all are closed after."""
    with contextlib.ExitStack() as stack:

        def started(internal, answer=None, protocol="tcp", **how):
            server = stack.enter_context(contextlib.closing(Server(answer, **how)))
            return ExposedPort(internal=internal, external=server.port, protocol=protocol), server

        yield started


def step(wait_for, wiring, *, seconds=10.0, check=alive, ports=None):
    probe = Probe(wait_for, wiring, "the monitor", ports)
    probe.step(time.monotonic() + seconds, check)
    return probe


# --- which ports --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait_for", "asked"),
    [
        (WaitFor("any"), {8080, 9090}),
        (WaitFor("all"), {8080, 9090}),
        (WaitFor("none"), set()),
        (WaitFor("ports", (9090,)), {9090}),
        (WaitFor("http", (8080,), "/up"), {8080}),
    ],
)
def test_only_tcp_ports_that_are_waited_for_are_asked(wait_for, asked):
    ports = [ExposedPort(internal=n, external=n) for n in GUEST_PORTS]
    udp = ExposedPort(internal=8080, external=5353, protocol="udp")
    probe = Probe(wait_for, FakeWiring(udp, *ports), None)
    assert probe.answers == dict.fromkeys(asked, "not asked yet")
    assert probe.done == (not asked)
    assert udp not in wait_for.candidates([udp, *ports])


def test_the_ports_given_win_over_the_wirings():
    one, other = (ExposedPort(internal=n, external=n) for n in GUEST_PORTS)
    assert set(Probe(WaitFor("all"), FakeWiring(one), None, [other]).answers) == {9090}
    assert Probe(WaitFor("all"), FakeWiring(one), None, []).done


@pytest.mark.parametrize(
    ("wait_for", "words"),
    [
        (WaitFor(), "any one forwarded TCP port"),
        (WaitFor("all"), "all forwarded TCP ports"),
        (WaitFor("none"), "nothing"),
        (WaitFor("ports", (1, 2)), "port 1, 2"),
        (WaitFor("http", (80,), "/up"), "an answer to GET /up on port 80"),
    ],
)
def test_what_is_waited_for_is_said_in_words(wait_for, words):
    assert str(wait_for) == words


# --- TCP ----------------------------------------------------------------------------------------


def test_a_connection_that_the_guest_took_is_an_answer(serve):
    port, _ = serve(8080, stays=True)
    wiring = FakeWiring(port, taken=[8080])
    probe = step(WaitFor(), wiring)
    assert probe.done and probe.answers == {8080: "answered"}
    assert wiring.watched == [(8080, "the monitor")]


def test_a_byte_is_an_answer_whatever_the_wiring_knows(serve):
    port, _ = serve(8080, b"220 mail", stays=True)
    assert step(WaitFor(), FakeWiring(port)).done


def test_a_connect_alone_is_no_answer(serve):
    port, _ = serve(8080, stays=True)
    probe = step(WaitFor(), FakeWiring(port))
    assert not probe.done
    assert probe.answers[8080].startswith("the guest has not answered")


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_a_connection_that_is_closed_at_once_is_a_refusal(serve, resets):
    wiring = FakeWiring()
    # Not before the connection was made: that would be another thing.
    port, _ = serve(8080, resets=wiring.asked if resets else None)
    wiring.ports = (port,)
    probe = step(WaitFor(), wiring)
    assert not probe.done
    assert probe.answers == {8080: REFUSED}


def test_a_connection_that_ends_without_a_word_of_the_guest_is_no_refusal(serve):
    class Knows(FakeWiring):
        @contextlib.contextmanager
        def watch(self, port, monitor):
            yield lambda: None

    port, _ = serve(8080)
    assert step(WaitFor(), Knows(port)).answers == {8080: UNREACHED}


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("any", "waiting for port 8080 or 9090: "), ("all", "waiting for port 8080 and 9090: "),
        ("none", ""),
    ],
)  # fmt: skip
def test_what_is_waited_for_is_one_line_with_what_it_says(serve, mode, said):
    ports = [serve(internal)[0] for internal in GUEST_PORTS]
    probe = Probe(WaitFor(mode), FakeWiring(*ports), None)
    assert probe.waited_for == (said and f"{said}not asked yet")
    probe.step(time.monotonic() + 10, alive)
    assert probe.waited_for == (said and said + REFUSED)


def test_what_has_answered_is_not_waited_for_any_more(serve):
    up, _ = serve(8080, stays=True)
    down, _ = serve(9090)
    probe = step(WaitFor("all"), FakeWiring(down, up, taken=[8080]))
    assert probe.waited_for == f"waiting for port 9090: {REFUSED}"


def test_a_guest_that_takes_a_connection_and_closes_it_has_answered(serve):
    port, _ = serve(8080)

    class LateWiring(FakeWiring):
        """Knows of the connection only once it is over."""

        @contextlib.contextmanager
        def watch(self, port, monitor):
            looks = iter([False])
            yield lambda: next(looks, True)

    assert step(WaitFor(), LateWiring(port)).done


def test_a_refusal_is_not_taken_back_by_silence(serve):
    port, server = serve(8080)
    probe = Probe(WaitFor(), FakeWiring(port), None)
    probe.step(time.monotonic() + 10, alive)
    server.stays = True
    probe.step(time.monotonic() + 10, alive)
    assert probe.answers == {8080: REFUSED}


def test_a_forward_that_is_not_there_is_told_as_such(serve):
    port, server = serve(8080)
    server.close()
    probe = step(WaitFor(), FakeWiring(port))
    assert not probe.done
    assert probe.answers[8080].startswith("the forward itself failed: ")


# --- any, all -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "done"), [("any", True), ("all", False)])
def test_one_of_two_is_enough_for_any_only(serve, mode, done):
    up, _ = serve(8080, stays=True)
    down, _ = serve(9090)
    probe = step(WaitFor(mode), FakeWiring(down, up, taken=[8080]))
    assert probe.done is done
    assert probe.answers == {
        8080: "answered",
        9090: REFUSED,
    }


def test_what_has_answered_is_not_asked_again(serve):
    ports = [serve(internal, stays=True)[0] for internal in GUEST_PORTS]
    wiring = FakeWiring(*ports, taken=[8080])
    probe = Probe(WaitFor("all"), wiring, None)
    probe.step(time.monotonic() + 10, alive)
    wiring.taken.add(9090)
    probe.step(time.monotonic() + 10, alive)
    assert probe.done
    assert [internal for internal, _ in wiring.watched] == [8080, 9090, 9090]


# --- deadlines, and a VM that ends --------------------------------------------------------------


def test_past_the_deadline_nothing_more_is_asked(serve):
    ports = [serve(internal, stays=True)[0] for internal in GUEST_PORTS]
    wiring = FakeWiring(*ports)
    probe = step(WaitFor("all"), wiring, seconds=0.0)
    assert not probe.done
    assert probe.answers[9090] == "not asked yet"


def test_one_try_is_short_however_far_the_deadline_is(serve):
    port, _ = serve(8080, stays=True)
    begun = time.monotonic()
    step(WaitFor(), FakeWiring(port), seconds=40.0)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("mode", ["any", "http"])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_vm_that_ends_ends_the_waiting(serve, mode, calls):
    port, _ = serve(8080, stays=True)
    left = iter([None] * calls)

    def check():
        if next(left, GoneError) is GoneError:
            raise GoneError

    with pytest.raises(GoneError):
        step(WaitFor(mode, (8080,), "/"), FakeWiring(port), check=check)


# --- HTTP ---------------------------------------------------------------------------------------


def http(serve, answer, **how):
    port, server = serve(8080, answer, **how)
    seconds = 0.5 if how.get("stays") else 10.0
    return step(WaitFor("http", (8080,), "/up?a=1"), FakeWiring(port), seconds=seconds), server


@pytest.mark.parametrize("status", [200, 204, 299, 301, 399])
def test_a_good_status_is_an_answer(serve, status):
    probe, server = http(serve, b"HTTP/1.1 %d Fine\r\n\r\n" % status)
    assert probe.done and probe.answers == {8080: "answered"}
    asked = server.asked[0].decode()
    assert asked == f"GET /up?a=1 HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"


@pytest.mark.parametrize("status", [100, 199, 400, 404, 503])
def test_another_status_is_told_and_is_none(serve, status):
    probe, _ = http(serve, b"HTTP/1.1 %d Busy\r\n\r\n" % status)
    assert not probe.done
    assert probe.answers == {8080: f"answered 'HTTP/1.1 {status} Busy', not a 2xx or 3xx"}


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"", "''"),
        (b"220 smtp.example ESMTP\r\n", "'220 smtp.example ESMTP'"),
        (b"HTTP/1.1\r\n", "'HTTP/1.1'"),
        (b"HTTP/1.1 good\r\n", "'HTTP/1.1 good'"),
        (b"SSH-2.0 200\r\n", "'SSH-2.0 200'"),
    ],
)
def test_what_is_no_http_is_told_and_is_none(serve, answer, line):
    probe, _ = http(serve, answer)
    assert not probe.done
    # Closed with our request unread, a connection may be reset instead.
    said = probe.answers[8080]
    assert said == f"no HTTP answer, got {line}" or said.startswith("the forward itself failed: ")


def test_a_server_that_is_silent_is_asked_again_and_not_waited_for_for_ever(serve):
    probe, _ = http(serve, None, stays=True)
    assert not probe.done
    assert probe.answers == {8080: "no HTTP answer, got ''"}


def test_a_taken_connection_is_no_http_answer(serve):
    port, _ = serve(8080)
    probe = step(WaitFor("http", (8080,), "/"), FakeWiring(port, taken=[8080]))
    assert not probe.done

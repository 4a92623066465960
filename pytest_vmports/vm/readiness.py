"""Proofs that the guest answered.

A TCP connect proves nothing: the forwarder completes it on the host's side whether or not there is
a guest. So a probe connects, and then asks the wiring what became of the other side; or it receives
a byte, which only the guest can have sent.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_vmports.constants import GUEST_IP
from pytest_vmports.system import clock, sockets
from pytest_vmports.system.poll import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.wiring import MonitorCommands, Wiring

_Port = TypeVar("_Port", "ExposedPort", "PortMapping")

# A guest that was not up when the connection's first packet came answers a repeated one seconds
# later; a new connection asks at once.
_ONE_TRY_SECONDS = 0.5
_FIRST_LOOK_SECONDS = 0.002
_LOOK_SECONDS = 0.02
_NOT_ASKED = "not asked yet"
GOOD_ANSWER = "answered"
"""How the answer of a port begins behind which a server is."""
NOT_HTTP = "no HTTP answer"
"""How one begins that has answered, and not by HTTP."""
REFUSED = f"the guest refused: nothing listens on this port of {GUEST_IP}"
"""A server on the guest's 127.0.0.1, or for IPv6 alone, is none there."""
SILENT = "the guest has not answered (no network yet, or packets are dropped)"
UNREACHED = "the guest could not be reached: its network is down, or not up yet"
_HTTP_GOOD = range(200, 400)
# Not \d, and no more digits: what the guest says is shown, and reckoned with.
_HTTP_LINE = re.compile(rb"HTTP/[0-9.]{1,8} +([1-9][0-9]{2})(?: .*)?", re.DOTALL)
_LONGEST_LINE, _SHOWN = 1 << 16, 200


class Condition(Protocol):
    """What has to answer before a VM is ready, as `settings.wait_for.WaitFor` says it."""

    @property
    def mode(self) -> str:
        """``any``: one answer is enough. ``http``: a good answer to a request is one."""

    @property
    def path(self) -> str:
        """What is requested, for ``http``."""

    def candidates(self, ports: Sequence[_Port]) -> list[_Port]:
        """Return those of these ports that are to be asked."""


@dataclass(frozen=True)
class _AllPorts:
    mode: str = "all"
    path: str = ""

    def candidates(self, ports: Sequence[_Port]) -> list[_Port]:
        return [port for port in ports if port.protocol == "tcp"]


ALL: Condition = _AllPorts()
"""All TCP ports have to answer."""


class Probe:
    """Asks the forwards in turn until enough of the guest has answered.

    Args:
        wait_for: what has to answer.
        wiring: knows what became of a connection.
        monitor: QEMU's.
        ports: the forwards that may be asked; None for all of the wiring.

    Attributes:
        answers: guest port to what it last said, in words.
    """

    def __init__(
        self,
        wait_for: Condition,
        wiring: Wiring,
        monitor: MonitorCommands,
        ports: Sequence[ExposedPort] | None = None,
    ) -> None:
        self.wait_for = wait_for
        self.answers: dict[int, str] = {}
        self._wiring = wiring
        self._monitor = monitor
        self._pending = list(wait_for.candidates(wiring.ports if ports is None else ports))
        self.answers = {port.internal: _NOT_ASKED for port in self._pending}

    @property
    def waited_for(self) -> str:
        """What is still to answer, and what that says now, for a line of progress."""
        if not self._pending:
            return ""
        said = dict.fromkeys(self.answers[port.internal] for port in self._pending)
        numbers = [str(port.internal) for port in self._pending]
        joined = (" or " if self.wait_for.mode == "any" else " and ").join(numbers)
        return f"waiting for port {joined}: {'; '.join(said)}"

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self._pending

    def step(self, deadline: float, check: Callable[[], None]) -> None:
        """Ask each pending port once.

        Args:
            deadline: `clock.now` value at which to return anyway.
            check: called often; raises when waiting has become pointless.
        """
        for port in list(self._pending):
            if self._ask(port, deadline, check):
                self.answers[port.internal] = GOOD_ANSWER
                self._pending.remove(port)
                if self.wait_for.mode == "any":
                    self._pending.clear()
                    return
            if clock.now() >= deadline:
                return

    def _ask(self, port: ExposedPort, deadline: float, check: Callable[[], None]) -> bool:
        check()
        until = min(deadline, clock.now() + _ONE_TRY_SECONDS)
        try:
            if self.wait_for.mode == "http":
                with _connect(port) as connection:
                    return self._http(connection, port, until, check)
            with self._wiring.watch(port, self._monitor) as accepted, _connect(port) as connection:
                return self._tcp(connection, accepted, port, until, check)
        except OSError as error:
            self.answers[port.internal] = f"the forward itself failed: {error}"
            _pause(until, check)
            return False

    def _tcp(
        self,
        connection: socket.socket,
        accepted: Callable[[], bool | None],
        port: ExposedPort,
        until: float,
        check: Callable[[], None],
    ) -> bool:
        look = _FIRST_LOOK_SECONDS
        while clock.now() < until:
            if accepted():
                return True
            # A restored guest answers within milliseconds, a booting one within seconds.
            answered = readable([connection], look)
            look = min(2 * look, _LOOK_SECONDS)
            check()
            if answered:
                if _first_byte(connection):
                    return True
                # Accepted and closed at once also ends here; the wiring still knows.
                fate = accepted()
                if fate:
                    return True
                self.answers[port.internal] = UNREACHED if fate is None else REFUSED
                _pause(min(until, clock.now() + 5 * _LOOK_SECONDS), check)
                return False
        # Silence does not take back what was said: the last try is often cut short by the deadline.
        if self.answers[port.internal] == _NOT_ASKED:
            self.answers[port.internal] = SILENT
        return False

    def _http(
        self, connection: socket.socket, port: ExposedPort, until: float, check: Callable[[], None]
    ) -> bool:
        request = f"GET {self.wait_for.path} HTTP/1.0\r\nHost: {port.host}:{port.external}\r\n\r\n"
        connection.sendall(request.encode())
        received = b""
        # A slow answer is an answer: only silence makes us ask again.
        until = max(until, clock.now() + 4 * _ONE_TRY_SECONDS)
        while (
            b"\n" not in received and len(received) < _LONGEST_LINE and clock.now() < until
        ):  # fmt: skip
            check()
            if readable([connection], _LOOK_SECONDS):
                chunk = connection.recv(1024)
                if not chunk:
                    break
                received += chunk
        line = received.partition(b"\n")[0].strip()
        shown = line[:_SHOWN].decode(errors="replace")
        status = http_status(line)
        if status is None:
            self.answers[port.internal] = f"{NOT_HTTP}, got {shown!r}"
        else:
            self.answers[port.internal] = f"answered {shown!r}, not a 2xx or 3xx"
            if status in _HTTP_GOOD:
                return True
        _pause(min(until, clock.now() + 5 * _LOOK_SECONDS), check)
        return False


def http_status(line: bytes) -> int | None:
    """Return the status in the first line of an answer by HTTP; None where it is no such line."""
    match = _HTTP_LINE.fullmatch(line)
    return None if match is None else int(match[1])


def _connect(port: ExposedPort) -> socket.socket:
    return sockets.connected(port.address, _ONE_TRY_SECONDS)


def _first_byte(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def _pause(until: float, check: Callable[[], None]) -> None:
    """Let the guest get on before it is asked again: its next state raises no event here."""
    while (left := until - clock.now()) > 0:
        check()
        clock.sleep(min(left, _LOOK_SECONDS))

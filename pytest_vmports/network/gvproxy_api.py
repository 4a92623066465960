"""gvproxy's control socket: what it forwards, and changes of that.

A sealed gvproxy (see `seal`) takes this from us alone. Source: gvisor-tap-vsock's
``pkg/services/forwarder/ports.go``.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
from typing import TYPE_CHECKING, Any, cast

from pytest_vmports.constants import GUEST_IP
from pytest_vmports.errors import ForwardError, MachineError
from pytest_vmports.errors.shown import within
from pytest_vmports.system import clock, sockets
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.said import Answer, json_said, malformed, said_by

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.models import ExposedPort

_CALL_SECONDS = 10.0
_LONGEST_ANSWER, _SHOWN = 1 << 20, 500
WHO = "gvproxy"


class Api:
    """One gvproxy's control socket.

    Args:
        path: where it listens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def forwards(self) -> list[dict[str, str]]:
        """Return gvproxy's own list: ``local``, ``remote``, ``protocol`` of every forward.

        Raises:
            GuestSaidError: its answer is malformed.
            MachineError: it answers with an error.
            OSError: it does not answer.
        """
        status, text = self._call("GET", "/services/forwarder/all")
        if status != http.client.OK:
            raise MachineError(f"gvproxy does not say what it forwards: {status} {within(text)}")
        return forwards_in(text)

    def expose(self, port: ExposedPort) -> None:
        """Add a forward.

        Raises:
            ForwardError: the host port could not be bound.
            OSError: it does not answer.
        """
        body = {
            "local": f"{port.host}:{port.external}",
            "remote": f"{GUEST_IP}:{port.internal}",
            "protocol": port.protocol,
        }
        status, text = self._call("POST", "/services/forwarder/expose", body)
        if status != http.client.OK:
            raise forward_error(port, text)

    def unexpose(self, local: str, protocol: str) -> None:
        """Take a forward away.

        Raises:
            MachineError: there is no such forward.
            OSError: it does not answer.
        """
        body = {"local": local, "protocol": protocol}
        status, text = self._call("POST", "/services/forwarder/unexpose", body)
        if status != http.client.OK:
            raise MachineError(f"gvproxy kept its forward of {local}: {status} {within(text)}")

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Return the status and text of an answer, a refusal's shortened.

        All of it is read before any of it is believed, within one limit of time and one of size:
        a guest may own this program.
        """
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: gvproxy\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        with sockets.Socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CALL_SECONDS)
            connection.connect(str(self._path))
            connection.sendall(head.encode() + content)
            said = _until_the_end(connection, clock.now() + _CALL_SECONDS)
        status, text = answer_in(said, method)
        return status, text if status == http.client.OK else printable(text.strip()[:_SHOWN])


def answer_in(said: bytes, method: str) -> tuple[int, str]:
    """Return the status and text of an answer by HTTP.

    Raises:
        GuestSaidError: it is malformed.
    """
    with said_by(WHO, said):
        try:
            reply = http.client.HTTPResponse(cast("socket.socket", _Read(said)), method=method)
            reply.begin()
            text = reply.read(_LONGEST_ANSWER)
            if reply.length:
                raise http.client.IncompleteRead(text, reply.length)
        except http.client.HTTPException as error:
            raise ValueError(f"no answer by HTTP: {error!r}") from error
        return reply.status, text.decode(errors="replace")


def forwards_in(text: str) -> list[dict[str, str]]:
    """Return the forwards in gvproxy's list: ``local``, ``remote`` and ``protocol`` of each.

    Raises:
        GuestSaidError: it is malformed.
    """
    return [one.model_dump() for one in json_said(WHO, text, list[_Forward])]


def forward_error(port: ExposedPort, detail: str) -> ForwardError:
    """Return what to raise when gvproxy could not bind a host port."""
    return ForwardError(
        program="gvproxy", port=port.external, protocol=port.protocol, host=port.host,
        detail=detail,
    )  # fmt: skip


class _Forward(Answer):
    local: str
    remote: str
    protocol: str


class _Read:
    """Stands for a socket from which all has been read."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._said)


def _until_the_end(connection: socket.socket, deadline: float) -> bytes:
    said = bytearray()
    while len(said) <= _LONGEST_ANSWER:
        left = deadline - clock.now()
        if left <= 0:
            raise TimeoutError(f"gvproxy has not ended its answer within {_CALL_SECONDS:g} s")
        connection.settimeout(left)
        try:
            part = connection.recv(1 << 16)
        except TimeoutError:
            continue
        if not part:
            return bytes(said)
        said += part
    raise malformed(WHO, f"an answer of more than {_LONGEST_ANSWER} bytes", said)

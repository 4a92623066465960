"""gvproxy's control socket: what it forwards, and changes of that.

A sealed gvproxy (see `seal`) takes this from us alone. Source: gvisor-tap-vsock's
``pkg/services/forwarder/ports.go``.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import GUEST_IP
from pytest_vmports.errors import ForwardError, MachineError
from pytest_vmports.system import sockets

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.models import ExposedPort

_CALL_SECONDS = 10.0


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
            MachineError: it answers with an error.
            OSError: it does not answer.
        """
        status, text = self._call("GET", "/services/forwarder/all")
        if status != http.client.OK:
            raise MachineError(f"gvproxy does not say what it forwards: {status} {text.strip()}")
        listed: list[dict[str, str]] = json.loads(text)
        return listed

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
            raise forward_error(port, text.strip())

    def unexpose(self, local: str, protocol: str) -> None:
        """Take a forward away.

        Raises:
            MachineError: there is no such forward.
            OSError: it does not answer.
        """
        body = {"local": local, "protocol": protocol}
        status, text = self._call("POST", "/services/forwarder/unexpose", body)
        if status != http.client.OK:
            raise MachineError(f"gvproxy kept its forward of {local}: {status} {text.strip()}")

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        finally:
            connection.close()


def forward_error(port: ExposedPort, detail: str) -> ForwardError:
    """Return what to raise when gvproxy could not bind a host port."""
    return ForwardError(
        program="gvproxy", port=port.external, protocol=port.protocol, host=port.host,
        detail=detail,
    )  # fmt: skip


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("gvproxy", timeout=_CALL_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = sockets.Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

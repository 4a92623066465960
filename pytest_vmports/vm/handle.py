"""What a test holds of its VM."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pytest_vmports.network.exposed import find_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.machine import Machine


class VM:
    """A running VM; ``vm[8080]`` is where guest port 8080 can be reached."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def ports(self) -> Sequence[ExposedPort]:
        """The forwards, in the order they were asked for."""
        return self._machine.ports

    @property
    def wiring(self) -> str:
        """``usernet``, ``gvproxy`` or ``none``."""
        return self._machine.wiring.kind

    @property
    def origin(self) -> str:
        """``booted``, ``cloned`` from a template, or ``standby``: cloned before the test began."""
        return self._machine.origin

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by program name."""
        return {process.name: process.pid for process in self._machine.processes()}

    @property
    def console(self) -> str:
        """All that the guest wrote to its console so far."""
        return self._machine.console()

    @property
    def command_line(self) -> str:
        """QEMU's command line."""
        return self._machine.command_line()

    def connect(
        self, port: int | str, *, protocol: str | None = None, timeout: float = 10.0
    ) -> socket.socket:
        """Return a socket that leads to a guest port; use it in a ``with`` statement.

        Args:
            port: the guest's port, ``8080`` or ``"53/udp"``.
            protocol: ``tcp`` or ``udp``; needed only where both are exposed.
            timeout: of the connect and of later reads, in seconds.

        Raises:
            KeyError: the port is not exposed; names those that are.
            MachineDiedError: the VM is gone.
            OSError: the connection failed.
        """
        self._machine.check_alive()
        exposed = find_port(self.ports, port if protocol is None else f"{port}/{protocol}")
        if exposed.protocol == "tcp":
            return socket.create_connection(exposed.address, timeout=timeout)
        family = socket.AF_INET6 if ":" in exposed.host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.settimeout(timeout)
        udp.connect(exposed.address)
        return udp

    def __getitem__(self, port: int | str) -> ExposedPort:
        return find_port(self.ports, port)

    def __iter__(self) -> Iterator[ExposedPort]:
        return iter(self.ports)

    def __len__(self) -> int:
        return len(self.ports)

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self.ports)) or "no ports"
        return f"<VM {self._machine.guest.name} {self.wiring} {ports} {self._machine.state.value}>"

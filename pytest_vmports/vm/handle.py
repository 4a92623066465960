"""What a test holds of its VM."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.network.exposed import find_port
from pytest_vmports.vm import shell

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.shell import Completed


class VM:
    """A running VM; ``vm[8080]`` is where guest port 8080 can be reached."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def ports(self) -> Sequence[ExposedPort]:
        """The forwards, in the order they were asked for."""
        return self._machine.wiring.ports

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

    def run(
        self,
        command: str,
        *,
        timeout: float | None = 60.0,
        check: bool = True,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """Run a shell command in the guest, as root, and return what it wrote.

        It has ended when the shell has: what it left running in the background runs on. A command
        by the control channel runs in ``/``, one by ssh in the user's home.

        Args:
            command: for ``/bin/sh``.
            timeout: seconds; then the command is killed. None waits for ever.
            check: raise when it ends with another status than 0.
            input: its standard input; nothing by default.
            env: variables to set beside the guest's own.
            cwd: folder to run it in.

        Raises:
            CommandFailedError: its status is not 0 (also a `subprocess.CalledProcessError`).
            CommandTimeoutError: it did not end (also a `subprocess.TimeoutExpired`).
            NoShellError: nothing in this guest runs commands.
            MachineError: the VM ended.
        """
        return shell.run(
            self._machine.shell, command, timeout=timeout, check=check, input=input, env=env,
            cwd=cwd,
        )  # fmt: skip

    def put(
        self, source: str | os.PathLike[str], target: str, *, timeout: float | None = 120.0
    ) -> None:
        """Copy a file or folder from the host into the guest; its owner there is root.

        Args:
            source: on the host.
            target: in the guest. A folder that is there, or a name that ends in a slash: it is
                put into that folder. Else this is its new name. Missing folders are made.
            timeout: seconds.

        Raises:
            GuestFileError: it is not there or cannot be copied.
        """
        shell.put(self._machine.shell, Path(source), target, timeout)

    def get(
        self, source: str, target: str | os.PathLike[str], *, timeout: float | None = 120.0
    ) -> Path:
        """Copy a file or folder out of the guest; return where it is on the host.

        Args:
            source: in the guest. Links in it are followed.
            target: on the host: an existing folder to put it into, or its new name.
            timeout: seconds.

        Raises:
            GuestFileError: it is not there or cannot be copied.
        """
        return shell.get(self._machine.shell, source, Path(target), timeout)

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

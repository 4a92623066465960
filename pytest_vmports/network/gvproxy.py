"""gvproxy: a guest with network, and forwards by configuration file or API.

It reaches QEMU by a descriptor, behind the filter of `seal` where the host can have that.

Sources: gvisor-tap-vsock's README, ``cmd/gvproxy/config.go`` and ``pkg/types/configuration.go``.
Versions from 0.8.8 on take a YAML file (JSON is YAML, so the standard library writes it); older
ones take forwards only over HTTP on their control socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import (
    GATEWAY_IP,
    GUEST_IP,
    GUEST_MAC,
    GUEST_SUBNET,
    GVPROXY_CONFIG,
    HOST_ALIAS_IP,
)
from pytest_vmports.errors import GuestForwardError, LaunchError, MachineError
from pytest_vmports.models import ExposedPort
from pytest_vmports.network import handshake, seal, walls
from pytest_vmports.network.doorman import Doorman, places
from pytest_vmports.network.gvproxy_api import Api, forward_error
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.usernet import NETDEV_ID, network_card
from pytest_vmports.system import clock, gate, landlock, listeners
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.paths import as_bytes, unix_url
from pytest_vmports.system.proc import raw
from pytest_vmports.system.process import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_vmports.leases import PortAllocator
    from pytest_vmports.network.destinations import Destinations
    from pytest_vmports.network.outgoing import Outgoing
    from pytest_vmports.network.wiring import MonitorCommands
    from pytest_vmports.system.process import Process
    from pytest_vmports.system.programs import Gvproxy

_START_SECONDS = 20.0
# What a shell, or the loader of programs, says of one that cannot be run.
_NOT_RUN = {126, 127}
_ENDS_SECONDS = 1.0
# Where the guest's name for the host leads. gvproxy's default is the host's own loopback; an empty
# map means that default too, so it leads to an address that no connection can be made to.
_NOWHERE = "127.255.255.255"
# /proc/net/unix: the flag __SO_ACCEPTCON in column 3, and the path as it is, newlines too, in
# column 7 where there is one.
_LISTENING = 0x10000
_ROW = rb"^[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]+) [0-9A-F]+ [0-9A-F]+ +\d+ %b$"


class GvproxyWiring:
    """One gvproxy process for one guest.

    Args:
        ports: the forwards.
        gvproxy: the program.
        workdir: private folder for its sockets, configuration and log.
        allocator: gives the port that versions without ``-config`` insist on forwarding to ssh.
        allowed: what the guest may reach; None for everything.
        strict: it may not reach the host by an address of the host's own.
        outlives: it may run on when we do not, and then still connects for the guest that may
            reach everything.
    """

    def __init__(
        self,
        ports: tuple[ExposedPort, ...],
        gvproxy: Gvproxy,
        workdir: Path,
        allocator: PortAllocator,
        *,
        allowed: Destinations | None = None,
        strict: bool = False,
        outlives: bool = False,
    ) -> None:
        self.ports: tuple[ExposedPort, ...] = ports
        self._allocator = allocator
        self.gvproxy = gvproxy
        self.log: Path = workdir / "gvproxy.log"
        self._workdir = workdir
        self._config = workdir / GVPROXY_CONFIG
        self._lay_sockets(workdir)
        self._capture = workdir / handshake.FILE
        self._doorman = Doorman((), ports)
        self._allowed, self._strict = allowed, strict
        # One that nobody minds any more would connect to nothing; where that is what was asked for,
        # it does.
        self._unheld = outlives and allowed is None and not strict
        self._noted, self._outgoing = NetworkLog(), contextlib.ExitStack()
        self._process: Process | None = None
        # QEMU's end of the connection to gvproxy. A copy stays open here, so that the end of QEMU
        # is not the end of gvproxy: who looks for a cause finds one.
        self._qemu_fd: int | None = None
        self._gated = False

    def start(self, lease_fds: Collection[int]) -> Sequence[int]:
        """Start gvproxy; return QEMU's end of a connection to it, when every forward listens.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: gvproxy ended or did not come up.
        """
        self._remove_sockets()
        self._lay_sockets(walls.folder_for_sockets(self._workdir))
        self._doorman = Doorman(
            (self._guest_socket, self._api_socket), self.ports, self._new_outgoing()
        )
        if self.gvproxy.has_config:
            given = config(self.ports, api_socket=self._api_socket)
            given["interfaces"] = {"bess": unix_url(self._guest_socket, "unixpacket")}
            self._config.write_text(json.dumps(given, indent=1))
            self._launch(["-config", str(self._config)], lease_fds)
        else:
            self._start_by_api(lease_fds)
        assert self._qemu_fd is not None
        return (self._qemu_fd,)

    def refused(self, qemu_output: str) -> None:
        """Return None: gvproxy refuses, and `start` raises."""

    def watch(
        self, port: ExposedPort, monitor: MonitorCommands
    ) -> AbstractContextManager[Callable[[], bool | None]]:
        """Watch the guest's side of the wire: gvproxy does not tell one connection's fate."""
        return handshake.watch(monitor, NETDEV_ID, self._capture, port.internal)

    def add_forward(self, port: ExposedPort, lease_fd: int, monitor: MonitorCommands) -> None:  # noqa: ARG002 - protocol
        """Add a forward over the API.

        Raises:
            ForwardError: the host port could not be bound.
        """
        self._doorman.allow(port)
        try:
            self._api.expose(port)
        except BaseException:
            self._doorman.forbid(port)
            raise
        self.ports += (port,)

    def remove_forward(
        self,
        port: ExposedPort,
        lease_fd: int | None,  # noqa: ARG002 - protocol
        monitor: MonitorCommands,  # noqa: ARG002 - protocol
    ) -> None:
        """Take a forward away over the API.

        Raises:
            MachineError: there is no such forward.
        """
        self._doorman.forbid(port)
        self._api.unexpose(f"{port.host}:{port.external}", port.protocol)
        self._see_closed(port)
        self.ports = tuple(p for p in self.ports if p != port)

    def processes(self) -> Sequence[Process]:
        """Return gvproxy's process once it was started."""
        return () if self._process is None else (self._process,)

    def stop(self) -> None:
        """Kill gvproxy: it keeps nothing that a gentler end would save."""
        if self._process is not None:
            self._process.kill()
        self._outgoing.close()
        if self._qemu_fd is not None:
            os.close(self._qemu_fd)
            self._qemu_fd = None
        self._remove_sockets()

    def look_for_opened(self) -> None:
        """Look for ports that nobody asked us for; they end with the VM.

        Raises:
            GuestForwardError: there are some.
        """
        # Behind the gate it has bound what we let it bind, and the kernel knows of nothing else.
        if self._gated or self._process is None:
            return
        there = listeners.of(self._process.pid)
        ours = set().union(*map(places, self.ports))
        # The kernel writes a path as it is; what `listeners` has of one is its first line.
        sockets = {("unix", str(path).partition("\n")[0], 0)
                   for path in (self._guest_socket, self._api_socket)}  # fmt: skip
        opened = (there or set()) - ours - sockets
        if opened:
            raise GuestForwardError(forwards=", ".join(map(_told, sorted(opened))))

    def _see_closed(self, port: ExposedPort) -> None:
        """See that a port is free, as gvproxy says: its lease is another's next.

        Raises:
            MachineError: it is not.
        """
        assert self._process is not None
        for place in places(port) & (listeners.of(self._process.pid) or set()):
            raise MachineError(f"gvproxy says that it has closed {_told(place)}, and it has not")

    @property
    def network_log(self) -> NetworkLog | None:
        """What the guest asked of the network; None where no gate lets us see it."""
        return None if self._unheld or gate.problem() is not None else self._noted

    def _new_outgoing(self) -> Outgoing:
        # By the library of DNS, which takes longer to load than all else of ours.
        from pytest_vmports.network.outgoing import Outgoing  # noqa: PLC0415

        made = Outgoing(self._allowed, strict=self._strict, log=self._noted)
        self._outgoing.callback(made.close)
        return made

    def _start_by_api(self, lease_fds: Collection[int]) -> None:
        # Without a configuration it forwards a port to the guest's ssh before anything else, by
        # default 2222, where two VMs collide. It is given a leased one, and that one is withdrawn.
        (ssh,) = self._allocator.acquire()
        with ssh:
            own = ExposedPort(internal=22, external=ssh.port)
            self._doorman.allow(own)
            self._launch(
                [
                    "-listen", unix_url(self._api_socket),
                    "-listen-bess", unix_url(self._guest_socket, "unixpacket"),
                    "-ssh-port", str(ssh.port),
                ],
                [*lease_fds, ssh.fileno()],
            )  # fmt: skip
            self._api.unexpose(f"127.0.0.1:{ssh.port}", "tcp")
            self._doorman.forbid(own)
        for port in self.ports:
            self._api.expose(port)

    def _launch(self, arguments: list[str], fds: Collection[int]) -> None:
        command = [self.gvproxy.path, *arguments]
        confinement = walls.around_gvproxy(
            self.gvproxy.path,
            [self._config],
            self._doorman,
            self._api_socket.parent,
            connects=self._unheld,
            answers=any(port.protocol == "udp" for port in self.ports),
        )
        self._gated = confinement.gate is not None
        self._process = spawn(
            "gvproxy", command, log=self.log, pass_fds=fds, env=_environment(),
            confinement=confinement,
        )  # fmt: skip
        self._await_listening(self._process)
        self._doorman.shut()
        sealed = seal.problem() is None
        self._qemu_fd = seal.connect(self._guest_socket, self._process, sealed=sealed)

    def _lay_sockets(self, folder: Path) -> None:
        self._guest_socket = folder / "net.sock"
        self._api_socket = folder / "api.sock"
        self._api = Api(self._api_socket)

    def _remove_sockets(self) -> None:
        for leftover in (self._guest_socket, self._api_socket):
            leftover.unlink(missing_ok=True)

    def _await_listening(self, process: Process) -> None:
        deadline = clock.now() + _START_SECONDS
        wanted = self._guest_socket, self._api_socket
        while not all(map(_listens, wanted)):
            # gvproxy takes one connection, which a trial would use up. So look, and let gvproxy's
            # death end the wait.
            code = process.wait(0.004)
            if code is not None:
                self._raise_ended(process, code)
            if clock.now() > deadline:
                process.kill()
                raise LaunchError(
                    program="gvproxy", returncode=f"no socket after {_START_SECONDS:g} s",
                    stderr=process.output, command=" ".join(process.command),
                )  # fmt: skip

    def _raise_ended(self, process: Process, code: int) -> None:
        output = process.output
        port = port_of(output, self.ports) if "address already in use" in output else None
        if port is not None:
            raise forward_error(port, _last_line(output))
        if code in _NOT_RUN and landlock.problem() is None:
            output += (
                "\n(Landlock keeps gvproxy to its own files: name as gvproxy the program, and no "
                "script that runs one elsewhere)"
            )
        raise LaunchError(
            program="gvproxy", returncode=code, stderr=output, command=" ".join(process.command)
        )


def card_args(fd: int | str) -> list[str]:
    """Return the connection to gvproxy, by QEMU's end of it, and the guest's network card."""
    return ["-netdev", f"dgram,id={NETDEV_ID},local.type=fd,local.str={fd}", *network_card()]


def config(
    ports: Sequence[ExposedPort],
    qemu_socket: Path | str | None = None,
    api_socket: Path | str | None = None,
) -> dict[str, Any]:
    """Return gvproxy's configuration (0.8.8 and later) as a value ready to be written as YAML.

    Args:
        ports: the forwards.
        qemu_socket: path of the socket that QEMU connects to; None leaves it out.
        api_socket: path of the socket that serves the API without ``/connect``.
    """
    stack: dict[str, Any] = {
        "subnet": GUEST_SUBNET,
        "gatewayIP": GATEWAY_IP,
        "dhcpStaticLeases": {GUEST_IP: GUEST_MAC},
        "nat": {HOST_ALIAS_IP: _NOWHERE},
        "gatewayVirtualIPs": [HOST_ALIAS_IP],
        "forwards": {_local(port): f"{GUEST_IP}:{port.internal}" for port in ports},
    }
    value: dict[str, Any] = {"log-level": "info", "stack": stack}
    if qemu_socket is not None:
        value["interfaces"] = {"qemu": unix_url(qemu_socket)}
    if api_socket is not None:
        value["services"] = unix_url(api_socket)
    return value


def port_of(text: str, ports: Sequence[ExposedPort]) -> ExposedPort | None:
    """Return the forward whose host port a message names, and protocol where it names one."""
    named = {int(number) for number in re.findall(r"(?<=:)\d{2,5}\b", text)}
    found = [port for port in ports if port.external in named]
    # Go writes "listen udp 127.0.0.1:5353: bind: address already in use".
    exact = [port for port in found if re.search(rf"\b{port.protocol}\b", text)]
    return next(iter(exact or found), None)


def _environment() -> dict[str, str]:
    """Return what Go is told: how many processors to use, and to listen by TCP alone.

    Whoever has set the first knows better. QEMU needs as many at the same moment. On a host of two,
    where Go's threads wake each other and the guest waits, one of them carries up to twice as much
    out of the guest. The second: Landlock has no rule on ports of MPTCP, and names are asked for by
    DNS alone, of a server that the `doorman` knows; the C library also asks by sockets of its own.
    """
    half = str(max(1, (os.cpu_count() or 1) // 2))
    debug = ",".join(filter(None, [os.environ.get("GODEBUG"), "multipathtcp=0,netdns=go"]))
    return {"GOMAXPROCS": os.environ.get("GOMAXPROCS", half), "GODEBUG": debug}


def _local(port: ExposedPort) -> str:
    prefix = "udp:" if port.protocol == "udp" else ""
    return f"{prefix}{port.host}:{port.external}"


def _told(place: tuple[str, str, int]) -> str:
    protocol, host, port = place
    return printable(f"unix:{host}" if protocol == "unix" else f"{host}:{port}/{protocol}")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _listens(path: Path) -> bool:
    """Whether somebody listens there; of the table's other lines nothing is believed."""
    if not path.exists():  # bound by nobody: the whole machine's table need not be read
        return False
    table = raw("net/unix")
    if not table:  # no /proc tells: what has its name listens a moment later
        return True
    rows = re.finditer(_ROW % re.escape(as_bytes(path)), table, re.MULTILINE)
    return any(int(row[1], 16) & _LISTENING for row in rows)

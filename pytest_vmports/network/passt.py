"""passt: a guest's frames become the host's own sockets, with no address to speak to in between.

It takes one connection of QEMU's, and its forwards at its start alone. What a socket of its own may
reach decides our `gate`, to which it comes from within the sandbox that it makes for itself.

Source: passt(1).
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from typing import TYPE_CHECKING

from pytest_vmports.constants import GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_SUBNET
from pytest_vmports.errors import ForwardError, LaunchError
from pytest_vmports.leases.candidates import ephemeral_range
from pytest_vmports.network import handshake, walls
from pytest_vmports.network.doorman import Doorman, nowhere
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.usernet import NETDEV_ID, NoLaterForwards, network_card
from pytest_vmports.system import clock, resolving, sockets
from pytest_vmports.system.passt import NEEDED
from pytest_vmports.system.process import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.outgoing import Outgoing
    from pytest_vmports.network.wiring import MonitorCommands
    from pytest_vmports.system.gate import Asked
    from pytest_vmports.system.passt import Passt
    from pytest_vmports.system.process import Process

_START_SECONDS = 20.0
_LOOK_SECONDS = 0.002
# Its words for a host port that it cannot bind: until 2025 of an option, -t or -u, later of itself.
_REFUSED = (
    re.compile(r"ailed to bind port (?P<port>\d{1,5}) .{0,200}option '-(?P<protocol>[tu]) "),
    re.compile(
        r"Listen failed for \w{1,20} (?P<protocol>[TU])\w\w port \S{1,99}/(?P<port>\d{1,5})"
    ),
)
_GUESTS_OWN = ipaddress.ip_network(GUEST_SUBNET)
# By which it asks the kernel for the host's routes, before it hears of the guest.
_ROUTES = "0"


class PasstDoorman(Doorman):
    """Decides for one passt; see `Doorman`.

    It answers each of a UDP forward's clients by a socket of its own, connected to that one. For
    the guest's own UDP it takes the guest's port on the host too, or none: it may where the kernel
    gives ports to whoever connects, so no port that a test has, nor a service of the host.

    Args:
        ports: what it forwards from the start.
        outgoing: says where it may connect to.
        name_server: whom it asks for names, by itself: each datagram names it once more, so that
            no other can be put in its place.
    """

    def __init__(
        self,
        ports: Iterable[ExposedPort],
        outgoing: Callable[[Asked], int | tuple[str, int]] = nowhere,
        name_server: str | None = None,
    ) -> None:
        super().__init__((), ports, outgoing)
        self._names = (name_server, resolving.PORT)

    def __call__(self, asked: Asked) -> int | tuple[str, int]:
        """Return 0 for what may be done, an errno, or where to connect to instead."""
        if asked.call == "bind" and asked.protocol == _ROUTES:
            return 0 if self.opening else errno.EACCES
        if asked.protocol == "udp" and not self.opening:
            if self._forwards(asked.address if asked.call == "bind" else asked.bound):
                return 0
            if asked.call == "bind" and isinstance(asked.address, tuple):
                first, last = ephemeral_range()
                unspecified = ipaddress.ip_address(asked.address[0]).is_unspecified
                return 0 if unspecified and first <= asked.address[1] <= last else errno.EADDRINUSE
        if asked.call == "connect" and isinstance(asked.address, tuple):
            if asked.address == self._names:
                return 0
            # What is there only for the guest it would look for beyond the host.
            if ipaddress.ip_address(asked.address[0]) in _GUESTS_OWN:
                return errno.EACCES
        return super().__call__(asked)

    def _forwards(self, at: tuple[str, int] | bytes | None) -> bool:
        """Whether a UDP forward leads from there, be it one of all addresses."""
        if not isinstance(at, tuple):
            return False
        hosts = at[0], "::" if ":" in at[0] else "0.0.0.0"  # noqa: S104 - of a forward
        return any(self.has("udp", host, at[1]) for host in hosts)


class PasstWiring(NoLaterForwards):
    """One passt process for one guest.

    Args:
        ports: the forwards.
        passt: the program.
        workdir: private folder for its log.
        online: the guest has a network; else it is reached by the forwards and reaches nothing.
        strict: it may not reach the host by an address of the host's own.
    """

    why_none = (
        " while the guest runs: passt takes its forwards at its start alone; declare the port in "
        "the marker, or use another backend"
    )

    def __init__(
        self,
        ports: tuple[ExposedPort, ...],
        passt: Passt,
        workdir: Path,
        *,
        online: bool,
        strict: bool = False,
    ) -> None:
        self.ports = ports
        self.network_log: NetworkLog | None = NetworkLog() if online else None
        self._passt = passt
        self._log, self._ready = workdir / "passt.log", workdir / "passt.pid"
        self._capture = workdir / handshake.FILE
        self._strict = strict
        # Of the guest's questions by IPv4 it passes none to one that is asked by IPv6.
        servers = [one for one in resolving.name_servers() if ":" not in one]
        self._name_server = servers[0] if servers and online else None
        self._outgoing: Outgoing | None = None
        self._process: Process | None = None
        # A copy of QEMU's end stays open here, so that QEMU's end is not passt's: who looks for a
        # cause finds one.
        self._qemus: socket.socket | None = None

    def start(self, lease_fds: Collection[int]) -> Sequence[int]:
        """Start passt; return QEMU's end of a connection to it, when every forward listens.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: passt ended or did not come up.
        """
        self._ready.unlink(missing_ok=True)
        doorman = self._new_doorman()
        self._qemus, passts = sockets.pair()
        with passts:
            command = [self._passt.path, *self._arguments(passts.fileno())]
            # It closes what it is not told of, leases too: it ends with us, and they after it.
            self._process = spawn(
                "passt", command, log=self._log, pass_fds=[*lease_fds, passts.fileno()],
                confinement=walls.around_passt(doorman),
            )  # fmt: skip
        self._await_ready(self._process)
        doorman.shut()
        return (self._qemus.fileno(),)

    def stop(self) -> None:
        """Kill passt: it keeps nothing that a gentler end would save."""
        if self._process is not None:
            self._process.kill()
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None
        if self._qemus is not None:
            self._qemus.close()
            self._qemus = None

    def refused(self, qemu_output: str) -> None:
        """Return None: passt refuses, and `start` raises."""

    def watch(
        self, port: ExposedPort, monitor: MonitorCommands
    ) -> AbstractContextManager[Callable[[], bool | None]]:
        """Watch the guest's side of the wire: passt tells of no connection."""
        return handshake.watch(monitor, NETDEV_ID, self._capture, port.internal)

    def look_for_opened(self) -> None:
        """Do nothing: behind the gate passt binds what we let it bind."""

    def processes(self) -> Sequence[Process]:
        """Return passt's process once it was started."""
        return () if self._process is None else (self._process,)

    def _new_doorman(self) -> PasstDoorman:
        if self.network_log is None:
            return PasstDoorman(self.ports)
        # By the library of DNS, which takes longer to load than all else of ours.
        from pytest_vmports.network.outgoing import Outgoing  # noqa: PLC0415

        self._outgoing = Outgoing(None, strict=self._strict, log=self.network_log)
        return PasstDoorman(self.ports, self._outgoing, self._name_server)

    def _arguments(self, connection: int) -> list[str]:
        return [
            "--foreground", "--quiet", "--fd", str(connection), "--pid", str(self._ready),
            *arguments(
                self.ports, online=self.network_log is not None, name_server=self._name_server
            ),
        ]  # fmt: skip

    def _await_ready(self, process: Process) -> None:
        """Return when it has bound its ports and is in its sandbox: then it writes its number."""
        deadline = clock.now() + _START_SECONDS
        while not (self._ready.exists() and self._ready.stat().st_size):
            # That raises no event; its end does.
            code = process.wait(_LOOK_SECONDS)
            if code is not None:
                self._raise_ended(process, code)
            if clock.now() > deadline:
                process.kill()
                self._raise_ended(process, f"it was not ready after {_START_SECONDS:g} s")

    def _raise_ended(self, process: Process, code: int | str) -> None:
        output = process.output
        port = refused_port(output, self.ports)
        if port is not None:
            raise ForwardError(
                program="passt", port=port.external, protocol=port.protocol, host=port.host,
                detail=output.strip().splitlines()[-1],
            )  # fmt: skip
        raise LaunchError(
            program="passt", returncode=code, stderr=output, command=" ".join(process.command)
        )


def refused_port(text: str, ports: Sequence[ExposedPort]) -> ExposedPort | None:
    """Return the forward whose host port passt says that it could not bind."""
    said = next(filter(None, (one.search(text) for one in _REFUSED)), None)
    named = None if said is None else (said["protocol"].lower(), said["port"])
    return next((p for p in ports if (p.protocol[0], str(p.external)) == named), None)


def arguments(ports: Sequence[ExposedPort], *, online: bool, name_server: str | None) -> list[str]:
    """Return passt's arguments for a guest at the addresses that every wiring has.

    Args:
        ports: the forwards.
        online: the guest has a network.
        name_server: whom its questions for names go to; None where nobody answers them.
    """
    words = [
        "--address", GUEST_IP, "--netmask", "24", "--gateway", GATEWAY_IP,
        # A restored guest knows its gateway's.
        "--mac-addr", GATEWAY_MAC,
        *NEEDED, "--no-icmp", "--search", "none",
    ]  # fmt: skip
    if name_server is not None:
        words += ["--dns", GATEWAY_IP, "--dns-forward", GATEWAY_IP, "--dns-host", name_server]
    else:
        words += ["--dns", "none"]
    if not online or not _leads_to("192.0.2.1"):
        # It takes its addresses from an interface that leads somewhere; without one it would make
        # up others than those it is told.
        words += ["--ipv4-only", "--interface", "lo"]
    elif not _leads_to("2000::1"):
        words.append("--ipv4-only")
    for option, protocol in (("--tcp-ports", "tcp"), ("--udp-ports", "udp")):
        rules = [_rule(port) for port in ports if port.protocol == protocol]
        for rule in rules or ["none"]:
            words += [option, rule]
    return words


def _leads_to(address: str) -> bool:
    """Whether this host has a way to an address; nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with sockets.Socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((address, resolving.PORT))
    except OSError:
        return False
    return True


def card_args(fd: int | str) -> list[str]:
    """Return the connection to passt, by QEMU's end of it, and the guest's network card."""
    end = f"stream,id={NETDEV_ID},server=off,addr.type=fd,addr.str={fd}"
    return ["-netdev", end, *network_card()]


def _rule(port: ExposedPort) -> str:
    return f"{port.host}/{port.external}:{port.internal}"

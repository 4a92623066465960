"""QEMU's user-mode network: forwards with ``hostfwd``, or no network at all.

Source: the invocation chapter of QEMU's documentation, ``-netdev user``.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pytest_vmports.constants import (
    GATEWAY_IP,
    GUEST_IP,
    GUEST_MAC,
    GUEST_SUBNET,
    USERNET_DNS_IP,
)
from pytest_vmports.errors import ForwardError, MachineError, MonitorError
from pytest_vmports.errors.shown import within

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import MonitorCommands
    from pytest_vmports.system.process import Process

NETDEV_ID = "n0"
NO_CARD = ("-nic", "none")
"""The arguments that keep QEMU from adding its default card."""
_ROW = re.compile(
    r"[ \t]*(?P<proto>TCP|UDP)\[(?P<state>\w{1,20})\][ \t]+(?P<id>\S{1,20})[ \t]+\S{1,60}"
    r"[ \t]+(?P<host_port>[0-9]{1,5})[ \t]+\S{1,60}[ \t]+[0-9]{1,5}\b"
)
# The states that a connection reaches only after the guest answered the first packet.
_ANSWERED = {"ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK"}


class NoProcesses:
    """The half of a wiring that needs no process beside QEMU's."""

    network_log = None

    def start(self, lease_fds: Collection[int]) -> Sequence[int]:  # noqa: ARG002 - protocol
        """Return no descriptor: QEMU brings this network itself."""
        return ()

    def stop(self) -> None:
        """Do nothing: the network ends with QEMU."""

    def look_for_opened(self) -> None:
        """Do nothing: a guest cannot ask QEMU for a forward."""

    def processes(self) -> Sequence[Process]:
        """Return none."""
        return ()


class NoLaterForwards:
    """The half of a wiring that takes no forward and gives none up while the guest runs."""

    why_none: ClassVar[str]
    """Ends the sentence that a port cannot be forwarded."""

    def add_forward(
        self,
        port: ExposedPort,
        lease_fd: int | None,  # noqa: ARG002 - protocol
        monitor: MonitorCommands,  # noqa: ARG002 - protocol
    ) -> None:
        """Refuse.

        Raises:
            MachineError: always.
        """
        raise MachineError(f"{port} cannot be forwarded{self.why_none}")

    remove_forward = add_forward


@dataclass(frozen=True)
class NoNetwork(NoProcesses, NoLaterForwards):
    """A guest without a network card."""

    ports: tuple[ExposedPort, ...] = ()
    why_none = ": the guest has no network card"

    def refused(self, qemu_output: str) -> None:
        """Return None: there is no forward."""

    def watch(
        self, port: ExposedPort, monitor: MonitorCommands
    ) -> AbstractContextManager[Callable[[], bool]]:
        """Refuse: there is no forward."""
        raise NotImplementedError


@dataclass
class UsernetWiring(NoProcesses):
    """QEMU's user network. ``restrict``: the guest can reach nothing, TCP forwards still work.

    UDP forwards of a restricted guest are one way; see `RelayedUsernetWiring`.
    """

    ports: tuple[ExposedPort, ...]
    restrict: bool = True
    _answered: bool = field(default=False, init=False, compare=False)

    def add_forward(self, port: ExposedPort, lease_fd: int, monitor: MonitorCommands) -> None:
        """Add a forward with ``hostfwd_add``; QEMU shares its lease from before that on.

        Raises:
            ForwardError: the host port could not be bound.
            MachineError: the guest's answers would be dropped, or QEMU hung up.
        """
        if port.protocol == "udp" and self.restrict:
            raise MachineError(
                f"{port} cannot be forwarded: a guest without network needs a UDP port from its "
                "start on to be given any later"
            )
        rule = f"hostfwd_add {NETDEV_ID} {hostfwd(port)}"
        try:
            # QMP reports success whatever came of it; the human monitor's text is the truth.
            reply = monitor.give_and_hmp(lease_fd, _lease_name(port), rule).strip()
        except MonitorError:
            # No forward without its lease.
            with contextlib.suppress(MonitorError):
                monitor.hmp(f"hostfwd_remove {NETDEV_ID} {_bound(port)}")
            raise
        if reply:
            monitor.execute("closefd", fdname=_lease_name(port))
            raise ForwardError(
                program="QEMU", port=port.external, protocol=port.protocol, host=port.host,
                detail=reply,
            )  # fmt: skip
        self.ports += (port,)

    def remove_forward(
        self, port: ExposedPort, lease_fd: int | None, monitor: MonitorCommands
    ) -> None:
        """Take a forward away with ``hostfwd_remove``.

        Raises:
            MachineError: there is no such forward.
        """
        rule = _bound(port)
        reply = monitor.hmp(f"hostfwd_remove {NETDEV_ID} {rule}").strip()
        if not reply.endswith("removed"):
            raise MachineError(f"QEMU did not remove the forward {rule}: {within(reply)}")
        self.ports = tuple(p for p in self.ports if p != port)
        if lease_fd is not None:
            # A QEMU that was restarted since has inherited it, and keeps the lease while it lives.
            with contextlib.suppress(MonitorError):
                monitor.execute("closefd", fdname=_lease_name(port))

    def refused(self, qemu_output: str) -> tuple[ExposedPort, str] | None:
        """Return the forward in QEMU's "Could not set up host forwarding rule"."""
        for line in qemu_output.splitlines():
            _, found, rule = line.partition("Could not set up host forwarding rule")
            for port in self.ports:
                if found and hostfwd(port) in rule:
                    return port, (found + rule).strip()
        return None

    @contextlib.contextmanager
    def watch(self, port: ExposedPort, monitor: MonitorCommands) -> Iterator[Callable[[], bool]]:
        """Yield whether ``info usernet`` shows a connection to ``port`` that the guest answered.

        One that is there before proves nothing: a guest that was reset leaves its connections as
        they were. None is, while no guest has answered at all.
        """
        before = self._answered_by(port, monitor) if self._answered else set()
        yield lambda: self._accepted(port, monitor, before)

    def _accepted(self, port: ExposedPort, monitor: MonitorCommands, before: set[str]) -> bool:
        new = self._answered_by(port, monitor) - before
        self._answered = self._answered or bool(new)
        return bool(new)

    def _answered_by(self, port: ExposedPort, monitor: MonitorCommands) -> set[str]:
        return accepted(monitor.hmp("info usernet"), port)


def accepted(table: str, port: ExposedPort) -> set[str]:
    """Return those connections to a forward that the guest has answered, by HMP's ``info usernet``.

    Each by QEMU's number of its socket. Rows that are none are passed over: others of the table
    mean nothing here either.
    """
    rows = filter(None, map(_ROW.match, table.splitlines()))
    return {
        row["id"]
        for row in rows
        if row["proto"].lower() == port.protocol
        and int(row["host_port"]) == port.external
        and row["state"] in _ANSWERED
    }


def card_args(forwards: Sequence[ExposedPort], *, restrict: bool) -> list[str]:
    """Return ``-netdev user,…`` with one hostfwd a port, and the guest's network card."""
    return ["-netdev", netdev(forwards, restrict=restrict), *network_card()]


def hostfwd(port: ExposedPort) -> str:
    """Return QEMU's forwarding rule, ``tcp:127.0.0.1:20417-192.168.127.2:8080``."""
    return f"{port.protocol}:{port.host}:{port.external}-{GUEST_IP}:{port.internal}"


def netdev(ports: Sequence[ExposedPort], *, restrict: bool) -> str:
    """Return the value of ``-netdev`` for a user network with these forwards."""
    addresses = {
        "net": GUEST_SUBNET,
        "host": GATEWAY_IP,
        "dns": USERNET_DNS_IP,
        "dhcpstart": GUEST_IP,
    }
    parts = [
        f"user,id={NETDEV_ID}",
        f"restrict={'on' if restrict else 'off'}",
        # By it a guest reaches the host's ::1, at fec0::2. gvproxy has none either.
        "ipv6=off",
        *(f"{name}={value}" for name, value in addresses.items()),
        *(f"hostfwd={hostfwd(port)}" for port in ports),
    ]
    return ",".join(parts)


def network_card(netdev_id: str = NETDEV_ID, mac: str = GUEST_MAC) -> list[str]:
    """Return a card of the guest: virtio, no boot ROM; by default the address gvproxy knows.

    A restored guest need not announce its address to switches, of which there are none here: it
    would do so five times, in a clone's first moments.
    """
    card = f"virtio-net-pci,netdev={netdev_id},mac={mac},romfile=,guest_announce=off"
    return ["-device", card]


def _bound(port: ExposedPort) -> str:
    return f"{port.protocol}:{port.host}:{port.external}"


def _lease_name(port: ExposedPort) -> str:
    return f"lease-{port.protocol}-{port.external}"

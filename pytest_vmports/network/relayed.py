"""QEMU's user network for TCP and our own relay for UDP, on one hub.

Source: the invocation chapter of QEMU's documentation, ``-netdev dgram`` and ``-netdev hubport``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.constants import USERNET_DNS_IP
from pytest_vmports.errors import MachineError
from pytest_vmports.network.udp_relay import UdpRelay
from pytest_vmports.network.usernet import (
    NETDEV_ID,
    Quiet,
    UsernetWiring,
    netdev,
    network_card,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractContextManager

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import Asks

_RELAY_ID, _CARD_PORT_ID = "u0", "h2"


class RelayedUsernetWiring(Quiet):
    """A restricted user network whose UDP is answered.

    The guest's card is the same as without the hub, so a guest that was saved with one wiring can
    be restored with the other.

    Args:
        ports: the forwards.
    """

    kind = "usernet"
    dns: str | None = USERNET_DNS_IP

    def __init__(self, ports: tuple[ExposedPort, ...]) -> None:
        self.ports = ports
        self._tcp = UsernetWiring(tuple(port for port in ports if port.protocol == "tcp"))
        self._relay: UdpRelay | None = None

    def qemu_args(self) -> list[str]:
        """Return both networks, the hub and the guest's network card; needs `start` first."""
        relay = f"dgram,id={_RELAY_ID},local.type=fd,local.str={self._started.qemu_fd}"
        return [
            *("-netdev", netdev(self._tcp.ports, restrict=True)),
            *("-netdev", relay),
            *("-netdev", f"hubport,id=h0,hubid=0,netdev={NETDEV_ID}"),
            *("-netdev", f"hubport,id=h1,hubid=0,netdev={_RELAY_ID}"),
            *("-netdev", f"hubport,id={_CARD_PORT_ID},hubid=0"),
            *network_card(_CARD_PORT_ID),
        ]

    def start(self, lease_fds: Collection[int]) -> None:  # noqa: ARG002 - protocol
        """Start the relay and bind the UDP ports.

        Raises:
            ForwardError: a host port could not be bound.
        """
        self._relay = UdpRelay()
        try:
            for port in self.ports:
                if port.protocol == "udp":
                    self._relay.forward(port)
        except BaseException:
            self.stop()
            raise

    def qemu_fds(self, lease_fds: Collection[int]) -> Collection[int]:
        """Return all, for the TCP ports that QEMU binds, and the relay's."""
        return [*lease_fds, self._started.qemu_fd]

    def expose(self, port: ExposedPort, monitor: Asks) -> None:
        """Add a forward.

        Raises:
            ForwardError: the host port could not be bound.
        """
        if port.protocol == "udp":
            self._started.forward(port)
        else:
            self._tcp.expose(port, monitor)
        self.ports += (port,)

    def hide(self, port: ExposedPort, monitor: Asks) -> None:
        """Take a forward away.

        Raises:
            MachineError: there is no such forward.
        """
        if port not in self.ports:
            raise MachineError(f"{port} is not forwarded")
        if port.protocol == "udp":
            self._started.unforward(port)
        else:
            self._tcp.hide(port, monitor)
        self.ports = tuple(p for p in self.ports if p != port)

    def refused(self, qemu_output: str) -> tuple[ExposedPort, str] | None:
        """Return the TCP forward that QEMU could not bind; for UDP, `start` raises."""
        return self._tcp.refused(qemu_output)

    def watch(self, port: ExposedPort, monitor: Asks) -> AbstractContextManager[Callable[[], bool]]:
        """Yield whether the guest answered a connection to ``port``."""
        return self._tcp.watch(port, monitor)

    def outliving(self) -> Sequence[ExposedPort]:
        """Return those by TCP: the relay is in our process."""
        return self._tcp.ports

    def stop(self) -> None:
        """Close the relay and its ports."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    @property
    def _started(self) -> UdpRelay:
        assert self._relay is not None
        return self._relay

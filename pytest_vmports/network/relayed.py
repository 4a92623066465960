"""QEMU's user network for TCP and our own relay for UDP, on one hub.

Source: the invocation chapter of QEMU's documentation, ``-netdev dgram`` and ``-netdev hubport``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.network import usernet
from pytest_vmports.network.udp_relay import UdpRelay
from pytest_vmports.network.usernet import UsernetWiring

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import MonitorCommands

CARD_NETDEV = "h2"
"""What the guest's card is connected to: a port of the hub."""
_RELAY_ID = "u0"


def card_args(forwards: Sequence[ExposedPort], fd: int | str) -> list[str]:
    """Return both networks, the hub and the guest's network card.

    The card is the same as without the hub, so a guest that was saved with one wiring can be
    restored with the other.

    Args:
        forwards: the guest's; those by UDP are the relay's.
        fd: QEMU's end of the relay's link.
    """
    tcp = [port for port in forwards if port.protocol == "tcp"]
    return [
        *("-netdev", usernet.netdev(tcp, restrict=True)),
        *("-netdev", f"dgram,id={_RELAY_ID},local.type=fd,local.str={fd}"),
        *("-netdev", f"hubport,id=h0,hubid=0,netdev={usernet.NETDEV_ID}"),
        *("-netdev", f"hubport,id=h1,hubid=0,netdev={_RELAY_ID}"),
        *("-netdev", f"hubport,id={CARD_NETDEV},hubid=0"),
        *usernet.network_card(CARD_NETDEV),
    ]


class RelayedUsernetWiring(UsernetWiring):
    """A restricted user network whose UDP is answered.

    Args:
        ports: the forwards.
    """

    def __init__(self, ports: tuple[ExposedPort, ...]) -> None:
        super().__init__(ports)
        self.ports: tuple[ExposedPort, ...] = ports
        self._relay: UdpRelay | None = None

    def start(self, lease_fds: Collection[int]) -> Sequence[int]:  # noqa: ARG002 - protocol
        """Start the relay and bind the UDP ports; return QEMU's end of the relay's link.

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
        return (self._relay.qemu_fd,)

    def stop(self) -> None:
        """Close the relay and its ports."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    def add_forward(self, port: ExposedPort, lease_fd: int, monitor: MonitorCommands) -> None:
        """Add a forward; one by UDP is bound by this process, and QEMU is given nothing.

        Raises:
            ForwardError: the host port could not be bound.
        """
        if port.protocol == "tcp":
            super().add_forward(port, lease_fd, monitor)
        else:
            self._started.forward(port)
            self.ports += (port,)

    def remove_forward(
        self, port: ExposedPort, lease_fd: int | None, monitor: MonitorCommands
    ) -> None:
        """Take a forward away.

        Raises:
            MachineError: there is no such forward.
        """
        if port.protocol == "tcp":
            super().remove_forward(port, lease_fd, monitor)
        elif port not in self.ports:
            raise MachineError(f"{port} is not forwarded")
        else:
            self._started.unforward(port)
            self.ports = tuple(p for p in self.ports if p != port)

    @property
    def _started(self) -> UdpRelay:
        assert self._relay is not None
        return self._relay

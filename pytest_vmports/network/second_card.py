"""A wiring of any kind, and a second card for the network of VMs and the host's services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.constants import HOST_IP
from pytest_vmports.network.lan import Lan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.lan import Seat
    from pytest_vmports.network.wiring import Asks, Wiring
    from pytest_vmports.process import Process


class SecondCardWiring:
    """A wiring with a second card.

    Args:
        inner: the wiring of the first, which carries the forwards.
        host_ports: port at `HOST_IP` to port of the host's 127.0.0.1; empty for no door.
        lan: the network that the second card is on; None for one of its own, where its address is
            always the same.

    Attributes:
        lan_address: the guest's address on the second card, from the start on.
        lan_mac: the card's own address, from the start on.
    """

    def __init__(self, inner: Wiring, host_ports: Mapping[int, int], lan: Lan | None) -> None:
        self.inner = inner
        self.lan_address: str | None = None
        self.lan_mac: str | None = None
        self._host_ports = host_ports
        self._lan = Lan("of one VM") if lan is None else lan
        self._seat: Seat | None = None

    @property
    def kind(self) -> str:
        """``none``, ``usernet`` or ``gvproxy``: the first card's."""
        return self.inner.kind

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The forwards, in the order they were asked for."""
        return self.inner.ports

    @property
    def dns(self) -> str | None:
        """The guest's name server; None when there is no first card."""
        return self.inner.dns

    @property
    def host_address(self) -> str | None:
        """Where the guest reaches the services that were asked for; None without."""
        return HOST_IP if self._host_ports else None

    def qemu_args(self) -> list[str]:
        """Return the arguments of both cards; needs `start` first."""
        return [*self.inner.qemu_args(), *self._started.qemu_args()]

    def kernel_words(self) -> list[str]:
        """Return what the guest's boot script has to be told; nothing before the `start`."""
        seat = self._seat
        return self.inner.kernel_words() + ([] if seat is None else seat.kernel_words())

    def start(self, lease_fds: Collection[int]) -> None:
        """Join the network and start the wiring.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: gvproxy did not come up.
            MachineError: the network is full.
        """
        self._seat = self._lan.join(self._host_ports)
        self.lan_address, self.lan_mac = self._seat.address, self._seat.mac
        try:
            self.inner.start(lease_fds)
        except BaseException:
            self.stop()
            raise

    def qemu_fds(self, lease_fds: Collection[int]) -> Collection[int]:
        """Return the wiring's, and those of the second card."""
        return [*self.inner.qemu_fds(lease_fds), *self._started.fds]

    def refused(self, qemu_output: str) -> tuple[ExposedPort, str] | None:
        """Return the forward that QEMU says it could not bind, and its words."""
        return self.inner.refused(qemu_output)

    def watch(self, port: ExposedPort, monitor: Asks) -> AbstractContextManager[Callable[[], bool]]:
        """Yield whether the guest answered a connection to ``port``."""
        return self.inner.watch(port, monitor)

    def expose(self, port: ExposedPort, monitor: Asks) -> None:
        """Add a forward.

        Raises:
            ForwardError: the host port could not be bound.
        """
        self.inner.expose(port, monitor)

    def hide(self, port: ExposedPort, monitor: Asks) -> None:
        """Take a forward away.

        Raises:
            MachineError: there is no such forward.
        """
        self.inner.hide(port, monitor)

    def close_opened(self) -> None:
        """Close the forwards that the guest opened itself.

        Raises:
            GuestForwardError: there were some.
        """
        self.inner.close_opened()

    def processes(self) -> Sequence[Process]:
        """Return the wiring's processes."""
        return self.inner.processes()

    def outliving(self) -> Sequence[ExposedPort]:
        """Return the wiring's; the second card's network ends with us."""
        return self.inner.outliving()

    def stop(self) -> None:
        """End the wiring and leave the network."""
        self.inner.stop()
        if self._seat is not None:
            self._seat.leave()
            self._seat = None

    @property
    def _started(self) -> Seat:
        assert self._seat is not None
        return self._seat

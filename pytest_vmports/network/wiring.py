"""What a way of connecting a guest's first card has to offer, once it is chosen and live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractContextManager

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.log import NetworkLog
    from pytest_vmports.system.process import Process


class MonitorCommands(Protocol):
    """What a wiring asks of QEMU's monitor."""

    def hmp(self, line: str) -> str:
        """Return the human monitor's reply to ``line``."""

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return the answer to a QMP command."""

    def give(self, descriptor: int, name: str) -> None:
        """Give QEMU a copy of an open descriptor, to be closed by ``closefd`` and its name."""

    def give_and_hmp(self, descriptor: int, name: str, line: str) -> str:
        """Do as `give` and then as `hmp`, and wait once for both answers."""


class Wiring(Protocol):
    """How one guest's first card is connected. Only `start` and `stop` touch the machine."""

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The forwards as they are now, in the order they were asked for."""

    @property
    def network_log(self) -> NetworkLog | None:
        """What the guest asked of the network; None where that is not seen."""

    def start(self, lease_fds: Collection[int]) -> Sequence[int]:
        """Start what QEMU will connect to.

        Args:
            lease_fds: descriptors of the ports' leases, for a process of ours that binds the ports.

        Returns:
            descriptors that QEMU's arguments name, and that it has to inherit.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: a process of ours ended or did not come up.
        """

    def stop(self) -> None:
        """End what `start` began. Safe to call again."""

    def refused(self, qemu_output: str) -> tuple[ExposedPort, str] | None:
        """Return the forward that QEMU says it could not bind, and its words."""

    def watch(
        self, port: ExposedPort, monitor: MonitorCommands
    ) -> AbstractContextManager[Callable[[], bool | None]]:
        """Yield a function: whether the guest itself took a connection made to ``port`` meanwhile.

        None says that the guest was not heard of, where that is known: the connection's end then
        is no refusal of the guest's.

        The forwarder accepts every connection on the host's side, guest or no guest; this looks
        at its other side. One watch at a time per VM.

        Raises:
            MonitorError: QEMU hung up.
        """

    def add_forward(self, port: ExposedPort, lease_fd: int, monitor: MonitorCommands) -> None:
        """Add a forward while the guest runs.

        Args:
            port: the forward.
            lease_fd: its lease's descriptor, which QEMU is given where QEMU binds the port.
            monitor: QEMU's.

        Raises:
            ForwardError: the host port could not be bound.
            MachineError: it cannot be forwarded while the guest runs, or QEMU hung up.
        """

    def remove_forward(
        self, port: ExposedPort, lease_fd: int | None, monitor: MonitorCommands
    ) -> None:
        """Take a forward away while the guest runs.

        Args:
            port: the forward.
            lease_fd: its lease's descriptor, of which QEMU gives up what it was given; None for a
                lease that QEMU inherited, and keeps while it lives.
            monitor: QEMU's.

        Raises:
            MachineError: there is no such forward.
        """

    def look_for_opened(self) -> None:
        """Look for ports of the host that the guest itself had opened; they end with the VM.

        Raises:
            GuestForwardError: there are some.
        """

    def processes(self) -> Sequence[Process]:
        """Return the processes of this wiring that must run while the VM does."""

"""The ports of one test: forwards with the leases that keep them."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import BY_MARKER, PORT_FORWARD_BIND_HOST
from pytest_vmports.errors import HostError, NotExposedError, PortsExhaustedError
from pytest_vmports.leases.record import PASSING
from pytest_vmports.port_forward import lease_ports, parse_port
from pytest_vmports.system import clock
from pytest_vmports.system.progress import slowly
from pytest_vmports.system.surroundings import refuse_fakes, restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_vmports.leases import LeaseInfo, PortAllocator, PortLease
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.destinations import Destinations


# A clone is ready within moments, on a busy host within seconds.
_PASSING_SECONDS = 30.0
_LOOK_SECONDS = 0.02
BY_CALL = "give it to what makes the VM, as vm_factory(ports=[{port!r}]), or to vm.expose()"
"""What to do about a port that is looked up and not exposed; see `find_port`."""


class ExposedPorts:
    """Leased host ports for a launcher of the test's own; ``exposed_ports[8080]`` is one.

    Args:
        granted: each forward with its lease.
        allow_network: whether `qemu_args` lets the guest reach out; a list it refuses.
        host: the host address of all of them.

    Attributes:
        since: when they were leased, a `clock.now` value.
        host: the host address of all of them.
        declare: how another port joins them; see `find_port`.
    """

    def __init__(
        self,
        granted: Sequence[tuple[ExposedPort, PortLease]],
        *,
        allow_network: bool | Destinations = False,
        host: str = PORT_FORWARD_BIND_HOST,
        declare: str = BY_MARKER,
    ) -> None:
        self.declare = declare
        self._allow_network = allow_network
        self._granted = list(granted)
        self.since: float = clock.now()
        self.host = host
        self._own: list[tuple[ExposedPort, PortLease]] = []

    @property
    def own(self) -> tuple[ExposedPort, ...]:
        """The forwards that the plugin itself needs, as to ssh; not among `ports`."""
        return tuple(port for port, _ in self._own)

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The forwards, in the order they were asked for."""
        return tuple(port for port, _ in self._granted)

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """Descriptors to give to `subprocess.Popen`: the child then shares the leases."""
        return tuple(lease.fileno() for _, lease in self._all())

    def qemu_args(self) -> list[str]:
        """Return QEMU's arguments for a user network with these forwards.

        Without ``allow_network`` the network is restricted, and QEMU then drops whatever the guest
        sends by UDP, answers included: a UDP forward brings datagrams to the guest, and nothing
        comes back.

        Raises:
            HostError: ``allow_network`` is a list, and a user network reaches all or nothing.
        """
        if not isinstance(self._allow_network, bool):
            raise HostError(
                f"QEMU's user network reaches all or nothing, and allow_network is a list, "
                f"{self._allow_network}: use vm_with_ports, or write allow_network = yes or no"
            )
        from pytest_vmports.network import usernet  # noqa: PLC0415 - for who makes a VM only

        return usernet.card_args(self.ports, restrict=not self._allow_network)

    def gvproxy_config(
        self, qemu_socket: Path | str | None = None, api_socket: Path | str | None = None
    ) -> dict[str, Any]:
        """Return gvproxy's configuration with these forwards, ready to be written as YAML.

        The gvproxy that is started with it serves its API to the guest, which can delete files and
        open ports of the host by it: see docs/networks.md.

        Args:
            qemu_socket: path of the socket that QEMU will connect to.
            api_socket: path of the socket for its API.
        """
        from pytest_vmports.network import gvproxy  # noqa: PLC0415 - likewise

        return gvproxy.config(self.ports, qemu_socket, api_socket)

    def release_guards(self) -> None:
        """Let go of the guards; the leases stay.

        Do so once the forwards listen; or before, for a server that binds without
        ``SO_REUSEADDR``.
        """
        for _, lease in self._all():
            lease.release_guard()

    def release(self) -> None:
        """Give the ports back; whoever binds them must have ended."""
        for _, lease in self._all():
            lease.release()

    def replace(self, granted: Sequence[tuple[ExposedPort, PortLease]]) -> None:
        """Give all ports back, also those of `add_own`, and hold these instead."""
        self.release()
        self._granted = list(granted)
        self._own = []

    def add_own(self, granted: Sequence[tuple[ExposedPort, PortLease]]) -> None:
        """Hold these too, which the test has not asked for."""
        self._own += granted

    def _all(self) -> list[tuple[ExposedPort, PortLease]]:
        return [*self._granted, *self._own]

    def __getitem__(self, port: int | str) -> ExposedPort:
        return find_port(self.ports, port, self.declare)

    def __iter__(self) -> Iterator[ExposedPort]:
        return iter(self.ports)

    def __len__(self) -> int:
        return len(self._granted)

    def __repr__(self) -> str:
        return f"<ExposedPorts {', '.join(map(str, self.ports)) or 'none'}>"


@restored()
def lease_exposed(
    mappings: Sequence[PortMapping],
    allocator: PortAllocator,
    tell: Callable[[str], None],
    *,
    host: str = PORT_FORWARD_BIND_HOST,
    wait: float = 60.0,
    allow_network: bool | Destinations = False,
    on_wait: Callable[[LeaseInfo], None] | None = None,
    declare: str = BY_MARKER,
) -> ExposedPorts:
    """Lease a host port for every mapping, and say so when a fixed one is waited for.

    Args:
        mappings: what is wanted.
        allocator: who grants it.
        tell: writes a line to the terminal.
        host: the host address that will be bound.
        wait: seconds to wait for a fixed port that another of our tests holds.
        allow_network: whether `ExposedPorts.qemu_args` lets the guest reach out.
        on_wait: told the holder when there is one to wait for.
        declare: how another port joins them; see `find_port`.

    Raises:
        PortError: one cannot be had.
        HostError: a test has put a fake in the place of the file system.
    """
    refuse_fakes()
    with contextlib.ExitStack() as waiting:

        def waits(holder: LeaseInfo) -> None:
            if on_wait is not None:
                on_wait(holder)
            what = f"waiting for port {holder.port}"
            tell(f"vmports: {what}, held by {holder.describe()}")
            waiting.enter_context(slowly(tell, what))

        granted = lease_when_free(
            partial(lease_ports, mappings, allocator, host=host, wait=wait, on_wait=waits),
            allocator,
        )
    return ExposedPorts(granted, allow_network=allow_network, host=host, declare=declare)


def lease_when_free(
    lease: Callable[[], list[tuple[ExposedPort, PortLease]]], allocator: PortAllocator
) -> list[tuple[ExposedPort, PortLease]]:
    """Lease ports; where none are left, wait for those that a VM has while it is made ready.

    Args:
        lease: leases them.
        allocator: knows who holds what.

    Raises:
        PortError: they cannot be had.
    """
    latest, again = clock.now() + _PASSING_SECONDS, True
    while True:
        try:
            return lease()
        except PortsExhaustedError:
            passing = any(holder.test == PASSING for holder in allocator.leases())
            # They may have come free since they were looked for.
            if not (passing or again) or clock.now() >= latest:
                raise
            again = passing
        clock.sleep(_LOOK_SECONDS)  # the end of a lease raises no event


def find_port(
    ports: Sequence[ExposedPort], wanted: int | str, declare: str = BY_MARKER
) -> ExposedPort:
    """Return the forward of a guest port, ``8080`` or ``"53/udp"``.

    Args:
        ports: the forwards.
        wanted: the guest's port.
        declare: what to do when it is not there, with ``{port!r}`` in the port's place.

    Raises:
        NotExposedError: it is not exposed; names those that are.
    """
    number, _, protocol = str(wanted).partition("/")
    for port in ports:
        if str(port.internal) == number and protocol in {"", port.protocol}:
            return port
    there = ", ".join(f"{port.internal}/{port.protocol}" for port in ports) or "none"
    remedy = _of_a_slip(ports, wanted) or declare.format(port=wanted)
    raise NotExposedError(port=wanted, exposed=there, remedy=remedy)


def _of_a_slip(ports: Sequence[ExposedPort], wanted: int | str) -> str:
    """Return what to look up instead of what can be no guest port; empty where it can be one."""
    for port in ports:
        if str(port.external) == str(wanted):
            return f"{wanted} is the host's port, of guest port {port.internal}: look that up"
    try:
        parse_port(wanted)
    except (ValueError, TypeError):
        return "look up a guest port, as 8080 or '53/udp'"
    return ""

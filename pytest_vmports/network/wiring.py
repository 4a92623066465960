"""What a way of connecting a guest has to offer, and the choice between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmports.constants import GATEWAY_IP, HOST_ALIAS_IP
from pytest_vmports.errors import HostError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_vmports.host import Gvproxy, Qemu
    from pytest_vmports.leases import PortAllocator
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.lan import Lan
    from pytest_vmports.process import Process


# The QEMU that brought ``-netdev dgram``, which connects the relay.
_FIRST_WITH_DGRAM = (7, 2, 0)


class Asks(Protocol):
    """Something that QEMU's monitor answers."""

    def hmp(self, line: str) -> str:
        """Return the human monitor's reply to ``line``."""

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return the answer to a QMP command."""


class Wiring(Protocol):
    """How one guest is connected. Values first; only `start` and `stop` touch the machine."""

    @property
    def kind(self) -> str:
        """``none``, ``usernet`` or ``gvproxy``."""

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The forwards, in the order they were asked for."""

    @property
    def dns(self) -> str | None:
        """The guest's name server; None when the guest has no network card."""

    @property
    def lan_address(self) -> str | None:
        """The guest's address on its second card, from the start on; None when it has none."""

    @property
    def lan_mac(self) -> str | None:
        """The second card's own address, from the start on; None when it has none."""

    @property
    def host_address(self) -> str | None:
        """Where the guest reaches the host's services that were asked for; None without."""

    def qemu_args(self) -> list[str]:
        """Return the arguments that give QEMU this network."""

    def kernel_words(self) -> list[str]:
        """Return what the boot script of a prepared guest has to be told besides."""

    def start(self, lease_fds: Collection[int]) -> None:
        """Start what QEMU will connect to; a process that binds ports inherits ``lease_fds``."""

    def qemu_fds(self, lease_fds: Collection[int]) -> Collection[int]:
        """Return those of ``lease_fds`` that QEMU has to inherit: all when QEMU binds."""

    def refused(self, qemu_output: str) -> tuple[ExposedPort, str] | None:
        """Return the forward that QEMU says it could not bind, and its words."""

    def watch(self, port: ExposedPort, monitor: Asks) -> AbstractContextManager[Callable[[], bool]]:
        """Yield a function: whether the guest itself took a connection made to ``port`` meanwhile.

        The forwarder accepts every connection on the host's side, guest or no guest; this looks
        at its other side. One watch at a time per VM.

        Raises:
            MonitorError: QEMU hung up.
        """

    def expose(self, port: ExposedPort, monitor: Asks) -> None:
        """Add a forward while the guest runs.

        Raises:
            ForwardError: the host port could not be bound.
        """

    def hide(self, port: ExposedPort, monitor: Asks) -> None:
        """Take a forward away while the guest runs.

        Raises:
            MachineError: there is no such forward.
        """

    def close_opened(self) -> None:
        """Close the forwards that the guest itself had opened.

        Raises:
            GuestForwardError: there were some.
            MachineError: one stayed.
        """

    def processes(self) -> Sequence[Process]:
        """Return the processes of this wiring that must run while the VM does."""

    def outliving(self) -> Sequence[ExposedPort]:
        """Return the forwards that go on if these processes and QEMU outlive ours."""

    def stop(self) -> None:
        """End what `start` began."""


def choose_wiring(
    ports: Sequence[ExposedPort],
    *,
    allow_network: bool,
    backend: str,
    qemu: Qemu,
    gvproxy: Gvproxy | None,
    workdir: Path,
    allocator: PortAllocator,
    host_ports: Mapping[int, int] | None = None,
    lan: Lan | None = None,
) -> Wiring:
    """Return the wiring for these ports; the only place that chooses.

    ============  ==================  ==========================================
    ports         allow_network       wiring
    ============  ==================  ==========================================
    none          no                  no network card
    some          no                  QEMU user network, ``restrict=on``, hostfwd;
                                      with UDP ports also a relay of our own
    some or none  yes                 gvproxy
    ============  ==================  ==========================================

    ``backend`` ``usernet`` or ``gvproxy`` overrules the last two rows. With ``host_ports`` (port at
    `HOST_IP` to port of the host) or ``lan`` the guest gets a second card, whatever its wiring.

    Raises:
        HostError: UDP ports, a door or a network of VMs, and this QEMU is too old for it.
        SettingError: gvproxy is to be used and none was given.
    """
    inner = _forwarding(
        ports, allow_network=allow_network, backend=backend, qemu=qemu, gvproxy=gvproxy,
        workdir=workdir, allocator=allocator,
    )  # fmt: skip
    if not host_ports and lan is None:
        return inner
    if qemu.version < _FIRST_WITH_DGRAM:
        raise HostError(
            f"host_ports and network need QEMU 7.2 or later, and this is {qemu}; use a later one"
        )
    from pytest_vmports.network.second_card import SecondCardWiring  # noqa: PLC0415 - as below

    return SecondCardWiring(inner, host_ports or {}, lan)


def _forwarding(
    ports: Sequence[ExposedPort],
    *,
    allow_network: bool,
    backend: str,
    qemu: Qemu,
    gvproxy: Gvproxy | None,
    workdir: Path,
    allocator: PortAllocator,
) -> Wiring:
    # They import this module.
    from pytest_vmports.network.gvproxy import GvproxyWiring  # noqa: PLC0415
    from pytest_vmports.network.relayed import RelayedUsernetWiring  # noqa: PLC0415
    from pytest_vmports.network.usernet import NoNetwork, UsernetWiring  # noqa: PLC0415

    if not wants_network(ports, allow_network=allow_network, backend=backend):
        return NoNetwork()
    if not wants_gvproxy(allow_network=allow_network, backend=backend):
        if allow_network or all(port.protocol == "tcp" for port in ports):
            return UsernetWiring(tuple(ports), restrict=not allow_network)
        if qemu.version < _FIRST_WITH_DGRAM:
            raise HostError(
                f"UDP ports of a guest without network need QEMU 7.2 or later, and this is {qemu}; "
                "use a later one, or allow_network = yes"
            )
        return RelayedUsernetWiring(tuple(ports))
    if gvproxy is None:
        raise SettingError(
            source="choose_wiring", name="gvproxy", value=None, allowed="a gvproxy is needed"
        )
    return GvproxyWiring(tuple(ports), gvproxy, workdir, allocator)


def wants_network(ports: Sequence[object], *, allow_network: bool, backend: str) -> bool:
    """Whether the guest gets a network card at all."""
    return bool(ports) or allow_network or backend == "gvproxy"


def wants_gvproxy(*, allow_network: bool, backend: str) -> bool:
    """Whether gvproxy, and not QEMU's user network, connects the guest."""
    return backend == "gvproxy" or (backend == "auto" and allow_network)


def open_host(
    *, allow_network: bool, backend: str, qemu: Qemu, gvproxy: Gvproxy | None
) -> dict[str, str] | None:
    """Return what a guest would get of the host that nobody gave it; None when nothing.

    Its fields are those of `OpenHostError`.
    """
    if wants_gvproxy(allow_network=allow_network, backend=backend):
        from pytest_vmports.network import seal  # noqa: PLC0415 - only where gvproxy is used

        problem = seal.problem()
        if gvproxy is None or problem is None:
            return None
        loopback = f", and services on 127.0.0.1 at {HOST_ALIAS_IP}"
        return {
            "reached": f"gvproxy's API at http://{GATEWAY_IP}, which opens ports of the host and "
            f"deletes files of yours{'' if gvproxy.has_config else loopback}",
            "why": f"{gvproxy} serves it to the guest, and {problem}",
            "remedy": "use a Linux host that allows pidfd_getfd(2) and SO_ATTACH_FILTER; in a "
            "container that takes --cap-add SYS_PTRACE",
        }
    if not allow_network:
        return None
    return {
        "reached": f"every service on the host's 127.0.0.1, at {GATEWAY_IP}",
        "why": f"the user network of {qemu} cannot prevent it",
        "remedy": "use backend = auto with gvproxy",
    }


def port_of(text: str, ports: Sequence[ExposedPort]) -> ExposedPort | None:
    """Return the forward whose host port a message names, and protocol where it names one."""
    named = {int(number) for number in re.findall(r"(?<=:)\d{2,5}\b", text)}
    found = [port for port in ports if port.external in named]
    # Go writes "listen udp 127.0.0.1:5353: bind: address already in use".
    exact = [port for port in found if re.search(rf"\b{port.protocol}\b", text)]
    return next(iter(exact or found), None)

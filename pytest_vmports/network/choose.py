"""The choice between the ways of connecting a guest: first as a value, later as the live thing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_vmports.constants import GATEWAY_IP, HOST_IP, USERNET_DNS_IP
from pytest_vmports.errors import HostError, SettingError
from pytest_vmports.network import lan, relayed, usernet
from pytest_vmports.network.destinations import Destinations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.leases import PortAllocator
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import Wiring
    from pytest_vmports.system.passt import Passt
    from pytest_vmports.system.programs import Gvproxy, Qemu

_Program = TypeVar("_Program")
# The QEMU that brought ``-netdev dgram``, which connects the relay.
_FIRST_WITH_DGRAM = (7, 2, 0)


class HasProtocol(Protocol):
    """A port that is asked for or leased: `PortMapping` or `ExposedPort`."""

    @property
    def protocol(self) -> str:
        """``tcp`` or ``udp``."""


@dataclass(frozen=True)
class Network:
    """The shape of a guest's connection. Made by `choose_network`, before any port is leased.

    Attributes:
        kind: what the first card is connected to: ``usernet``, ``gvproxy``, ``passt``, or ``none``
            for no card.
        restrict: the guest reaches nothing by it; forwards work all the same.
        relayed: UDP forwards go through a relay of ours on a hub, as a restricted guest needs.
        host_ports: the second card's door: port at `HOST_IP`, and port of the host's 127.0.0.1.
        lan: the name of the network that the second card shares with other VMs.
        allowed: what gvproxy connects to for the guest; None for everything.
        strict: and to no address of the host's own.
        more_cards: those that lead nowhere, behind the others.
    """

    kind: str = "none"
    restrict: bool = True
    relayed: bool = False
    host_ports: tuple[tuple[int, int], ...] = ()
    lan: str | None = None
    allowed: Destinations | None = None
    strict: bool = False
    more_cards: int = 0

    @property
    def reach(self) -> str:
        """What the guest reaches by the first card, as far as a choice was made; else empty."""
        listed = "" if self.allowed is None else f"only {self.allowed}"
        return ", ".join(filter(None, [listed, "not the host" if self.strict else ""]))

    @property
    def dns(self) -> str | None:
        """The guest's name server; None when it has no first card."""
        names = {"usernet": USERNET_DNS_IP, "gvproxy": GATEWAY_IP, "passt": GATEWAY_IP}
        return names.get(self.kind)

    @property
    def second_card(self) -> bool:
        """Whether the guest gets a second card."""
        return bool(self.host_ports) or self.lan is not None

    def with_cards(self, count: int | None) -> Network:
        """Return the same with so many cards in all, if it has fewer; None adds none."""
        has = (self.kind != "none") + self.second_card
        return replace(self, more_cards=max(0, (count or 0) - has))

    @property
    def host_address(self) -> str | None:
        """Where the guest reaches the host's services that were asked for; None without."""
        return HOST_IP if self.host_ports else None

    @property
    def qemu_binds(self) -> bool:
        """Whether QEMU binds the TCP forwards' host ports, and so inherits their leases."""
        return self.kind not in {"gvproxy", "passt"}

    @property
    def forwards_later(self) -> bool:
        """Whether a port can be forwarded while the guest runs."""
        return self.kind != "passt"

    @property
    def card_netdev(self) -> str | None:
        """QEMU's id of what the first of the guest's cards is connected to; None without cards."""
        if self.relayed:
            return relayed.CARD_NETDEV
        if self.kind != "none":
            return usernet.NETDEV_ID
        return lan.CARD_NETDEV if self.second_card else None

    def outlives(self, port: HasProtocol) -> bool:
        """Whether a forward goes on if QEMU and gvproxy outlive our process, and so relay and gate.

        passt answers each client of UDP by a socket that it may bind as long as we live.
        """
        return port.protocol == "tcp" or not (self.relayed or self.kind == "passt")

    def first_card_args(
        self, forwards: Sequence[ExposedPort], fds: Sequence[int | str]
    ) -> list[str]:
        """Return QEMU's arguments for the first card, or for having none.

        Args:
            forwards: in their order.
            fds: what `Wiring.start` returned, or one word that stands for it.
        """
        if self.kind == "none":
            return list(usernet.NO_CARD)
        if self.kind == "gvproxy":
            from pytest_vmports.network import gvproxy as by_gvproxy  # noqa: PLC0415 - few need it

            return by_gvproxy.card_args(fds[0])
        if self.kind == "passt":
            from pytest_vmports.network import passt as by_passt  # noqa: PLC0415 - likewise

            return by_passt.card_args(fds[0])
        if self.relayed:
            return relayed.card_args(forwards, fds[0])
        return usernet.card_args(forwards, restrict=self.restrict)


def choose_network(
    ports: Sequence[HasProtocol],
    *,
    allow_network: bool | Destinations,
    backend: str,
    qemu: Qemu,
    host_ports: Mapping[int, int] | None = None,
    network: str | None = None,
    strict: bool = False,
) -> Network:
    """Return the network for these ports; the only place that chooses.

    ============  ==================  ==========================================
    ports         allow_network       first card
    ============  ==================  ==========================================
    none          no                  none
    some          no                  QEMU user network, ``restrict=on``, hostfwd;
                                      with UDP ports also a relay of our own
    some or none  yes, or a list      gvproxy
    ============  ==================  ==========================================

    ``backend`` ``usernet``, ``gvproxy`` or ``passt`` overrules the last two rows; ``strict`` closes
    the host's own addresses to the latter two. With ``host_ports`` (port at
    `HOST_IP` to port of the host) or ``network`` (a name) there is a second card, whatever the
    first.

    Raises:
        HostError: UDP ports, a door or a network of VMs, and this QEMU is too old for it.
    """
    restrict = relay = False
    if wants_gvproxy(allow_network=allow_network, backend=backend):
        kind = "gvproxy"
    elif backend == "passt":
        kind, restrict = "passt", allow_network is not True
    elif ports or allow_network:
        # It cannot be held to a list, which settings refuse: so then it reaches nothing.
        kind, restrict = "usernet", allow_network is not True
        relay = restrict and any(port.protocol == "udp" for port in ports)
    else:
        kind, restrict = "none", True
    doors = tuple(sorted((host_ports or {}).items()))
    chosen = Network(kind, restrict, relay, doors, network)
    if kind in {"gvproxy", "passt"}:
        chosen = replace(chosen, strict=strict)
    if kind == "gvproxy":
        listed = None if allow_network is True else allow_network or Destinations()
        chosen = replace(chosen, allowed=listed)
    if qemu.version >= _FIRST_WITH_DGRAM:
        return chosen
    if relay:
        raise HostError(
            f"UDP ports of a guest without network need QEMU 7.2 or later, and this is {qemu}; "
            "use a later one, or allow_network = yes"
        )
    if chosen.second_card:
        raise HostError(
            f"host_ports and network need QEMU 7.2 or later, and this is {qemu}; use a later one"
        )
    return chosen


def make_wiring(
    network: Network,
    forwards: Sequence[ExposedPort],
    *,
    gvproxy: Gvproxy | None,
    passt: Passt | None = None,
    workdir: Path,
    allocator: PortAllocator,
    outlives: bool = False,
) -> Wiring:
    """Return what connects the first card, not started.

    Args:
        network: what was chosen.
        forwards: with their host ports.
        gvproxy: the program; None where it is not chosen.
        passt: likewise.
        workdir: private folder for gvproxy's files.
        allocator: gives gvproxy the port that old ones insist on.
        outlives: the VM may run on when we do not.

    Raises:
        SettingError: gvproxy or passt is to be used and none was given.
    """
    ports = tuple(forwards)
    if network.kind == "none":
        return usernet.NoNetwork()
    if network.relayed:
        return relayed.RelayedUsernetWiring(ports)
    if network.kind == "usernet":
        return usernet.UsernetWiring(ports, restrict=network.restrict)
    if network.kind == "passt":
        from pytest_vmports.network import passt as by_passt  # noqa: PLC0415 - likewise

        return by_passt.PasstWiring(
            ports, _given(network, passt), workdir, online=not network.restrict,
            strict=network.strict,
        )  # fmt: skip
    from pytest_vmports.network import gvproxy as by_gvproxy  # noqa: PLC0415 - likewise

    return by_gvproxy.GvproxyWiring(
        ports, _given(network, gvproxy), workdir, allocator, allowed=network.allowed,
        strict=network.strict, outlives=outlives,
    )  # fmt: skip


def _given(network: Network, program: _Program | None) -> _Program:
    if program is None:
        raise SettingError(
            source="make_wiring", name=network.kind, value=None,
            allowed=f"a {network.kind} is needed",
        )  # fmt: skip
    return program


def wants_gvproxy(*, allow_network: bool | Destinations, backend: str) -> bool:
    """Whether it is gvproxy that connects the guest."""
    return backend == "gvproxy" or (backend == "auto" and allow_network is not False)


def open_host(
    *, allow_network: bool | Destinations, backend: str, qemu: Qemu
) -> dict[str, str] | None:
    """Return what a guest would get of the host that nobody gave it; None when nothing.

    Its fields are those of `OpenHostError`. Of gvproxy tells `walls.missing`; passt is not used
    without its gate.
    """
    by_gvproxy = wants_gvproxy(allow_network=allow_network, backend=backend)
    if not allow_network or by_gvproxy or backend == "passt":
        return None
    return {
        "reached": f"every service on the host's 127.0.0.1, at {GATEWAY_IP}",
        "why": f"the user network of {qemu} cannot prevent it",
        "remedy": "use backend = auto with gvproxy",
    }

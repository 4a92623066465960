"""From what a user wrote to granted host ports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import (
    MAX_EXPOSED_PORTS,
    MAX_PORT,
    PORT_FORWARD_BIND_HOST,
    PORT_FORWARD_MIN_HOST_PORT,
    PORT_SPELLINGS,
)
from pytest_vmports.leases import free_port
from pytest_vmports.models import ExposedPort, PortMapping, Protocol
from pytest_vmports.system import loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_vmports.leases import LeaseInfo, PortAllocator, PortLease

_SPELLING = re.compile(
    r"(?:(?P<host>\d+):)?(?P<guest>\d+)(?:/(?P<protocol>tcp|udp))?", re.IGNORECASE
)


def _not_a_port(port: object) -> str:
    several = isinstance(port, list | tuple | set | range) or "," in str(port)
    each = "one by one, each as " if several else ""
    return f"{port!r} is not a port; write {each}{PORT_SPELLINGS}"


def parse_port(port: int | str | PortMapping) -> PortMapping:
    """Return the mapping that one of the spellings means.

    Raises:
        ValueError: it is none of them, or a number is out of range.
        TypeError: it is of another type.
    """
    if isinstance(port, PortMapping):
        return port
    if isinstance(port, bool) or not isinstance(port, int | str):
        raise TypeError(_not_a_port(port))
    match = _SPELLING.fullmatch(str(port).strip())
    if match is None:
        raise ValueError(_not_a_port(port))
    guest, host = int(match["guest"]), match["host"]
    if not 1 <= guest <= MAX_PORT:
        raise ValueError(f"guest port {guest} in {port!r} is not within 1 to {MAX_PORT}")
    if host is not None and not PORT_FORWARD_MIN_HOST_PORT <= int(host) <= MAX_PORT:
        raise ValueError(
            f"host port {host} in {port!r} is not within {PORT_FORWARD_MIN_HOST_PORT} to {MAX_PORT}"
        )
    protocol: Protocol = "udp" if (match["protocol"] or "tcp").lower() == "udp" else "tcp"
    return PortMapping(internal=guest, external=int(host) if host else None, protocol=protocol)


def parse_ports(ports: Any) -> tuple[PortMapping, ...]:
    """Return several: a list, one alone, or a text with blanks or commas between them.

    Raises:
        ValueError, TypeError: as `parse_port`.
    """
    if ports is None:
        return ()
    if isinstance(ports, str):
        ports = ports.replace(",", " ").split()
    elif isinstance(ports, bytes) or not isinstance(ports, Sequence):
        ports = [ports]
    return tuple(parse_port(port) for port in ports)


def normalize_port_mappings(
    mappings: Iterable[int | str | PortMapping] | None,
) -> list[PortMapping]:
    """Return every spelling as a `PortMapping`, in order.

    Raises:
        ValueError: a spelling is wrong.
        TypeError: an entry is neither a number, a text nor a mapping.
    """
    return [parse_port(mapping) for mapping in mappings or ()]


def check_request(mappings: Sequence[PortMapping]) -> None:
    """Refuse what could never be granted.

    Raises:
        ValueError: more than `MAX_EXPOSED_PORTS`, or one host port twice.
    """
    if len(mappings) > MAX_EXPOSED_PORTS:
        raise ValueError(f"Too many exposed ports: {len(mappings)} > {MAX_EXPOSED_PORTS}")
    fixed = [(m.external, m.protocol) for m in mappings if m.external is not None]
    for external, protocol in fixed:
        if fixed.count((external, protocol)) > 1:
            raise ValueError(f"host port {external}/{protocol} is asked for twice in one request")


def lease_ports(
    mappings: Sequence[PortMapping],
    allocator: PortAllocator,
    *,
    host: str = PORT_FORWARD_BIND_HOST,
    wait: float = 60.0,
    on_wait: Callable[[LeaseInfo], None] | None = None,
    label: str | None = None,
) -> list[tuple[ExposedPort, PortLease]]:
    """Lease a host port for every mapping; all of them or none.

    Args:
        mappings: what is wanted, in order.
        allocator: who grants it.
        host: the host address that will be bound.
        wait: seconds to wait for a fixed port that another of our tests holds.
        on_wait: told the holder when there is one to wait for.
        label: what others see as the holder; None means the running test.

    Raises:
        ValueError: see `check_request`.
        HostError: no port of the host can be reached.
        PortError: a port cannot be had.
    """
    check_request(mappings)
    if mappings:
        loopback.refuse_without(host)
    granted: dict[int, PortLease] = {}
    try:
        # In order of number: two tests that want the same two ports cannot each hold one of them.
        fixed = [(m.external, i) for i, m in enumerate(mappings) if m.external is not None]
        for external, index in sorted(fixed):
            granted[index] = allocator.acquire_fixed(
                external, protocol=mappings[index].protocol, host=host, timeout=wait,
                on_wait=on_wait, label=label,
            )  # fmt: skip
        for protocol in ("tcp", "udp"):
            free = [
                i for i, m in enumerate(mappings) if m.external is None and m.protocol == protocol
            ]
            if free:
                leases = allocator.acquire(len(free), protocol=protocol, host=host, label=label)
                granted.update(zip(free, leases, strict=True))
    except BaseException:
        for lease in granted.values():
            lease.release()
        raise
    return [
        (
            ExposedPort(
                internal=mapping.internal,
                external=granted[i].port,
                host=host,
                protocol=mapping.protocol,
            ),
            granted[i],
        )
        for i, mapping in enumerate(mappings)
    ]


def allocate_ephemeral_port(host: str = PORT_FORWARD_BIND_HOST) -> int:
    """Return a free TCP port that nobody else of ours gets while this process lives.

    Raises:
        PortError: none is left.
    """
    return free_port(host=host)


def resolve_port_mappings(
    mappings: Iterable[int | str | PortMapping] | None,
    host: str = PORT_FORWARD_BIND_HOST,
) -> list[ExposedPort]:
    """Return an `ExposedPort` for every mapping; what is allocated stays leased for the process.

    Explicit host ports are validated and kept as given.

    Raises:
        ValueError: a spelling is wrong, a host port is there twice, or there are too many.
        PortError: no port is left.
    """
    wanted = normalize_port_mappings(mappings)
    check_request(wanted)
    exposed = []
    taken = {(m.external, m.protocol) for m in wanted}
    for mapping in wanted:
        external = mapping.external
        if external is None:
            external = free_port(protocol=mapping.protocol, host=host)
            while (external, mapping.protocol) in taken:
                external = free_port(protocol=mapping.protocol, host=host)
        exposed.append(
            ExposedPort(
                internal=mapping.internal, external=external, host=host, protocol=mapping.protocol
            )
        )
    return exposed

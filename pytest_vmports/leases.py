"""Leases on host ports: while one is held, nobody else of ours is given that port.

    with PortAllocator() as allocator:
        web, db = allocator.acquire(2)

A lease is an exclusive lock on one file per protocol and port, in a directory that all pytest
runs of a user share, plus, for TCP, a guard socket that keeps strangers away until the server
listens. The kernel drops both when their last holder dies, so nothing goes stale, and nothing is
ever unlinked: a file unlinked while locked would let a second holder in. `docs/ports.md` has the
whole protocol and its limits.

``python -m pytest_vmports.leases`` holds leases for any command, and lists who holds what.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
from typing import TYPE_CHECKING

from pytest_vmports.constants import PORT_FORWARD_BIND_HOST
from pytest_vmports.lease_record import LeaseInfo
from pytest_vmports.port_allocator import LeaseProtocol, PortAllocator
from pytest_vmports.port_lease import LeaseTamperedWarning, PortLease, give_back

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "FreePortFactory",
    "LeaseInfo",
    "LeaseProtocol",
    "LeaseTamperedWarning",
    "PortAllocator",
    "PortLease",
    "free_port",
    "leased_ports",
]


class FreePortFactory:
    """Gives free port numbers to a program that is not ours; holds their leases until `close`.

    The guard is let go of at once, because a server that does not set ``SO_REUSEADDR`` could not
    bind beside it. So nobody of ours gets the port again, but a stranger who picks this very
    number could take it before the server does.

    Args:
        allocator: where leases come from; None makes one, which `close` closes.
    """

    def __init__(self, allocator: PortAllocator | None = None) -> None:
        self._own = allocator is None
        self._allocator = allocator or PortAllocator()
        self._leases: list[PortLease] = []

    def __call__(
        self, *, protocol: LeaseProtocol = "tcp", host: str = PORT_FORWARD_BIND_HOST
    ) -> int:
        """Return a port that no other caller gets until `close`.

        Raises:
            PortError: as `PortAllocator.acquire`.
        """
        leases = self._allocator.acquire(protocol=protocol, host=host)
        self._leases += leases
        for lease in leases:
            lease.release_guard()
        return leases[0].port

    def close(self) -> None:
        """Give the ports back."""
        leases, self._leases = self._leases, []
        give_back(leases)
        if self._own:
            self._allocator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@functools.cache
def _process_factory() -> FreePortFactory:
    factory = FreePortFactory()
    atexit.register(factory.close)
    return factory


def free_port(*, protocol: LeaseProtocol = "tcp", host: str = PORT_FORWARD_BIND_HOST) -> int:
    """Return a free port that stays ours until this process ends.

    Raises:
        PortError: as `PortAllocator.acquire`.
    """
    return _process_factory()(protocol=protocol, host=host)


@contextlib.contextmanager
def leased_ports(
    count: int = 1,
    *,
    protocol: LeaseProtocol = "tcp",
    host: str = PORT_FORWARD_BIND_HOST,
    contiguous: bool = False,
    label: str | None = None,
) -> Iterator[list[int]]:
    """Hold ``count`` ports for the length of a ``with`` block; yields their numbers.

    As with `FreePortFactory`, guards are let go of at once.

    Raises:
        PortError: as `PortAllocator.acquire`.
    """
    with PortAllocator() as allocator:
        leases = allocator.acquire(
            count, protocol=protocol, host=host, contiguous=contiguous, label=label
        )
        for lease in leases:
            lease.release_guard()
        yield list(dict.fromkeys(lease.port for lease in leases))


if __name__ == "__main__":
    from pytest_vmports.lease_cli import main

    sys.exit(main())

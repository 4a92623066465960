"""Port numbers for programs that are not ours, and the one place that makes an allocator."""

from __future__ import annotations

import atexit
import contextlib
import functools
from typing import TYPE_CHECKING

from pytest_vmports.constants import PORT_FORWARD_BIND_HOST
from pytest_vmports.leases.allocator import LeaseProtocol, PortAllocator
from pytest_vmports.leases.lease import give_back
from pytest_vmports.system.surroundings import restored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from pytest_vmports.leases.lease import PortLease


@restored()
def open_allocator(
    state_dir: Path | str | None = None, port_range: tuple[int, int] | None = None
) -> PortAllocator:
    """Return an allocator, for a ``with`` block or to be closed; arguments as `PortAllocator`.

    Raises:
        StateDirError: the directory of the lock files cannot be used.
        SettingError: nothing of ``port_range`` can be used.
    """
    return PortAllocator(state_dir, port_range)


@functools.cache
def process_allocator() -> PortAllocator:
    """Return the allocator whose leases last as long as this process.

    Raises:
        StateDirError: the directory of the lock files cannot be used.
    """
    allocator = open_allocator()
    atexit.register(allocator.close)
    return allocator


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
        self._allocator = allocator or open_allocator()
        self._leases: list[PortLease] = []

    def __call__(
        self, *, protocol: LeaseProtocol = "tcp", host: str = PORT_FORWARD_BIND_HOST
    ) -> int:
        """Return a port that no other caller gets until `close`.

        Raises:
            PortError: as `PortAllocator.acquire`.
        """
        leases = _without_guard(self._allocator, protocol=protocol, host=host)
        self._leases += leases
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


def free_port(*, protocol: LeaseProtocol = "tcp", host: str = PORT_FORWARD_BIND_HOST) -> int:
    """Return a free port that stays ours until this process ends.

    As with `FreePortFactory`, its guard is let go of at once.

    Raises:
        PortError: as `PortAllocator.acquire`.
    """
    return _without_guard(process_allocator(), protocol=protocol, host=host)[0].port


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
    with open_allocator() as allocator:
        leases = _without_guard(
            allocator, count, protocol=protocol, host=host, contiguous=contiguous, label=label
        )
        yield list(dict.fromkeys(lease.port for lease in leases))


def _without_guard(
    allocator: PortAllocator,
    count: int = 1,
    *,
    protocol: LeaseProtocol,
    host: str,
    contiguous: bool = False,
    label: str | None = None,
) -> list[PortLease]:
    leases = allocator.acquire(
        count, protocol=protocol, host=host, contiguous=contiguous, label=label
    )
    for lease in leases:
        lease.release_guard()
    return leases

"""Leases on host ports: while one is held, nobody else of ours is given that port.

    with leases.open_allocator() as allocator:
        web, db = allocator.acquire(2)

A lease is an exclusive lock on one file per protocol and port, in a directory that all pytest
runs of a user share, plus, for TCP, a guard socket that keeps strangers away until the server
listens. The kernel drops both when their last holder dies, so nothing goes stale, and nothing is
ever unlinked: a file unlinked while locked would let a second holder in. `docs/ports.md` has the
whole protocol and its limits.

``python -m pytest_vmports.leases`` holds leases for any command, and lists who holds what.
"""

from __future__ import annotations

from pytest_vmports.leases.allocator import LeaseProtocol, PortAllocator
from pytest_vmports.leases.free_ports import (
    FreePortFactory,
    free_port,
    leased_ports,
    open_allocator,
    process_allocator,
)
from pytest_vmports.leases.lease import LeaseTamperedWarning, PortLease
from pytest_vmports.leases.record import LeaseInfo

__all__ = [
    "FreePortFactory",
    "LeaseInfo",
    "LeaseProtocol",
    "LeaseTamperedWarning",
    "PortAllocator",
    "PortLease",
    "free_port",
    "leased_ports",
    "open_allocator",
    "process_allocator",
]

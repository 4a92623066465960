"""Tests that need a real virtual machine, with host ports that nobody else has.

Names are loaded when they are first used: a pytest session that uses none of them pays nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_vmports.errors import VmPortsError
    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.leases import LeaseInfo, PortAllocator, PortLease, free_port, leased_ports
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.network.log import NetworkEntry
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.port_forward import (
        allocate_ephemeral_port,
        normalize_port_mappings,
        resolve_port_mappings,
    )

__version__ = "0.1.0"

__all__ = (  # noqa: RUF022 - most important first
    "PortMapping",
    "ExposedPort",
    "VM",
    "Guest",
    "ExposedPorts",
    "PortAllocator",
    "PortLease",
    "LeaseInfo",
    "NetworkEntry",
    "free_port",
    "leased_ports",
    "allocate_ephemeral_port",
    "normalize_port_mappings",
    "resolve_port_mappings",
    "VmPortsError",
)
_HOMES = {
    "PortMapping": "models",
    "ExposedPort": "models",
    "VM": "pool.handle",
    "Guest": "guests.guest",
    "ExposedPorts": "network.exposed",
    "NetworkEntry": "network.log",
    "PortAllocator": "leases",
    "PortLease": "leases",
    "LeaseInfo": "leases",
    "free_port": "leases",
    "leased_ports": "leases",
    "allocate_ephemeral_port": "port_forward",
    "normalize_port_mappings": "port_forward",
    "resolve_port_mappings": "port_forward",
    "VmPortsError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

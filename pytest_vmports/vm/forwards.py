"""Forwards that come and go while the guest runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_vmports.errors import ForwardError, MonitorError

if TYPE_CHECKING:
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.machine import Machine


def add(machine: Machine, port: ExposedPort, lease_fd: int) -> None:
    """Add a forward.

    Args:
        machine: runs.
        port: the forward.
        lease_fd: its lease's descriptor, shared with QEMU where QEMU binds the port.

    Raises:
        ForwardError: the host port could not be bound.
        MachineError: it cannot be forwarded while the guest runs, or QEMU hung up.
    """
    shared = lease_fd in machine.wiring.qemu_fds([lease_fd])
    if shared:
        machine.monitor.give(lease_fd, _lease_name(port))
    try:
        machine.wiring.expose(port, machine.monitor)
    except ForwardError:
        if shared:
            machine.monitor.execute("closefd", fdname=_lease_name(port))
        raise


def remove(machine: Machine, port: ExposedPort, lease_fd: int) -> None:
    """Take away a forward that was added.

    Raises:
        MachineError: there is no such forward.
    """
    machine.wiring.hide(port, machine.monitor)
    if lease_fd in machine.wiring.qemu_fds([lease_fd]):
        # A QEMU that was restarted since has inherited it, and keeps the lease while it lives.
        with contextlib.suppress(MonitorError):
            machine.monitor.execute("closefd", fdname=_lease_name(port))


def remove_all(machine: Machine) -> None:
    """Take all forwards away.

    Raises:
        MachineError: one could not be removed.
    """
    for port in machine.wiring.ports:
        machine.wiring.hide(port, machine.monitor)


def _lease_name(port: ExposedPort) -> str:
    return f"lease-{port.protocol}-{port.external}"

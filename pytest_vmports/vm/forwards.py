"""Forwards that come and go while the guest runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vmports.vm.machine import Machine


def remove_all(machine: Machine) -> None:
    """Take all forwards away that the machine was started with.

    Raises:
        MachineError: one could not be removed.
    """
    first = machine.cards.first
    for port in first.ports:
        first.remove_forward(port, None, machine.monitor)

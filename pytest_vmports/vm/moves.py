"""A guest that runs takes another place on its shared network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.network.moving import Move
    from pytest_vmports.vm.machine import Machine

_SECONDS = 30.0


def make(machine: Machine, moves: Sequence[Move]) -> None:
    """Return when the guest has made these moves, one after the other, and has the host's time.

    Raises:
        MachineError: it refuses or does not answer, or its VM has ended.
    """
    for move in moves:
        machine.kind.restored(move)
        machine.set_clock(_SECONDS)

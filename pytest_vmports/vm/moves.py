"""A guest that runs takes another place on its shared network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.network.moving import Move
    from pytest_vmports.vm.inside.kind import GuestKind

_SECONDS = 30.0


def make(kind: GuestKind, moves: Sequence[Move], set_clock: Callable[[float], None]) -> None:
    """Return when the guest has made these moves, one after the other, and has the host's time.

    Args:
        kind: the guest's.
        moves: may be none.
        set_clock: gives it the host's time, within so many seconds; see `Machine.set_clock`.

    Raises:
        MachineError: it refuses or does not answer, or its VM has ended.
    """
    for move in moves:
        kind.restored(move)
        set_clock(_SECONDS)

"""Two ways into one guest, of which each carries what it is good for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_vmports.vm.inside.shell import Shell, Sink

# A serial port takes about this much in the time that a login takes under emulation.
_LIGHT = 64 << 10


class ByWeight:
    """Two ways into one guest: a quick one for commands, and a wide one for what carries much.

    Args:
        quick: is there at once, and may carry little at a time.
        wide: takes longer to get there.
        narrow: tells whether the quick one does carry little now.
    """

    def __init__(self, quick: Shell, wide: Shell, narrow: Callable[[], bool]) -> None:
        self._quick = quick
        self._wide = wide
        self._narrow = narrow

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002 - as subprocess
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command; see `Shell`.

        Raises:
            MachineError: it cannot be run.
        """
        heavy = sink is not None or not isinstance(input, bytes) or len(input) > _LIGHT
        way = self._wide if heavy and self._narrow() else self._quick
        return way.execute(
            command, timeout=timeout, input=input, sink=sink, most=most, per_progress=per_progress
        )

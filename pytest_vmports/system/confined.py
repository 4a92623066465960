"""A child that is kept from what it was not given: its walls, and the gate for its sockets.

Both are put on the thread that starts it, which nothing can take off again, so each such child has
a thread of its own, that lives as long as it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.system import landlock

if TYPE_CHECKING:
    from pytest_vmports.system.gate import Gate
    from pytest_vmports.system.landlock import Walls


@dataclass(frozen=True)
class Confinement:
    """How a child is kept; None for what this host cannot do.

    Attributes:
        walls: around the files and ports that it may use.
        gate: asks us for its sockets.
    """

    walls: Walls | None = None
    gate: Gate | None = None

    def put_on(self) -> None:
        """Confine this thread and what it starts from now on.

        Raises:
            OSError: the kernel refuses.
        """
        if self.walls is not None:
            landlock.confine(self.walls)
        if self.gate is not None:
            self.gate.put_up()

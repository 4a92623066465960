"""A child that is kept from what it was not given: its walls, and the gate for its sockets.

Both are put on the thread that starts it, which nothing can take off again, so each such child has
a thread of its own, that lives as long as it does.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.system import landlock

if TYPE_CHECKING:
    from pytest_vmports.system.gate import Gate
    from pytest_vmports.system.landlock import Walls


# A call that is held keeps a thread of the child waiting, and one of Go's ends at 10,000 threads.
# Each such call is one on an open socket.
_DESCRIPTORS = 4096


class Child(Protocol):
    """A `Process`."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def death(self) -> int | None:
        """A descriptor of it."""


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
            # What the gate has bound by us is not the child's own doing. Without one, that may be
            # any port: these walls cannot be opened for one that is asked for later.
            landlock.confine(self.walls, binds=self.gate is None)
        if self.gate is not None:
            self.gate.put_up()

    def mind(self, child: Child) -> None:
        """Answer a child that was started behind this gate, until it ends.

        Raises:
            OSError: we may open no descriptor more.
            RuntimeError: we may start no thread more.
        """
        if self.gate is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended: whoever waits sees that
                _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
                most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
                resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (most, most))
            assert child.death is not None, "see `gate.problem`"
            self.gate.mind(child.death)

    def close(self) -> None:
        """Let nobody wait for our word where no child was started."""
        if self.gate is not None:
            self.gate.close()

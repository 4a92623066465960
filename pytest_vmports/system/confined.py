"""A child that is kept from what it was not given: its walls, and the gate for its sockets.

Both are put on the thread that starts it, which nothing can take off again, so each such child has
a thread of its own, that lives as long as it does.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.system import landlock, seccomp

if TYPE_CHECKING:
    from pytest_vmports.system.gate import Gate
    from pytest_vmports.system.landlock import Walls


# A guest has as many connections as its child has sockets, and each takes memory of the host's: of
# gvproxy's 170 KB. Each that is held by a gate keeps a thread waiting too, and a child of Go's ends
# at 10,000 threads.
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
        binds: without a gate, it may bind TCP ports.
        connects: likewise, it may connect by TCP.
        refused: system calls, of `seccomp.Numbers`, that it may not make at all.
        sheds: see `libc.restrict_myself`.
        descriptors: how many it may have at once.
    """

    walls: Walls | None = None
    gate: Gate | None = None
    binds: bool = True
    connects: bool = True
    refused: tuple[str, ...] = ()
    sheds: bool = False
    descriptors: int = _DESCRIPTORS

    def put_on(self) -> None:
        """Confine this thread and what it starts from now on.

        Raises:
            OSError: the kernel refuses.
        """
        if self.walls is not None:
            # What the gate has bound by us is not the child's own doing. Without one, that may be
            # any port: these walls cannot be opened for one that is asked for later.
            binds = self.gate is None and self.binds
            landlock.confine(
                self.walls, binds=binds, connects=self.connects, sheds=self.sheds
            )  # fmt: skip
        if self.refused:
            seccomp.refuse(self.refused, sheds=self.sheds)
        if self.gate is not None:
            self.gate.put_up()

    def mind(self, child: Child) -> None:
        """Limit a child that was started so, and answer it until it ends, if there is a gate.

        Raises:
            OSError: we may open no descriptor more.
            RuntimeError: we may start no thread more.
        """
        _limit(child.pid, self.descriptors)
        if self.gate is not None:
            assert child.death is not None, "see `gate.problem`"
            self.gate.mind(child.death)

    def close(self) -> None:
        """Let nobody wait for our word where no child was started."""
        if self.gate is not None:
            self.gate.close()


def _limit(pid: int, most: int) -> None:
    if not sys.platform.startswith("linux"):  # no other lets us
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended: whoever waits sees that
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        soft, hard = (most if one == resource.RLIM_INFINITY else min(one, most) for one in limits)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

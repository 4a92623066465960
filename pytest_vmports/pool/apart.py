"""Which guests are no clones on a shared network, for there a clone would not be what a boot makes.

The template of such VMs is made alone, at an address that no VM has. A guest that needs its
neighbours to get ready, or has kept that address, boots from cold. That is found out by making one,
so it is noted in a folder that all workers of the run share: ``KEY`` holds the reason.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    BootTimeoutError,
    CloudInitError,
    GuestStuckError,
    SetupError,
)
from pytest_vmports.network.lan import NeighbourSoughtError
from pytest_vmports.system.mishaps import noting
from pytest_vmports.vm.inside.own_address import why_it_stays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.plan import Plan

_LONGEST = 1000
# What a guest that misses its neighbours may end with, before it has asked for one by ARP.
_ALONE_IN_VAIN = SetupError, CloudInitError, BootTimeoutError, GuestStuckError


class ApartError(Exception):
    """A guest is not to be cloned on a shared network."""


class Apart:
    """What was found out in this run.

    Args:
        folder: of all processes of the run.
        tell: writes a line to the terminal.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._known: dict[str, str] = {}

    def why(self, plan: Plan) -> str | None:
        """Return why a VM of a shared network boots from cold; None where it may be cloned."""
        if not plan.kind.moves:
            return "nothing in it could give a saved one the address of its own"
        if plan.key not in self._known:
            # There is none, or it cannot be read: then it is found out again.
            with contextlib.suppress(OSError):
                self._known[plan.key] = (self._folder / plan.key).read_text("utf-8")[:_LONGEST]
        return self._known.get(plan.key)

    def note(self, plan: Plan, why: str) -> None:
        """Note that VMs of this plan boot from cold on a shared network."""
        self._known[plan.key] = why
        with noting("vmports: why a guest is not cloned is not remembered", self._tell):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            (self._folder / plan.key).write_text(why, "utf-8")


@contextlib.contextmanager
def found_out(machine: Machine) -> Iterator[None]:
    """Make a machine ready in the ``with`` block, and see whether clones of it would be right.

    Args:
        machine: is to become a template.

    Raises:
        ApartError: they would not.
    """
    if machine.plan.network.lan is None:
        yield
        return
    try:
        yield
        why = why_it_stays(machine.shell)
        machine.check_alive()
    except NeighbourSoughtError as error:
        raise ApartError(f"while it got ready it asked for another VM, at {error}") from error
    except _ALONE_IN_VAIN as error:
        brief = " ".join(str(error).partition("\n")[0].split())
        raise ApartError(f"alone it does not get ready: {brief}") from error
    if why is not None:
        raise ApartError(why)

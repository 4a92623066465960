"""What a kind of guest is told of the VM that it lives in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_vmports.system import clock
from pytest_vmports.vm.failures import timed_out
from pytest_vmports.vm.last_words import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.errors import BootTimeoutError
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.argv import Drives
    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.last_words import LastWords
    from pytest_vmports.vm.readiness import Probe


@dataclass(frozen=True)
class Place:
    """Where a VM's files are.

    Attributes:
        workdir: its private folder.
        home: the folder of all VMs of this process, with what they share.
        root: what relative paths of the guest's files are relative to.
    """

    workdir: Path
    home: Path
    root: Path


@dataclass(frozen=True)
class BootFiles:
    """What a VM boots: kernel and initrd, None where firmware finds them; its disks, or None."""

    kernel: Path | None = None
    initrd: Path | None = None
    drives: Drives | None = None


@dataclass(frozen=True)
class Waiting:
    """How long a guest is waited for, and what is known of it meanwhile.

    Attributes:
        console: what it wrote.
        alive: raises when a process of its VM has ended.
        deadline: a `clock.now` value.
        timeout: the seconds that led to it, for the error.
        deaths: descriptors that become readable when a process of the VM ends.
        answers: what its ports have answered so far.
        ends: what its console may end with when nothing more will come.
        probe: makes a probe of some of its ports.
    """

    console: Console
    alive: Callable[[], None]
    deadline: float
    timeout: float
    deaths: Sequence[int] = ()
    answers: Mapping[int, str] = field(default_factory=dict)
    ends: Sequence[LastWords] = ()
    probe: Callable[[Sequence[ExposedPort]], Probe] | None = None

    @cached_property
    def _watch(self) -> Watch:
        return Watch(self.console, self.ends)

    def check(self) -> None:
        """Raise when waiting has become pointless. May be called often.

        Raises:
            MachineDiedError: a process of its VM has ended.
            GuestStuckError: its boot has ended where somebody would have to type.
        """
        self.alive()
        self._watch.look()

    @property
    def over(self) -> bool:
        """Whether the deadline has come."""
        return clock.now() >= self.deadline

    def timed_out(self, what: str) -> BootTimeoutError:
        """Return the error of a guest that was waited for in vain."""
        what += self._watch.so_far()
        return timed_out(self.console, what, self.timeout, self.answers)

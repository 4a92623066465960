"""What a kind of guest is told of the VM that it lives in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_vmports.system import clock
from pytest_vmports.vm.failures import timed_out
from pytest_vmports.vm.inside.listening import ask, explained
from pytest_vmports.vm.last_words import Watch
from pytest_vmports.vm.readiness import GOOD_ANSWER, REFUSED, SILENT, UNREACHED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_vmports.errors import BootTimeoutError
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.argv import Drives
    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.last_words import LastWords
    from pytest_vmports.vm.readiness import Probe
    from pytest_vmports.vm.reboots import Reboots
    from pytest_vmports.vm.stillness import Stillness

# Of asking the ports once more when the deadline has come.
_LAST_SECONDS = 1.0
_SILENT = frozenset({SILENT, UNREACHED})


@dataclass(frozen=True)
class Place:
    """Where a VM's files are.

    Attributes:
        workdir: its private folder.
        home: the folder of all VMs of this process, with what they share.
        root: what relative paths of the guest's files are relative to.
        below: files of a template that its disk lies on.
    """

    workdir: Path
    home: Path
    root: Path
    below: tuple[Path, ...] = ()


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
        asked: asks those of its ports that are waited for.
        ends: what its console may end with when nothing more will come.
        probe: makes a probe of some of its ports.
        stillness: looks at its processors while its console is silent.
        reboots: counts those of the guest; None where nobody waits for one that reboots.
    """

    console: Console
    alive: Callable[[], None]
    deadline: float
    timeout: float
    deaths: Sequence[int] = ()
    asked: Probe | None = None
    ends: Sequence[LastWords] = ()
    probe: Callable[[Sequence[ExposedPort]], Probe] | None = None
    stillness: Stillness | None = None
    reboots: Reboots | None = None

    @cached_property
    def _watch(self) -> Watch:
        return Watch(self.console, self.ends, self.stillness)

    def check(self) -> None:
        """Raise when waiting has become pointless. May be called often.

        Raises:
            MachineDiedError: a process of its VM has ended.
            GuestStuckError: its boot has ended short of its goal, and it stands still.
            RebootedError: its guest has rebooted, and is to be waited for anew.
        """
        self.alive()
        if self.reboots is not None:
            self.reboots.check(self.deadline)
        self._watch.look()

    @property
    def rebooted(self) -> bool:
        """Whether its guest has rebooted since it was started."""
        return self.reboots is not None and self.reboots.count > 0

    @property
    def over(self) -> bool:
        """Whether the deadline has come."""
        return clock.now() >= self.deadline

    def timed_out(
        self, what: str, shell: Callable[[], Shell | None] = lambda: None
    ) -> BootTimeoutError:
        """Return the error of a guest that was waited for in vain.

        Args:
            what: was waited for.
            shell: returns the way into the guest, which is asked for reasons; None for no way.

        Raises:
            MachineDiedError: the VM has ended meanwhile.
        """
        what += self._rebooted() + self._watch.so_far()
        return timed_out(self.console, what, self.timeout, self._last_answers(shell))

    def setup_never_ended(self) -> BootTimeoutError:
        """Return the error of a guest whose setup was waited for in vain, with the likely reason.

        Raises:
            MachineDiedError: the VM has ended meanwhile.
        """
        answers = self._last_answers(lambda: None)  # its agent is started after the setup
        reason = "a server in it, or whatever else runs on, needs & at the end of its line"
        served = [port for port, answer in answers.items() if answer == GOOD_ANSWER]
        if served:
            reason = (
                f"port {served[0]} answers already, so the setup waits for its server; {reason}"
            )
        elif answers and all(answer in _SILENT for answer in answers.values()):
            # Its network is made before the setup runs.
            reason = "it still boots, as nothing in it answers: raise boot_timeout on a slow host"
        elif REFUSED not in answers.values():
            # Nothing tells whether it has come as far as its setup.
            reason += "; or it still boots: raise boot_timeout on a slow host"
        what = f"its setup has not ended: {reason}{self._rebooted()}"
        return timed_out(self.console, what, self.timeout, answers)

    def _rebooted(self) -> str:
        return "" if self.reboots is None else self.reboots.so_far()

    def _last_answers(self, shell: Callable[[], Shell | None]) -> dict[int, str]:
        if self.asked is None:
            return {}
        said = ask(shell)
        # After that, so that no port is said to be closed that the guest has just told of.
        self.asked.step(clock.now() + _LAST_SECONDS, self.check)
        return explained(self.asked.answers, said)

"""What went wrong with a VM, as errors that hold the evidence; a cause before what follows."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    BootTimeoutError,
    DiskFullError,
    ForwardError,
    GuestCrashError,
    GuestKernelWarning,
    GuestPanicError,
    GuestRebootError,
    GuestRebootWarning,
    GuestShellError,
    LaunchError,
    LostEvidenceWarning,
    MachineDiedError,
    MachineError,
    MonitorError,
)
from pytest_vmports.system import clock, landlock
from pytest_vmports.vm import hints
from pytest_vmports.vm.crashes import Weight, clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.system.process import Process
    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.crashes import Crash
    from pytest_vmports.vm.monitor import Monitor

# QEMU closes its channels, and gvproxy ends with that, before QEMU itself is seen to have ended.
_MOMENT = 5.0
# From the first words of a panic to the guest's reset, where it makes one.
_PANIC_SECONDS = 2.0
# From the first words of an oops to the last, and how long a kernel is silent that has said them.
_TRACE_SECONDS, _SILENT_SECONDS = 2.0, 0.2
# A panic's trace is longer than the usual end of the console, and what led to it stands before.
_PANIC_LINES = 60
_BY_DEVICE = "it told QEMU's device pvpanic, and its console says nothing of that"
# What a file that it may not read makes QEMU, or its loader, say.
_DENIED = re.compile(
    r"Permission denied|could not (?:load|open)|failed to find romfile"
    r"|while loading shared libraries"
)
_WALLED = (
    "(where that file is there: Landlock keeps QEMU to its own files and its VM's, also from what "
    "qemu_args name; to give it others, name as qemu a script of yours that runs it, which is "
    "kept from nothing)"
)
# Of a console's end.
_LOOK_BYTES = 256 << 10
_REBOOT, _POWER_OFF = "guest-reset", "guest-shutdown"
_BY_THE_HOST = {"host-signal": "a signal told it to", "host-error": "an error of the host"}
_WHY = {
    _REBOOT: "the guest rebooted",
    _POWER_OFF: "the guest powered off",
    "host-qmp-quit": "its monitor told it to",
    **_BY_THE_HOST,
}
# Who writes no such word before a reset has not rebooted: a kernel says each, whatever its level.
_SAYS_RESET = re.compile(r"reboot: |sysrq: Resetting|Rebooting in \d")
_LINUX = re.compile(r"^\[ *\d+\.\d{6}\]", re.MULTILINE)
# What a kernel says once for each reset of those; the other words come beside.
_ONCE = re.compile(r"reboot: Restarting system|sysrq: Resetting")
_UNSAID = "the guest was reset without a word of its kernel, as by a triple fault"
# What Linux writes last (source: its kernel/reboot.c), for a QEMU whose own words were lost.
_LINUX_SAYS = {"reboot: Restarting system": _REBOOT, "reboot: Power down": _POWER_OFF}


@dataclass(frozen=True)
class Vitals:
    """What tells whether a VM lives, and how it died.

    Attributes:
        qemu: its QEMU.
        helpers: the processes that its network needs.
        console: what its guest wrote.
        monitor: QEMU's.
        may_crash: its test allows the guest's kernel to crash.
    """

    qemu: Process
    helpers: Sequence[Process]
    console: Console
    monitor: Monitor
    may_crash: bool = False

    @property
    def first_dead(self) -> Process | None:
        """The first of its processes that has ended."""
        return next((one for one in (self.qemu, *self.helpers) if not one.running), None)

    @property
    def panic(self) -> str | None:
        """Why the guest's kernel has given up; None when it has not."""
        said = self.console.panic()
        return _BY_DEVICE if said is None and self.monitor.panicked else said

    @property
    def failed(self) -> Crash | None:
        """The first thing short of a panic by which the guest's kernel fails a test."""
        said = self.console.crashes()
        return next((one for one in said if one.kind.weight is Weight.FAILS), None)

    @property
    def crash(self) -> Crash | None:
        """Likewise; None where the test allows it."""
        return None if self.may_crash else self.failed

    @property
    def why_ended(self) -> str:
        """Why a QEMU that ended with 0 did, in its own word; empty where that is not known."""
        console = self.console.end(_LOOK_BYTES)
        told = (why for words, why in _LINUX_SAYS.items() if words in console)
        return self.monitor.why_ended() or next(told, "")

    @property
    def reset_unsaid(self) -> bool:
        """Whether the guest was reset and its kernel, which writes to the console, said nothing."""
        if self.why_ended != _REBOOT or _SAYS_RESET.search(clean(self.console.end(_LOOK_BYTES))):
            return False
        # A clone's kernel may have written when its template booted alone.
        return _LINUX.search(clean(self.console.recent())) is not None

    @property
    def resets_unsaid(self) -> bool:
        """Likewise, of one that may reboot and whose QEMU goes on with it."""
        count = self.monitor.resets.count
        if not count or self.console.size > _LOOK_BYTES:  # where words may be out of sight
            return False
        said = clean(self.console.end(_LOOK_BYTES))
        return count > len(_ONCE.findall(said)) and _LINUX.search(self.console.recent()) is not None

    def await_ending(self, *, sure: bool = False) -> None:
        """Wait for what is about to end; at most some seconds."""
        if sure or self.qemu.ending or self.monitor.hung_up:
            self.qemu.wait(_MOMENT)
        for helper in self.helpers:
            if helper.ending:
                helper.wait(_MOMENT)


def not_started(vitals: Vitals, refused: tuple[ExposedPort, str] | None) -> MachineError:
    """Return why QEMU's monitor did not come up.

    Args:
        vitals: of the VM; its QEMU has ended, or was waited for in vain.
        refused: the forward that QEMU says it could not bind, and its words.
    """
    qemu = vitals.qemu
    if refused is not None:
        port, detail = refused
        return ForwardError(
            program="QEMU", port=port.external, protocol=port.protocol, host=port.host,
            detail=detail,
        )  # fmt: skip
    ended = "no monitor" if qemu.returncode is None else why_qemu_ended(vitals)
    said = qemu.output.strip() or "(nothing)"
    if _DENIED.search(said) and landlock.problem() is None:
        said = f"{said}\n{_WALLED}"
    return LaunchError(
        program="QEMU", returncode=ended, stderr=said, command=shlex.join(qemu.command)
    )


def found(vitals: Vitals) -> MachineDiedError | None:
    """Return how a VM died that nobody has stopped; None while it lives.

    A guest whose kernel has panicked is dead, also where QEMU still runs it. One whose kernel has
    failed in another way may run on, and is good for nothing, unless its test allows that.
    """
    qemu, console, dead = vitals.qemu, vitals.console, vitals.first_dead
    if dead is None and vitals.panic is None and vitals.crash is None:
        return _paused(vitals)
    if dead is None and vitals.panic is None:
        _await_trace(vitals)
    if dead is None and vitals.panic is not None:
        qemu.wait(_PANIC_SECONDS)
    elif dead is not None and dead is not qemu and (dead.returncode or 0) >= 0:  # nor killed
        qemu.wait(_MOMENT)
    dead = vitals.first_dead or qemu
    panic, crash = vitals.panic, vitals.crash
    facts = {
        "program": dead.name,
        "returncode": why_qemu_ended(vitals) if dead is qemu else status_of(dead),
        "stderr": dead.output.strip() or "(nothing)",
    }  # fmt: skip
    if panic is not None:
        before, said = vitals.failed, console.end(_LOOK_BYTES)
        cause = "" if before is None else f"\nbefore that it said: {before.said}"
        return GuestPanicError(
            panic=panic, console=console.tail(_PANIC_LINES), cause=cause, kind="panic",
            what="panicked", crash=panic, remedy="", hint=hints.of(said), **facts,
        )  # fmt: skip
    if crash is not None:
        advice = f"{crash.kind.advice}; " if crash.kind.advice else ""
        return GuestCrashError(
            kind=crash.kind.name, what=crash.kind.says, crash=crash.said,
            console=console.passage(), remedy=advice, **facts,
        )  # fmt: skip
    if dead is qemu and qemu.returncode == 0 and vitals.why_ended == _REBOOT:
        what = _UNSAID if vitals.reset_unsaid else "the guest rebooted by itself"
        return GuestRebootError(
            what=f"{what}, which ends its VM", console=console.tail(), **facts,
            remedy="where the test wants reboots, set on_reboot = allow",
        )  # fmt: skip
    return MachineDiedError(console=console.tail(), **facts)


def rebooted(vitals: Vitals) -> GuestRebootError:
    """Return the error of something that was asked of a guest that has rebooted meanwhile."""
    return GuestRebootError(
        what="the guest rebooted while this was asked of it, and what became of it is not known",
        remedy="vm.reboot() asks for a reboot, and waits until the guest is ready again",
        program="QEMU", returncode=status_of(vitals.qemu), console=vitals.console.tail(),
        stderr=vitals.qemu.output.strip() or "(nothing)",
    )  # fmt: skip


def _paused(vitals: Vitals) -> MachineDiedError | None:
    if not vitals.monitor.disk_full:
        return None
    return DiskFullError(
        folder=str(vitals.console.path.parent), program="QEMU", returncode=status_of(vitals.qemu),
        stderr=vitals.qemu.output.strip() or "(nothing)", console=vitals.console.tail(),
    )  # fmt: skip


def _await_trace(vitals: Vitals) -> None:
    """Let a kernel that has begun to tell of its fault say the rest, as far as it goes on."""
    until, before = clock.now() + _TRACE_SECONDS, ""
    while (said := vitals.console.passage()) != before and clock.now() < until:
        if "---[ end " in said or vitals.qemu.wait(_SILENT_SECONDS) is not None:
            return
        before = said


def at_the_end(vitals: Vitals) -> MachineDiedError | None:
    """Return why the test fails whose VM ends now, or begins anew; None when it does not.

    A guest may power off, and panic, or end its VM by a reboot, where crashes are allowed.
    """
    vitals.await_ending()
    try:
        if vitals.console.may_be_crashing():
            vitals.qemu.wait(_PANIC_SECONDS)
        error = found(vitals)
    except OSError as problem:
        raise MachineError(
            f"whether the guest has crashed is not known: its console cannot be read ({problem})"
        ) from problem
    if isinstance(error, (GuestCrashError, GuestRebootError)):
        return None if vitals.may_crash else error
    if error is None or error.program != "QEMU" or vitals.qemu.returncode != 0:
        return error
    return error if vitals.why_ended in _BY_THE_HOST else None


def warn_of_reboot(vitals: Vitals) -> None:
    """Warn when a guest that may reboot did so without a word of its kernel, unless it may crash.

    Args:
        vitals: of a VM that has ended, by itself or not.
    """
    if vitals.panic is None and vitals.resets_unsaid and not vitals.may_crash:
        said = f"{_UNSAID}; where the test wants that, set allow_crash = yes"
        warnings.warn(said, GuestRebootWarning, stacklevel=3)


def warn_of_words(vitals: Vitals) -> None:
    """Warn of what a guest's kernel took for wrong and went on, unless it may crash."""
    if vitals.may_crash:
        return
    for one in dict.fromkeys(map(str, vitals.console.crashes())):
        warnings.warn(one, GuestKernelWarning, stacklevel=3)


def warn_of_lost(lost: Sequence[str]) -> None:
    """Warn of what no report can have any more of a VM that has ended."""
    if lost:
        warnings.warn("; ".join(lost), LostEvidenceWarning, stacklevel=3)


@contextlib.contextmanager
def cause_first(vitals: Vitals) -> Iterator[None]:
    """Raise how a VM died in place of what only came of that.

    Raises:
        MachineDiedError: it died.
    """
    try:
        yield
    except (
        MonitorError, GuestShellError, BootTimeoutError, OSError,
        subprocess.TimeoutExpired,  # a command's
    ) as error:  # fmt: skip
        vitals.await_ending(sure=isinstance(error, (ConnectionError, GuestShellError)))
        died = found(vitals)
        if died is not None:
            raise died from None
        if isinstance(error, ConnectionError):
            raise MachineError(
                f"a program of the VM has closed a channel to it, and runs on: {error}"
            ) from error
        raise


def why_qemu_ended(vitals: Vitals) -> str:
    """Return in words how QEMU ended, and why where that is known."""
    if vitals.qemu.returncode != 0:
        return status_of(vitals.qemu)
    panic = vitals.panic
    if panic is not None:
        return f"0 (kernel panic: {panic})"
    why = vitals.why_ended
    if vitals.reset_unsaid:
        return f"0 ({_UNSAID})"
    return f"0 ({_WHY.get(why, why or 'the guest powered off or rebooted')})"


def status_of(process: Process) -> str:
    """Return in words how a process ended."""
    code = process.returncode
    if code is None:
        return "nothing yet: it still runs"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def timed_out(
    console: Console, what: str, timeout: float, answers: Mapping[int, str]
) -> BootTimeoutError:
    """Return what a VM was waited for, and what its ports have answered."""
    said = [f"  port {port}: {answer}" for port, answer in answers.items()]
    return BootTimeoutError(
        timeout=timeout, waited_for=what, console=console.tail(),
        ports="\n".join(said) or "  no port was to be asked",
    )  # fmt: skip

"""What went wrong with a machine, as errors that hold the evidence; a cause before what follows."""

from __future__ import annotations

import contextlib
import subprocess
import warnings
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    BootTimeoutError,
    ForwardError,
    GuestPanicError,
    GuestRebootWarning,
    GuestShellError,
    LaunchError,
    MachineDiedError,
    MonitorError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vmports.errors import MachineError
    from pytest_vmports.process import Process
    from pytest_vmports.vm.machine import Machine

# QEMU closes its channels, and gvproxy ends with that, before QEMU itself is seen to have ended.
_MOMENT = 5.0
# From the first words of a panic to the guest's reset, where it makes one.
_PANIC_SECONDS = 2.0
# A panic's trace is longer than the usual end of the console, and what led to it stands before.
_PANIC_LINES = 60
_REBOOT, _POWER_OFF = "guest-reset", "guest-shutdown"
_BY_THE_HOST = {"host-signal": "a signal told it to", "host-error": "an error of the host"}
_WHY = {
    _REBOOT: "the guest rebooted",
    _POWER_OFF: "the guest powered off",
    "host-qmp-quit": "its monitor told it to",
    **_BY_THE_HOST,
}
# What Linux writes last (source: its kernel/reboot.c), for a QEMU whose own words were lost.
_LINUX_SAYS = {"reboot: Restarting system": _REBOOT, "reboot: Power down": _POWER_OFF}


def not_started(machine: Machine, qemu: Process, seconds: float) -> MachineError:
    """Return why QEMU's monitor did not come up; waits up to ``seconds`` for QEMU's end."""
    code = qemu.wait(seconds)
    refused = machine.cards.first.refused(qemu.output)
    if refused is not None:
        port, detail = refused
        return ForwardError(
            program="QEMU", port=port.external, protocol=port.protocol, host=port.host,
            detail=detail,
        )  # fmt: skip
    ended = "no monitor" if code is None else exit_words(machine, qemu)
    return LaunchError(
        program="QEMU", returncode=ended,
        stderr=qemu.output.strip() or "(nothing)", command=machine.command_line(),
    )  # fmt: skip


def found(machine: Machine) -> MachineDiedError | None:
    """Return how a machine died that nobody has stopped; None while it lives.

    A guest whose kernel has panicked is dead, also where QEMU still runs it.
    """
    qemu = machine.processes()[0]
    dead = _first_dead(machine)
    if dead is None and machine.console.panic() is None:
        return None
    if dead is None:
        qemu.wait(_PANIC_SECONDS)
    elif dead is not qemu and (dead.returncode or 0) >= 0:  # nor was it killed
        qemu.wait(_MOMENT)
    dead = _first_dead(machine) or qemu
    panic = machine.console.panic()
    facts = {
        "program": dead.name, "returncode": exit_words(machine, dead),
        "stderr": dead.output.strip() or "(nothing)",
    }  # fmt: skip
    if panic is None:
        return MachineDiedError(console=machine.console.tail(), **facts)
    return GuestPanicError(panic=panic, console=machine.console.tail(_PANIC_LINES), **facts)


def at_the_end(machine: Machine) -> MachineDiedError | None:
    """Return why the test fails whose VM ends now, or begins anew; None when it does not.

    A guest may power off or reboot, and panic where that is allowed.
    """
    if not machine.running:  # we stopped it, and whoever called knows why
        return None
    _await_ending(machine)
    if machine.console.may_be_panicking():
        machine.processes()[0].wait(_PANIC_SECONDS)
    error = found(machine)
    if isinstance(error, GuestPanicError):
        return None if _may_crash(machine) else error
    if error is None or error.program != "QEMU" or machine.processes()[0].returncode:
        return error
    return error if _why_ended(machine) in _BY_THE_HOST else None


def warn_of_reboot(machine: Machine) -> None:
    """Warn when a guest has ended its VM by a reboot, unless it may crash.

    Args:
        machine: has ended, by itself or not.
    """
    if machine.processes()[0].returncode != 0 or machine.console.panic() is not None:
        return
    if _why_ended(machine) == _REBOOT and not _may_crash(machine):
        warnings.warn(
            "the guest rebooted by itself, which ends its VM: vm.reset() boots it again; where "
            "the test wants that, set allow_crash = yes",
            GuestRebootWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def cause_first(machine: Machine) -> Iterator[None]:
    """Raise how a machine died in place of what only came of that.

    Raises:
        MachineDiedError: it died.
    """
    try:
        yield
    except (
        MonitorError, GuestShellError, BootTimeoutError, OSError,
        subprocess.TimeoutExpired,  # a command's
    ) as error:  # fmt: skip
        _await_ending(machine, sure=isinstance(error, (ConnectionError, GuestShellError)))
        died = found(machine)
        if died is None:
            raise
        raise died from None


def exit_words(machine: Machine, process: Process) -> str:
    """Return in words how a process of a VM ended, and why where that is known."""
    code = process.returncode
    if code is None:
        return "nothing yet: it still runs"
    if code == 0 and process.name == "QEMU":
        panic = machine.console.panic()
        if panic is not None:
            return f"0 (kernel panic: {panic})"
        why = _why_ended(machine)
        return f"0 ({_WHY.get(why, why or 'the guest powered off or rebooted')})"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def timed_out(
    machine: Machine, what: str, timeout: float, answers: Mapping[int, str]
) -> BootTimeoutError:
    """Return what the machine was waited for, and what its ports have answered."""
    said = [f"  port {port}: {answer}" for port, answer in answers.items()]
    return BootTimeoutError(
        timeout=timeout, waited_for=what, console=machine.console.tail(),
        ports="\n".join(said) or "  no port was to be asked",
    )  # fmt: skip


def _await_ending(machine: Machine, *, sure: bool = False) -> None:
    """Wait for what is about to end; at most some seconds."""
    qemu, *others = machine.processes()
    if sure or qemu.ending or machine.monitor.hung_up:
        qemu.wait(_MOMENT)
    for other in others:
        if other.ending:
            other.wait(_MOMENT)


def _first_dead(machine: Machine) -> Process | None:
    return next((process for process in machine.processes() if not process.running), None)


def _why_ended(machine: Machine) -> str:
    """Return why a QEMU that ended with 0 did, in its own word; empty where that is not known."""
    console = machine.console.own()
    told = (why for words, why in _LINUX_SAYS.items() if words in console)
    return machine.monitor.why_ended() or next(told, "")


def _may_crash(machine: Machine) -> bool:
    return machine.settings is not None and machine.settings.allow_crash

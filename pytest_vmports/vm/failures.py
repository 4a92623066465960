"""What went wrong with a machine, as errors that hold the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import BootTimeoutError, ForwardError, LaunchError, MachineDiedError
from pytest_vmports.vm.console import exit_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vmports.errors import MachineError
    from pytest_vmports.process import Process
    from pytest_vmports.vm.machine import Machine


def not_started(machine: Machine, qemu: Process, seconds: float) -> MachineError:
    """Return why QEMU's monitor did not come up; waits up to ``seconds`` for QEMU's end."""
    code = qemu.wait(seconds)
    refused = machine.wiring.refused(qemu.output)
    if refused is not None:
        port, detail = refused
        return ForwardError(
            program="QEMU", port=port.external, protocol=port.protocol, host=port.host,
            detail=detail,
        )  # fmt: skip
    ended = "no monitor" if code is None else exit_words(qemu, machine.console)
    return LaunchError(
        program="QEMU", returncode=ended,
        stderr=qemu.output.strip() or "(nothing)", command=machine.command_line(),
    )  # fmt: skip


def died(machine: Machine, process: Process) -> MachineDiedError:
    """Return how a process of the machine ended, and what was said before."""
    return MachineDiedError(
        program=process.name, returncode=exit_words(process, machine.console),
        stderr=process.output.strip() or "(nothing)", console=machine.console.tail(),
    )  # fmt: skip


def timed_out(
    machine: Machine, what: str, timeout: float, answers: Mapping[int, str]
) -> BootTimeoutError:
    """Return what the machine was waited for, and what its ports have answered."""
    said = [f"  port {port}: {answer}" for port, answer in answers.items()]
    return BootTimeoutError(
        timeout=timeout, waited_for=what, console=machine.console.tail(),
        ports="\n".join(said) or "  no port was to be asked",
    )  # fmt: skip

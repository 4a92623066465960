"""What is known of a test's VMs, as text for its report."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pytest_vmports.errors import VmPortsError
from pytest_vmports.errors.shown import quoted
from pytest_vmports.system import clock, patience
from pytest_vmports.system.mishaps import noting
from pytest_vmports.vm.crashes import Weight
from pytest_vmports.vm.inside import listening
from pytest_vmports.vm.readiness import ALL, Probe
from pytest_vmports.vm.reboots import times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vmports.system.process import Process
    from pytest_vmports.vm.machine import Machine

_SHORT_CONSOLE, _SHORT_OUTPUT, _WHOLE = 25, 10, 1_000_000
_MORE, _ALL = 1, 2
"""From which verbosity on a report has more of a VM, and all of it."""
# Where things are kept: no test fails for that, and artifacts name them.
_FOLDERS = {
    "cache_dir", "cache_size", "cache_store", "cache_store_secret", "state_dir", "artifacts",
    "timeline",
}  # fmt: skip
_MOST_REFUSED = 5
LEFT_OUT = "left out: what was asked before it took all the time that a report is given"
# Of asking the forwards of a VM whose test has failed.
_LAST_ANSWER_SECONDS = 1.0
_STEPS = {
    "leased": "ports leased",
    "start": "started",
    "refused": "a host port was somebody else's: started again with others",
    "console": "first output on its console (seen)",
    "setup": "setup ended, or restored",
    "ready": "ready, handed over",
    "rebooted": "ready again after a reboot",
    "stopped": "stopped",
}


@dataclass
class Evidence:
    """What is known of the VMs of one test; kept on its item."""

    machines: list[Machine] = field(default_factory=list)
    shared: list[Machine] = field(default_factory=list)
    """Those that an earlier test, or a fixture for several, made, and that ran when it failed."""
    waited: int = 0
    """How often a fixed port was waited for."""

    def shown(self) -> list[Machine]:
        """Return the VMs that matter: not those that only made a template for another."""
        own = [machine for machine in self.machines if not machine.makes_template]
        return [*(own or self.machines[-1:]), *self.shared]

    def sections(self, *, verbosity: int, note: Callable[[str], None]) -> Iterator[tuple[str, str]]:
        """Yield title and text of each section.

        Args:
            verbosity: pytest's; with 1 QEMU's command line too, and what is empty; with 2
                console and output to their full length.
            note: told of each that cannot be made; the others come all the same.
        """
        shown = self.shown()
        for number, machine in enumerate(shown, 1):
            which = f"VM {number} of {len(shown)}" if len(shown) > 1 else "VM"
            with noting(f"evidence failed: {which}", note):
                for what, gather in _parts(machine, verbosity):
                    with noting(f"evidence failed: {which}: {what}", note):
                        title, text = gather()
                        if text:
                            yield f"{which}: {title}", text


def _parts(machine: Machine, verbosity: int) -> Iterator[tuple[str, Callable[[], tuple[str, str]]]]:
    """Yield what each section is, and what returns its title and text; no section without text."""
    crashed = "the guest's kernel crashed"
    yield crashed, lambda: _crash(machine)
    yield "what was asked for", lambda: (_title(machine), _asked(machine, verbosity))
    yield "time line", lambda: ("time line", _time_line(machine))
    yield "answers", lambda: ("what its ports answer now", _last_answers(machine))
    whole, more = verbosity >= _ALL, verbosity >= _MORE
    lines = _WHOLE if whole else _SHORT_CONSOLE
    yield "console", lambda: ("end of the guest's console", _console(machine, lines, more))
    command = "QEMU's command line"
    if more:
        yield command, lambda: (command, shlex.join(machine.command) or "(not started)")
    for process in machine.processes():
        lines_of = _WHOLE if whole else _SHORT_OUTPUT
        yield f"output of {process.name}", partial(_output, machine, process, lines_of, more)


def _crash(machine: Machine) -> tuple[str, str]:
    """Return what its kernel did and all that it said of that; no text where it did nothing."""
    said = sorted(machine.console.crashes(), key=lambda one: list(Weight).index(one.kind.weight))
    started = any(process.name == "QEMU" for process in machine.processes())
    panic = machine.vitals.panic if started else None
    if not said and panic is None:
        return "", ""
    title = "panicked" if panic is not None else said[0].kind.says
    reason = said[0].said if panic is None else panic or "(it gave no reason)"
    text = "\n".join(filter(None, [reason, machine.console.passage()]))
    return f"the guest's kernel {title}", quoted(text)


def _console(machine: Machine, lines: int, empty: bool) -> str:
    return quoted(machine.console.tail(lines)) if empty or machine.console.says else ""


def _title(machine: Machine) -> str:
    return f"{machine.cards.network.kind}, {machine.origin}, {machine.state.value}"


def _output(machine: Machine, process: Process, lines: int, empty: bool) -> tuple[str, str]:
    ended = "" if process.running else f" (ended with {machine.how_ended(process)})"
    text = "\n".join(process.output.strip().splitlines()[-lines:])
    text = quoted(text) if text else ""
    return f"output of {process.name}{ended}", text or ("(nothing)" if ended and empty else "")


def _asked(machine: Machine, verbosity: int) -> str:
    plan = machine.plan
    lines = [f"guest: {plan.guest.name}", f"hardware: {plan.hardware.accelerator}"]
    lines += [f"forward: {port}" for port in machine.cards.first.ports] or ["forward: none"]
    lines += _second_card(machine)
    lines += _refused(machine)
    for name, value, source in plan.said:
        by = source.partition(" (used by")[0]
        left_out = name == "expose" or (name in _FOLDERS and verbosity < _MORE)
        if by != "default" and not left_out:
            lines.append(f"{name} = {value} ({by})")
    return "\n".join(lines)


def _refused(machine: Machine) -> Iterator[str]:
    log = machine.cards.first.network_log
    refused = [] if log is None else log.entries().refused
    for one in refused[:_MOST_REFUSED]:
        yield f"network: {one}"
    if len(refused) > _MOST_REFUSED:
        yield f"network: {len(refused) - _MOST_REFUSED} more refused; see vm.network_log"


def _second_card(machine: Machine) -> Iterator[str]:
    cards, network = machine.cards, machine.cards.network
    if cards.lan_address is None:
        return
    shared = f" on the network {network.lan}" if network.lan is not None else ""
    yield f"second card: {cards.lan_address} ({cards.lan_mac}){shared}"
    for guest, host in network.host_ports:
        yield f"service of the host: {network.host_address}:{guest} -> 127.0.0.1:{host}"


def _time_line(machine: Machine) -> str:
    passed = machine.milestones.passed()
    if not passed:
        return "(nothing happened)"
    first = min(passed.values())
    lines = [f"{at - first:8.3f} s  {_STEPS[name]}" for name, at in passed.items()]
    if count := machine.reboots.count:
        lines.append(f"            its guest rebooted {times(count)}")
    elif machine.clock_behind:
        lines.append(
            f"            its clock is {machine.clock_behind:.1f} s behind: nothing sets it"
        )
    if "stopped" not in passed:
        lines.append(f"{clock.now() - first:8.3f} s  this report")
    # Also where it said nothing, and so has no section.
    lines += [
        f"            {process.name} ended with {machine.how_ended(process)}"
        for process in machine.processes() if not process.running
    ]  # fmt: skip
    return "\n".join(lines)


def _last_answers(machine: Machine) -> str:
    """Ask every forwarded TCP port of a VM that still runs."""
    if not machine.lives or machine.milestones.ready is None:
        return ""
    if patience.spent():
        return LEFT_OUT
    probe = Probe(ALL, machine.cards.first, machine.monitor)
    try:
        probe.step(clock.now() + _LAST_ANSWER_SECONDS, machine.check_alive)
    except VmPortsError as error:
        return f"they could not be asked: {str(error).splitlines()[0]}"
    answers = probe.answers if probe.done else _with_reasons(machine, probe)
    lines = [f"port {port}: {answer}" for port, answer in answers.items()]
    if not probe.done and patience.spent():
        lines.append("what the guest itself says of its servers is left out: it does not answer")
    return "\n".join(lines)


def _with_reasons(machine: Machine, probe: Probe) -> dict[int, str]:
    """Return the answers with what the guest itself says of its servers, if it can be asked now."""
    with contextlib.suppress(VmPortsError):  # as one whose VM has ended meanwhile
        # One that the test has paused would be waited for in vain.
        if machine.monitor.run_state().running:
            return listening.explained(probe.answers, listening.ask(lambda: machine.shell))
    return probe.answers

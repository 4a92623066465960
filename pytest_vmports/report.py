"""What a failing test's report says about its VM."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_vmports.errors import HostError
from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.vm.machine import Machine


@dataclass
class Evidence:
    """What is known of the VMs of one test; kept on its item."""

    machines: list[Machine] = field(default_factory=list)

    def sections(self) -> Iterable[tuple[str, str]]:
        """Return title and text of each section, for the last machine that was started."""
        for machine in self.machines[-1:]:
            ports = "\n".join(map(str, machine.wiring.ports)) or "none"
            yield f"VM: {machine.wiring.kind}, {machine.state.value}; ports", ports
            yield "VM: end of the guest's console", machine.console.tail(lines=40)
            yield "VM: QEMU's command line", machine.command_line() or "(not started)"
            for process in machine.processes():
                if process.output.strip():
                    yield f"VM: output of {process.name}", process.output.strip()


evidence_key: pytest.StashKey[Evidence] = pytest.StashKey()


def add_sections(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give a failing report what is known of the test's VMs."""
    evidence = item.stash.get(evidence_key, None)
    if report.failed and evidence is not None:
        report.sections.extend(evidence.sections())


def header_lines(qemu: str | None, accel: str, gvproxy: str | None) -> list[str]:
    """Return what pytest's header says of QEMU, accelerator and gvproxy."""
    lines = []
    try:
        found = find_qemu(qemu)
        lines.append(f"vmports: {found}")
        lines.append(f"vmports: accelerator {choose_accel(accel, found.path)}")
    except HostError as error:
        lines.append("vmports: " + str(error).splitlines()[0])
    try:
        lines.append(f"vmports: {find_gvproxy(gvproxy)}")
    except HostError:
        lines.append("vmports: no gvproxy, so no guest with network")
    return lines


def say(config: pytest.Config, line: str) -> None:
    """Write a line to the terminal now, past pytest's capture.

    An xdist worker's standard error is its controller's.
    """
    if config.get_verbosity() < 0:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        sys.stderr.write(f"\n{line}\n")
        sys.stderr.flush()

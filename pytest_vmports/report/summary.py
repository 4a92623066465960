"""What a run's VMs came to: the table of ``--vmports-report``, and the facts of the timeline.

Each test's process puts what it knows on the report of the test's teardown, which xdist carries to
its controller; there the table is made.
"""

from __future__ import annotations

import statistics
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vmports.report.evidence import Evidence
    from pytest_vmports.report.record import Run

_ORIGINS = ("booted", "cloned", "standby", "restored")
_HERE = "here"


def facts_of(evidence: Evidence) -> dict[str, Any]:
    """Return what table and timeline need of one test's VMs, as plain values; see `record.Vm`.

    Moments are in seconds since the epoch, None where they did not come.
    """
    machines = []
    # The same for all processes of a machine, unlike the wall clock that may be set meanwhile.
    epoch = clock.wall() - clock.now()
    for machine in evidence.machines:
        times = machine.milestones.passed()
        machines.append(
            {
                "origin": str(machine.origin),
                "template": machine.makes_template,
                "ports": [
                    {
                        "host": port.host, "host_port": port.external,
                        "guest_port": port.internal, "protocol": port.protocol,
                    }
                    for port in machine.ports
                ],
                "guest": machine.plan.guest.name,
                "wiring": machine.cards.network.kind,
                **{
                    name: epoch + times[name] if name in times else None
                    for name in ("leased", "start", "refused", "setup", "ready", "stopped")
                },
            }
        )  # fmt: skip
    return {"machines": machines, "waited": evidence.waited}


class Summary:
    """The numbers of a whole run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._failed = [vm for vm in run.vms if vm.ready is None]
        there = [vm for vm in run.vms if vm.ready is not None]
        self._made = [vm for vm in there if vm.template]
        self._ready = [vm for vm in there if not vm.template]
        self._seconds = [vm.seconds_to_ready or 0.0 for vm in self._ready]

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """How many tests ended how."""
        return dict(Counter(case.outcome for case in self._run.tests))

    @cached_property
    def origins(self) -> dict[str, int]:
        """Where how many VMs that got ready came from."""
        counts = Counter(vm.origin for vm in self._ready)
        return {name: counts[name] for name in _ORIGINS if counts[name]}

    @cached_property
    def hosts(self) -> dict[str, int]:
        """How many VMs ran on which host, ``here`` for the controller's."""
        return dict(Counter(vm.host or _HERE for vm in self._run.vms if not vm.template))

    def values(self) -> dict[str, Any]:
        """Return the table's content, by names that stay. Times are in seconds."""
        users = {vm.key for vm in self._run.vms}
        testing = sum(
            case.seconds for case in self._run.tests
            if case.waited or case.key in users
        )  # fmt: skip
        return {
            "vms_ready": len(self._ready),
            "origins": self.origins,
            "seconds_to_ready": {
                "median": statistics.median(self._seconds) if self._seconds else None,
                "worst": max(self._seconds, default=None),
                "sum": sum(self._seconds),
            },
            "starts_failed": len(self._failed),
            "templates_made": len(self._made),
            "seconds_in_tests": testing,
            "ports_leased": sum(len(vm.ports) for vm in self._run.vms),
            "ports_waited_for": sum(case.waited for case in self._run.tests),
            "starts_retried": sum(vm.refused is not None for vm in self._run.vms),
            "hosts": self.hosts,
        }

    def lines(self) -> Iterator[str]:
        """Yield the table's lines."""
        found = self.values()
        to_ready = found["seconds_to_ready"]
        origins = ", ".join(f"{count} {name}" for name, count in self.origins.items())
        yield _row("VMs ready", f"{found['vms_ready']}{origins and f': {origins}'}")
        if self._seconds:
            middle, worst = to_ready["median"], to_ready["worst"]
            yield _row("from lease to ready", f"median {middle:.2f} s, worst {worst:.2f} s")
        yield _row("starts that failed", str(found["starts_failed"]))
        yield _row("templates made", str(found["templates_made"]))
        starting, testing = to_ready["sum"], found["seconds_in_tests"]
        yield _row("time", f"{starting:.1f} s until VMs were ready, {testing:.1f} s in their tests")
        yield _row(
            "ports",
            f"{found['ports_leased']} leased, {found['ports_waited_for']} waited for, "
            f"{found['starts_retried']} starts retried",
        )
        if set(self.hosts) - {_HERE}:
            yield _row("hosts", ", ".join(f"{host} {count}" for host, count in self.hosts.items()))


def _row(name: str, value: str) -> str:
    return f"{name:<20} {value}"

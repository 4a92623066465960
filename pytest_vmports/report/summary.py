"""What a run's VMs came to: the table of ``--vmports-report``, and the facts of the timeline.

Each test's process puts what it knows on the report of the test's teardown, which xdist carries to
its controller; there the table is made.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vmports.report.evidence import Evidence

ORIGINS = ("booted", "cloned", "standby", "restored")


def facts_of(evidence: Evidence) -> dict[str, Any]:
    """Return what table and timeline need of one test's VMs, as plain values.

    Moments are in seconds since the epoch, None where they did not come: ``ready`` of a start that
    failed, ``stopped`` of a VM that still runs, ``refused`` where all ports could be bound.
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
                "ports": [str(port) for port in machine.ports],
                "guest": machine.plan.guest.name,
                "wiring": machine.cards.network.kind,
                **{
                    name: epoch + times[name] if name in times else None
                    for name in ("leased", "start", "refused", "ready", "stopped")
                },
            }
        )
    return {"machines": machines, "waited": evidence.waited}


class Summary:
    """Collects facts of a whole run."""

    def __init__(self) -> None:
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._calls: dict[str, float] = {}

    def add(self, test: str, facts: Mapping[str, Any]) -> None:
        """Note what `facts_of` returned for a test."""
        self._facts[test] = facts

    def add_call(self, test: str, seconds: float) -> None:
        """Note how long a test itself took."""
        self._calls[test] = seconds

    def lines(self) -> Iterator[str]:
        """Yield the table's lines."""
        machines = [m for facts in self._facts.values() for m in facts["machines"]]
        failed = [m for m in machines if m["ready"] is None]
        made = [m for m in machines if m["template"] and m not in failed]
        ready = [m for m in machines if not m["template"] and m not in failed]
        yield _row("VMs ready", f"{len(ready)}{_by_origin(ready)}")
        seconds = [m["ready"] - m["leased"] for m in ready]
        if seconds:
            middle, worst = statistics.median(seconds), max(seconds)
            yield _row("from lease to ready", f"median {middle:.2f} s, worst {worst:.2f} s")
        yield _row("starts that failed", str(len(failed)))
        yield _row("templates made", str(len(made)))
        starting = sum(seconds)
        testing = sum(self._calls.get(test, 0.0) for test in self._facts)
        yield _row("time", f"{starting:.1f} s until VMs were ready, {testing:.1f} s in their tests")
        leased = sum(len(m["ports"]) for m in machines)
        waited = sum(facts["waited"] for facts in self._facts.values())
        again = sum(m["refused"] is not None for m in machines)
        yield _row("ports", f"{leased} leased, {waited} waited for, {again} starts retried")
        hosts = Counter(
            facts.get("host", "here")
            for facts in self._facts.values()
            for machine in facts["machines"]
            if not machine["template"]
        )
        if set(hosts) - {"here"}:
            yield _row("hosts", ", ".join(f"{host} {count}" for host, count in hosts.items()))


def _row(name: str, value: str) -> str:
    return f"{name:<20} {value}"


def _by_origin(machines: Sequence[Mapping[str, Any]]) -> str:
    counts = {name: sum(m["origin"] == name for m in machines) for name in ORIGINS}
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    return f": {', '.join(parts)}" if parts else ""

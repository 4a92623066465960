"""Runs that nobody ran: as `pytest_vmports.report.record` has them, and as pytest reports them."""

from __future__ import annotations

import pytest

from pytest_vmports.report import riders
from pytest_vmports.report.record import Case, Phase, Port, Run, Vm

NOW = 1_700_000_000.0
PORT = {"host": "127.0.0.1", "host_port": 20001, "guest_port": 80, "protocol": "tcp"}


def machine(at=NOW, ready=1.0, stopped=2.0, **more):
    """Return what `summary.facts_of` tells of one VM; ``more`` wins."""
    return {
        "origin": "cloned", "template": False, "guest": "alpine", "wiring": "usernet",
        "ports": [PORT], "leased": at, "start": at + 0.25, "refused": None,
        "setup": at + 0.5, "ready": at + ready, "stopped": at + stopped, **more,
    }  # fmt: skip


def vm(test="test_a", worker="gw0", at=NOW, **more):
    """Return a VM of a test."""
    told = machine(at) | more
    told["ports"] = [port if isinstance(port, Port) else Port(**port) for port in told["ports"]]
    return Vm(test=test, worker=worker, **told)


def phase(when="call", outcome="passed", begin=NOW, end=NOW + 1):
    """Return a phase of a test."""
    return Phase(when=when, outcome=outcome, begin=begin, end=end, seconds=end - begin)


def case(test="test_a", worker="gw0", at=NOW, outcome="passed", **more):
    """Return a test of three phases, a second each, whose call ended so."""
    phases = [
        phase(when, outcome if when == "call" else "passed", at + number, at + number + 1)
        for number, when in enumerate(("setup", "call", "teardown"))
    ]
    return Case(**{"test": test, "worker": worker, "phases": phases, **more})


def run(cases=(), vms=()):
    """Return a run of these."""
    return Run(tests=list(cases), vms=list(vms))


def large(count=1000):
    """Return a run of many tests on four workers, each with a VM; one in a hundred fails."""
    made = run()
    for number in range(count):
        at, worker = NOW + number // 4 * 4.0 + number % 4 * 0.1, f"gw{number % 4}"
        test = f"tests/web/test_it.py::test_number[{number}]"
        outcome = "failed" if number % 100 == 7 else "passed"
        made.tests.append(case(test, worker, at, outcome))
        port = {**PORT, "host_port": 20000 + number}
        made.vms.append(vm(test, worker, at, stopped=at + 2.5, ports=[port]))
    return made


def report(test="test_a", when="call", outcome="passed", at=NOW, seconds=1.0, **more):
    """Return a report as pytest makes it; ``facts`` ride on it, ``worker_id`` is xdist's."""
    made = pytest.TestReport(
        test, ("test_it.py", 1, test), {}, outcome, None, when, duration=seconds, start=at,
        stop=at + seconds,
    )  # fmt: skip
    if (facts := more.pop("facts", None)) is not None:
        riders.put(made, riders.FACTS, facts)
    vars(made).update(more)
    return made

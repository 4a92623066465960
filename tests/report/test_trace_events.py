"""Trace events of a run: that they are such, and what a viewer shows of them."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from runs import NOW, case, large, run, vm

from pytest_vmports.report.timeline import timeline_of

NEEDED = {
    "X": {"name": str, "cat": str, "ts": int, "dur": int, "pid": int, "tid": int, "args": dict},
    "i": {"name": str, "cat": str, "ts": int, "s": str, "pid": int, "tid": int, "args": dict},
    "M": {"name": str, "ts": int, "pid": int, "tid": int, "args": dict},
}
"""By the format's own document, "Trace Event Format": what each kind of event has to have."""


def events(made):
    document = json.loads(timeline_of(made, ".json"))
    assert isinstance(document["traceEvents"], list) and document["displayTimeUnit"] == "ms"
    return document["traceEvents"]


def named(told, what):
    """Return the names that metadata gives, by process or by thread."""
    return {
        (one["pid"], one["tid"]) if what == "thread_name" else one["pid"]: one["args"]["name"]
        for one in told if one["ph"] == "M" and one["name"] == what
    }  # fmt: skip


def overlapping(told):
    """Return slices of one thread that are neither beside nor within each other."""
    threads = defaultdict(list)
    for one in told:
        if one["ph"] == "X":
            threads[one["pid"], one["tid"]].append(one)
    wrong = []
    for slices in threads.values():
        above = []
        for one in sorted(slices, key=lambda it: (it["ts"], -it["dur"])):
            while above and above[-1] <= one["ts"]:
                above.pop()
            if above and one["ts"] + one["dur"] > above[-1]:
                wrong.append(one)
            above.append(one["ts"] + one["dur"])
    return wrong


BACK = case("test_b", at=NOW + 3)
BACK.phases[2].begin, BACK.phases[2].end = NOW + 3.5, NOW + 4.5  # a clock that was set back
RUNS = {
    "many": large(200), "nothing": run(), "no vms": run([case()]), "no tests": run([], [vm()]),
    "a clock that was set back": run([case(), BACK, case("test_c", at=NOW + 4.2)]),
    "vms at a time": run([case()], [vm(), vm(at=NOW + 0.5), vm(at=NOW + 2), vm(stopped=None)]),
    "failed ones": run([case(outcome="failed")], [vm(ready=None, refused=NOW + 0.1), vm(start=None,
                       setup=None, ready=None)]),
    "a handed over one": run([case()], [vm(origin="standby", start=NOW + 0.6)]),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_every_event_has_what_its_kind_needs_and_a_thread_with_a_name(what):
    told = events(RUNS[what])
    threads, processes = named(told, "thread_name"), named(told, "process_name")
    for one in told:
        needed = NEEDED[one["ph"]]
        assert {name: type(one.get(name)) for name in needed} == needed
        assert {*one} == {*needed, "ph"}
        assert one["ts"] >= 0 and one.get("dur", 0) >= 0 and one.get("s", "t") == "t"
        assert one["pid"] in processes
        if one["ph"] != "M":
            assert (one["pid"], one["tid"]) in threads
    tids = [tid for _, tid in threads]
    assert len(tids) == len({*tids})  # viewers take a thread's number for one of all processes
    assert overlapping(told) == []


def test_a_process_is_a_worker_and_a_thread_its_tests_or_one_vm_at_a_time():
    told = events(
        run(
            [case(), case("test_b", "gw1", host="far")],
            [vm(), vm(at=NOW + 1), vm(at=NOW + 2), vm("test_b", "gw1", host="far")],
        )
    )
    processes = named(told, "process_name")
    threads = [(processes[pid], name) for (pid, _), name in named(told, "thread_name").items()]
    assert threads == [
        ("gw0", "tests"), ("gw0", "VM 1"), ("gw0", "VM 2"),
        ("gw1 far", "tests"), ("gw1 far", "VM 1"),
    ]  # fmt: skip
    used = [named(told, "thread_name")[one["pid"], one["tid"]] for one in told
            if one["ph"] == "X" and one["cat"] == "vm" and "test" in one["args"]]  # fmt: skip
    assert sorted(used) == ["VM 1", "VM 1", "VM 1", "VM 2"]


def test_slices_are_the_phases_in_microseconds_and_failures_are_moments():
    told = events(run([case(outcome="failed")], [vm(), vm(at=NOW + 3, ready=None)]))
    slices = {(one["name"], one["ts"], one["dur"]) for one in told if one["ph"] == "X"}
    second = 1_000_000
    assert {
        ("test_a", 0, 3 * second), ("setup", 0, second), ("call", second, second),
        ("alpine, usernet, cloned", 0, 2 * second), ("lease", 0, second // 4),
        ("restore", second // 4, second // 4), ("answer", second // 2, second // 2),
        ("in use", second, second),
    } <= slices  # fmt: skip
    moments = {(one["name"], one["ts"]) for one in told if one["ph"] == "i"}
    assert moments == {("call failed", 2 * second), ("start failed", 5 * second)}
    (whole, *_) = [one for one in told if one["name"] == "alpine, usernet, cloned"]
    assert whole["args"] == {
        "test": "test_a", "template": False, "ports": ["127.0.0.1:20001 -> 80/tcp"]
    }  # fmt: skip

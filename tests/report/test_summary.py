"""The table of a whole run's VMs."""

from __future__ import annotations

import pytest

from pytest_vmports.report.summary import Summary


def machine(origin="cloned", seconds=0.5, *, template=False, ports=1):
    ready = None if seconds is None else 1000.0 + seconds
    times = {"leased": 1000.0, "ready": ready, "refused": 1000.1 if ready is None else None}
    return {"origin": origin, "template": template, "ports": ["a port"] * ports, **times}


def test_the_table_counts_by_origin_and_keeps_templates_and_failed_starts_apart():
    summary = Summary()
    summary.add_call("a", 2.0)
    summary.add_call("without a VM", 50.0)
    builder = machine("booted", 9.0, template=True)
    summary.add(
        "a", {"machines": [builder, machine(ports=2), machine("standby", 0.1)], "waited": 1}
    )
    summary.add("b", {"machines": [machine(seconds=None), machine("booted", 4.0)], "waited": 0})
    assert list(summary.lines()) == [
        "VMs ready            3: 1 booted, 1 cloned, 1 standby",
        "from lease to ready  median 0.50 s, worst 4.00 s",
        "starts that failed   1",
        "templates made       1",
        "time                 4.6 s until VMs were ready, 2.0 s in their tests",
        "ports                6 leased, 1 waited for, 1 starts retried",
    ]


def test_the_table_counts_by_host_where_others_took_part():
    alone, both = Summary(), Summary()
    for table, host in ((alone, {}), (both, {}), (both, {"host": "one"}), (both, {"host": "two"})):
        machines = [machine(), machine(), machine(template=True)]
        table.add(f"test{host}", {"machines": machines, "waited": 0, **host})
    assert not any(line.startswith("hosts") for line in alone.lines())
    assert [line.split(maxsplit=1)[1] for line in both.lines() if line.startswith("hosts")] == [
        "here 2, one 2, two 2"
    ]


def test_a_run_without_vms_has_a_table_too():
    assert next(Summary().lines()).split() == ["VMs", "ready", "0"]


@pytest.mark.slow
def test_a_run_over_workers_ends_with_the_table_of_all(pytester, qemu_binary):
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")

        @pytest.mark.parametrize("number", range(4))
        def test_it(vm_with_ports, number):
            pass

        def test_plain():
            pass

        @pytest.mark.vmports(setup="exit 9")
        def test_broken(vm_with_ports):
            pass
        """
    )
    run = ["-n2", "-p", "no:randomly"]
    result = pytester.runpytest_subprocess(*run, "--vmports-report")
    result.assert_outcomes(passed=5, errors=1)
    lines = ["=* VMs *=", "VMs ready            4: *", "from lease to ready  median * s, worst *"]
    result.stdout.fnmatch_lines(
        [*lines, "starts that failed   1", "templates made       1", "time *", "ports *"]
    )
    plain = pytester.runpytest_subprocess("-n0", "-k", "plain")
    plain.stdout.no_fnmatch_line("VMs ready*")

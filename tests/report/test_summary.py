"""The table of a whole run's VMs."""

from __future__ import annotations

import pytest
from runs import NOW, PORT, case, run, vm

from pytest_vmports.report.summary import Summary


def started(test, origin="cloned", seconds=0.5, ports=1, **more):
    ready = None if seconds is None else NOW + seconds
    refused = NOW + 0.1 if ready is None else None
    return vm(test, origin=origin, ready=ready, refused=refused, ports=[PORT] * ports, **more)


def lines(cases, vms):
    return list(Summary(run(cases, vms)).lines())


def test_the_table_counts_by_origin_and_keeps_templates_and_failed_starts_apart():
    cases = [case("a", waited=1), case("b"), case("without a VM")]
    cases[0].phases[1].seconds, cases[1].phases[1].seconds = 1.75, 0.25
    vms = [
        started("a", "booted", 9.0, template=True), started("a", ports=2),
        started("a", "standby", 0.1), started("b", seconds=None), started("b", "booted", 4.0),
    ]  # fmt: skip
    assert lines(cases, vms) == [
        "VMs ready            3: 1 booted, 1 cloned, 1 standby",
        "from lease to ready  median 0.50 s, worst 4.00 s",
        "starts that failed   1",
        "templates made       1",
        "time                 4.6 s until VMs were ready, 2.0 s in their tests",
        "ports                6 leased, 1 waited for, 1 starts retried",
    ]


def test_the_table_counts_by_host_where_others_took_part():
    def hosts(*names):
        vms = [
            started("a", host=host, template=made)
            for host in names
            for made in (False, False, True)
        ]
        told = lines([case("a")], vms)
        return [line.split(maxsplit=1)[1] for line in told if line.startswith("hosts")]

    assert hosts("") == []
    assert hosts("", "one", "two") == ["here 2, one 2, two 2"]


def test_a_run_without_vms_has_a_table_too():
    assert lines([], [])[0].split() == ["VMs", "ready", "0"]


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

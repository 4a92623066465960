"""The report of a run as JSON: its names and values, which stay within a version."""

from __future__ import annotations

import json

import pytest
from runs import NOW, PORT, case, run, vm

from pytest_vmports.report.as_json import document, write


def test_it_has_the_names_that_are_documented():
    ran = [case(outcome="failed", waited=1), case("test_b", "gw1", NOW + 5, host="far")]
    template = vm(origin="booted", template=True, ports=[])
    told = document(run(ran, [template, vm(refused=NOW + 0.1), vm("test_b", "gw1", ready=None)]))
    assert json.loads(json.dumps(told)) == told
    assert [told["format"], told["version"]] == ["pytest-vmports report", 1]
    assert told["run"] == {
        "begin": NOW, "end": NOW + 8, "seconds": 8.0, "workers": ["gw0", "gw1"], "tests": 2,
        "outcomes": {"failed": 1, "passed": 1}, "vms_ready": 1, "origins": {"cloned": 1},
        "seconds_to_ready": {"median": 1.0, "worst": 1.0, "sum": 1.0}, "starts_failed": 1,
        "templates_made": 1, "seconds_in_tests": 2.0, "ports_leased": 2, "ports_waited_for": 1,
        "starts_retried": 1, "hosts": {"here": 2},
    }  # fmt: skip
    assert told["tests"][0] == {
        "test": "test_a", "worker": "gw0", "host": "", "attempt": 1, "waited": 1,
        "outcome": "failed", "seconds": 1.0,
        "phases": [
            {"when": when, "outcome": outcome, "begin": NOW + at, "end": NOW + at + 1,
             "seconds": 1.0}
            for at, (when, outcome) in enumerate(
                [("setup", "passed"), ("call", "failed"), ("teardown", "passed")])
        ],
    }  # fmt: skip
    assert told["vms"][1] == {
        "test": "test_a", "worker": "gw0", "host": "", "attempt": 1, "guest": "alpine",
        "wiring": "usernet", "origin": "cloned", "template": False, "ports": [PORT],
        "leased": NOW, "start": NOW + 0.25, "refused": NOW + 0.1, "setup": NOW + 0.5,
        "ready": NOW + 1, "stopped": NOW + 2, "outcome": "failed", "seconds_to_ready": 1.0,
        "phases": {"lease": 0.25, "restore": 0.25, "answer": 0.5, "use": 1.0},
    }  # fmt: skip
    assert told["vms"][2]["outcome"] == "passed" and told["vms"][2]["seconds_to_ready"] is None


def test_a_run_without_anything_has_a_report_too(tmp_path):
    write(run(), tmp_path / "new" / "x.json")
    told = json.loads((tmp_path / "new" / "x.json").read_text())
    assert told["run"]["seconds_to_ready"] == {"median": None, "worst": None, "sum": 0}
    assert told["tests"] == told["vms"] == []


SUITE = """
import pytest

@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
@pytest.mark.parametrize("number", range(2))
def test_it(vm_with_ports, number):
    assert number != 1

def test_plain():
    pass
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_run_with_vms_writes_it_and_the_table(pytester, shared_templates, qemu_binary, workers):
    pytester.makepyfile(test_it=SUITE)
    result = pytester.runpytest_subprocess(workers, "--vmports-report=out/run.json")
    result.assert_outcomes(passed=2, failed=1)
    path = pytester.path / "out" / "run.json"
    result.stdout.fnmatch_lines(["VMs ready            2: *", f"vmports: the report is in {path}"])
    told = json.loads(path.read_text())
    assert told["run"]["outcomes"] == {"passed": 2, "failed": 1}
    own = {one["test"].rpartition("::")[2]: one for one in told["vms"] if not one["template"]}
    assert {test: one["outcome"] for test, one in own.items()} == {
        "test_it[0]": "passed", "test_it[1]": "failed"
    }  # fmt: skip
    for one in own.values():
        assert one["ports"][0]["guest_port"] == 8080 and one["wiring"] == "usernet"
        assert 0 < one["seconds_to_ready"] < 60
        until = sum(took for name, took in one["phases"].items() if name != "use")
        assert until == pytest.approx(one["seconds_to_ready"], abs=1e-3)
        assert one["worker"] in ({"main"} if workers == "-n0" else {"gw0", "gw1"})


@pytest.mark.parametrize(
    ("words", "table"), [(["--vmports-report"], True), (["--vmports-report=no"], False)]
)
def test_yes_and_no_write_no_file(pytester, words, table):
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest(*words)
    result.assert_outcomes(passed=1)
    assert ("VMs ready" in result.stdout.str()) == table
    assert not [*pytester.path.rglob("*.json")]


def test_what_is_no_answer_and_no_json_is_refused_before_the_run(pytester):
    result = pytester.runpytest("--vmports-report=run.xml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*report*run.xml*write yes or no, or a file name that ends in .js*"]
    )

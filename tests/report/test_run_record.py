"""What is known of a run: made of pytest's reports, and read again, whoever wrote the file."""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from pathlib import Path

import pytest
from runs import NOW, case, machine, phase, report, run, vm

from pytest_vmports.cli.main import main
from pytest_vmports.report import as_json, timeline
from pytest_vmports.report.record import run_of
from pytest_vmports.report.recorded import RecordError, pack, read
from pytest_vmports.report.summary import Summary

ENDINGS = ("x.html", "x.svg", "x.json", "report.json")


def written(path, *cases, vms=()):
    """Write a run as a picture, or as a report where the file's name says so."""
    write = as_json.write if path.name.startswith("report") else timeline.write
    write(run(cases, vms), path)
    return path


# --- of pytest's reports --------------------------------------------------------------------


def phases(test, at, outcomes=("passed", "passed", "passed"), **more):
    facts = more.pop("facts", None)
    told = zip(("setup", "call", "teardown"), outcomes, strict=True)
    return [
        report(
            test, when, outcome, at + number, facts=facts if when == "teardown" else None, **more
        )
        for number, (when, outcome) in enumerate(told)
        if outcome
    ]


def test_each_test_has_its_phases_its_vms_and_its_host_in_whatever_order_reports_come():
    facts = {"machines": [machine(), machine(template=True)], "waited": 2, "host": "far"}
    told = [
        *phases("test_a", NOW, worker_id="gw1", facts=facts), *phases("test_b", NOW + 9),
        *phases("test_c", NOW + 9, worker_id="gw1"),
    ]  # fmt: skip
    found = run_of(told)
    assert run_of(reversed(told)) == found
    assert [(one.test, one.worker, one.host, one.waited) for one in found.tests] == [
        ("test_a", "gw1", "far", 2), ("test_c", "gw1", "far", 0), ("test_b", "main", "", 0)
    ]  # fmt: skip
    assert [one.when for one in found.tests[0].phases] == ["setup", "call", "teardown"]
    assert found.vms == [
        vm(worker="gw1", host="far"), vm(worker="gw1", host="far", template=True)
    ]  # fmt: skip
    assert (found.begin, found.end) == (NOW, NOW + 12)


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        (("passed", "passed", "passed"), "passed"), (("passed", "failed", "failed"), "failed"),
        (("failed", "", "passed"), "error"), (("passed", "passed", "failed"), "error"),
        (("skipped", "", "passed"), "skipped"), (("passed", "rerun", "passed"), "rerun"),
    ],
)  # fmt: skip
def test_a_tests_outcome_is_what_pytest_counts_it_as(outcomes, outcome):
    (found,) = run_of(phases("test_a", NOW, outcomes)).tests
    assert found.outcome == outcome


def test_a_test_that_is_run_again_is_there_twice_each_with_its_own_vm():
    def facts(at):
        return {"machines": [machine(at)], "waited": 0}

    told = phases("test_a", NOW, ("passed", "rerun", "passed"), facts=facts(NOW))
    told += phases("test_a", NOW + 5, facts=facts(NOW + 5))
    found = run_of(told)
    assert [(one.attempt, one.outcome) for one in found.tests] == [(1, "rerun"), (2, "passed")]
    assert [(one.attempt, one.leased) for one in found.vms] == [(1, NOW), (2, NOW + 5)]


def test_a_test_with_subtests_is_one_and_the_worst_of_them():
    told = phases("test_a", NOW)
    told += [report("test_a", "call", "failed", NOW + 1.1), report("test_a", "call", at=NOW + 1.2)]
    (found,) = run_of(told).tests
    assert found.outcome == "failed" and len(found.phases) == 3
    assert (found.phases[1].begin, found.phases[1].end) == (NOW + 1, NOW + 2.2)


def test_a_clock_that_was_set_back_loses_nothing():
    told = phases("test_a", -5.0)
    told[1].stop = told[1].start - 7.0
    (found,) = run_of(told).tests
    assert all(0 <= one.begin <= one.end for one in found.phases)


SPANS = {
    "booted": (vm(origin="booted"), ["lease 0.25", "boot 0.25", "answer 0.5", "use 1"]),
    "cloned": (vm(), ["lease 0.25", "restore 0.25", "answer 0.5", "use 1"]),
    "for a template": (
        vm(origin="booted", template=True), ["lease 0.25", "boot 0.25", "answer 0.5", "save 1"]),
    # It was set up long before its test.
    "standby": (vm(origin="standby", leased=NOW + 0.75, start=NOW + 0.75),
                ["hand_over 0.25", "use 1"]),
    "reset by its test": (vm(origin="restored"),
                          ["use 0.25", "restore 0.25", "answer 0.5", "use 1"]),
    "never set up": (vm(setup=None, ready=None), ["lease 0.25", "restore 1.75"]),
    "never ready": (vm(ready=None), ["lease 0.25", "restore 0.25", "answer 1.5"]),
    "never started": (vm(start=None, setup=None, ready=None), ["lease 2"]),
    "still there": (vm(stopped=None), ["lease 0.25", "restore 0.25", "answer 0.5", "use 8"]),
    "of another version": (vm(origin="?"), ["lease 0.25", "start 0.25", "answer 0.5", "use 1"]),
}  # fmt: skip


@pytest.mark.parametrize("what", SPANS)
def test_a_vms_life_is_told_in_parts_without_a_gap(what):
    one, wanted = SPANS[what]
    spans = list(one.spans(NOW + 9))
    assert [f"{span.name} {span.end - span.begin:g}" for span in spans] == wanted
    assert all(a.end == b.begin for a, b in itertools.pairwise(spans))


def test_a_vm_that_was_reset_was_waited_for_from_its_reset_on():
    assert vm().seconds_to_ready == 1.0
    assert vm(origin="restored").seconds_to_ready == 0.75
    assert vm(ready=None).seconds_to_ready is None


# --- read again -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENDINGS)
def test_what_was_written_is_read_again_named_by_its_shard(tmp_path, name):
    odd = case("test_b[</metadata></template><script>&\"'\x00\ud800é]")
    path = written(tmp_path / name, case(), odd, vms=[vm(host="far"), vm(odd.test)])
    assert "<script>" not in path.read_text()
    assert read(path, "one") == run(
        [case("one test_a", "one gw0"), case(f"one {odd.test}", "one gw0")],
        [vm("one test_a", "one gw0", host="far"), vm(f"one {odd.test}", "one gw0")],
    )  # fmt: skip


def merge(*words):
    return main(["report", "merge", *map(str, words)])


@pytest.mark.parametrize("name", ["shard-{}.html", "shard-{}.json", "report-{}.json"])
def test_the_tables_pictures_and_reports_of_shards_are_joined(tmp_path, capsys, name):
    files = [
        written(tmp_path / name.format(n), case(waited=1), vms=[vm(at=NOW + n)]) for n in (1, 2)
    ]
    out = tmp_path / "out"
    assert merge(*files, "--output", out / "all.svg", "--report", out / "all.json") == 0
    said, errors = capsys.readouterr()
    assert errors == "" and [line.rpartition(" ")[0] for line in said.splitlines()[-2:]] == [
        "the timeline is in", "the report is in"
    ]  # fmt: skip
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in said.splitlines()[:-2])
    assert rows["VMs ready"] == "2: 2 cloned"
    assert rows["ports"] == "2 leased, 2 waited for, 0 starts retried"
    assert rows["time"].endswith("2.0 s in their tests")
    svg = (out / "all.svg").read_text()
    one, two = (file.stem for file in files)
    assert {f"{one} gw0", f"{two} gw0 VMs"} <= {*re.findall(r"<text [^>]*>([^<]*)</text>", svg)}
    assert json.loads((out / "all.json").read_text())["run"]["vms_ready"] == 2
    # They are like any others.
    assert read(out / "all.svg", "x") == read(out / "all.json", "x")


def test_shards_whose_files_have_one_name_are_told_by_their_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        written(Path(name, "timeline.html"), case(), vms=[vm()])
    assert merge("a/timeline.html", "b/timeline.html", "--output", "all.html") == 0
    assert "2: 2 cloned" in capsys.readouterr().out
    assert {one.worker for one in read(Path("all.html"), "x").tests} == {
        "x a/timeline.html gw0", "x b/timeline.html gw0"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "x.png"], "--output=x.png: write a file name that ends in .html, .svg or"),
        (["--report", "x.html"], "--report=x.html: write a file name that ends in .json"),
        (["--report", "yes"], "--report=yes: write a file name that ends in .json"),
    ],
)
def test_a_name_that_says_nothing_of_what_to_write_is_refused_before_anything(
    tmp_path, monkeypatch, capsys, words, told
):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "x.html", case())
    assert merge(path, *words) == 1
    out, errors = capsys.readouterr()
    assert out == "" and told in errors and [*tmp_path.iterdir()] == [path]


def test_a_worker_of_another_host_is_named_with_it():
    far = run([case(host="far")], [vm(host="far")])
    svg = timeline.timeline_of(far, ".svg")
    assert ">gw0 far</text>" in svg and ">gw0</text>" not in svg
    assert [*Summary(far).lines()][-1].split() == ["hosts", "far", "1"]


def said(record):
    packed = base64.b64encode(zlib.compress(json.dumps(record).encode())).decode()
    return f'<svg><metadata id="vmports-run">{packed}</metadata></svg>'


def changed(what, **more):
    record = {
        "format": "pytest-vmports report", "version": 1, **run([case()], [vm()]).model_dump()
    }  # fmt: skip
    test, machine = record["tests"][0], record["vms"][0]
    places = {"run": record, "test": test, "vm": machine, "phase": test["phases"][0],
              "port": machine["ports"][0]}  # fmt: skip
    places[what] |= more
    return record


def bomb():
    """Return a right record with much behind it."""
    text = json.dumps(changed("run")) + " " * (65 << 20)
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return f'<svg><metadata id="vmports-run">{packed}</metadata></svg>'


ODD = {
    "nothing": "", "another page": "<html></html>", "no json": "{", "another json": "{}",
    "a trace of another program": '{"traceEvents": []}',
    "a trace with another record": '{"traceEvents": [], "vmports-run": 7}',
    "no letters and digits": '{"traceEvents": [], "vmports-run": "%"}',
    "nothing packed": '<metadata id="vmports-run">eA==</metadata>',
    "a list": said([]), "another format": said(changed("run", format="another")),
    "another version": said(changed("run", version=2)),
    "a report of another version": json.dumps(changed("run", version=2)),
    "no tests": json.dumps({"format": "pytest-vmports report", "version": 1, "vms": []}),
    "tests that are none": said(changed("run", tests=7)),
    "a deep one": f'{{"format": {"[" * 100_000}',
    "a number for a name": said(changed("test", test=7)),
    "a test without a phase": said(changed("test", phases=[])),
    "no moment": said(changed("phase", begin="x")),
    "a moment without end": said(changed("phase", end=float("inf"))),
    "no number": said(changed("phase", end=float("nan"))),
    "a moment before time": said(changed("phase", begin=-1.0)),
    "another phase": said(changed("phase", when="never")),
    "vms that are none": said(changed("run", vms=[7])),
    "a vm without a lease": said(changed("vm", leased=None)),
    "a port that is none": said(changed("port", host_port="80")),
    "much of nothing": bomb(),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_record_is_told_in_a_line_with_its_file(tmp_path, capsys, what):
    path = tmp_path / "odd.html"
    path.write_text(ODD[what])
    with pytest.raises(RecordError, match=r"odd\.html"):
        read(path, "x")
    assert merge(path, "--output", tmp_path / "all.html") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pytest-vmports: ") and not (tmp_path / "all.html").exists()


def test_the_odd_ones_are_odd_by_what_their_names_say(tmp_path):
    path = tmp_path / "x.html"
    path.write_text(said(changed("run")))
    assert len(read(path, "x").tests) == 1


def test_a_file_that_is_not_there_and_one_that_cannot_be_written_are_told(tmp_path, capsys):
    assert merge(tmp_path / "absent.html") == 1
    assert "absent.html cannot be read: No such file" in capsys.readouterr().err
    whole = written(tmp_path / "x.html", case())
    for option, name in (("--output", "y.html"), ("--report", "y.json")):
        assert merge(whole, option, whole / name) == 1
        assert f"{name} cannot be written" in capsys.readouterr().err


def test_a_record_is_small_beside_what_it_says():
    many = run([case(f"tests/test_it.py::test_number[{n}]", at=NOW + n) for n in range(500)])
    assert len(pack(many)) < len(many.model_dump_json()) / 8
    assert many.tests[0].phases == [phase("setup", begin=NOW), *many.tests[0].phases[1:]]


@pytest.mark.parametrize("words", [["--vmports-timeline=r.html"], ["--vmports-timeline=r.json"],
                                   ["--vmports-report=r.json"]])  # fmt: skip
def test_a_run_writes_what_can_be_joined(pytester, words):
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert 0")
    pytester.runpytest(*words, "-p", "no:randomly")
    (path,) = pytester.path.glob("r.*")
    found = [(one.test.rpartition("::")[2], one.outcome) for one in read(path, "x").tests]
    assert found == [("test_a", "passed"), ("test_b", "failed")]

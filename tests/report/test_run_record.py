"""What a picture says of its run: read again, of several runs, whoever drew it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from pytest_vmports.cli.main import main
from pytest_vmports.report.record import BEGIN, END, summary_of, timeline_of
from pytest_vmports.report.recorded import RecordError, read

NOW = 1_700_000_000.0


def vm(at=NOW, **more):
    return {
        "origin": "cloned", "template": False, "guest": "alpine", "wiring": "usernet",
        "ports": ["127.0.0.1:20001 -> 80/tcp"], "leased": at, "start": at, "refused": None,
        "ready": at + 1, "stopped": at + 2, **more,
    }  # fmt: skip


def phase(test="test_a", worker="gw0", when="teardown", at=NOW, **more):
    facts = {"machines": [vm(at)], "waited": 1} if when == "teardown" else None
    return {
        "test": test, "worker": worker, "when": when, "outcome": "passed", "begin": at,
        "end": at + 3, "seconds": 3.0, "facts": facts, **more,
    }  # fmt: skip


def drawn(path, *phases):
    timeline_of(phases).write(path)
    return path


@pytest.mark.parametrize("ending", ["html", "svg"])
def test_what_was_drawn_is_read_again_named_by_its_shard(tmp_path, ending):
    odd = phase(test="test_b[</metadata><script>&\"'\x00\ud800é]", when="call")
    path = drawn(tmp_path / f"x.{ending}", phase(), odd)
    assert "<script>" not in path.read_text()
    first, second = read(path, "one")
    assert first == {
        **phase(), "test": "one test_a", "worker": "one gw0",
        "facts": {**phase()["facts"], "host": ""},
    }  # fmt: skip
    assert second == {**odd, "test": f"one {odd['test']}", "worker": "one gw0"}


def merge(*words):
    return main(["report", "merge", *map(str, words)])


def test_the_tables_and_pictures_of_shards_are_joined(tmp_path, capsys):
    call = phase(when="call")
    files = [drawn(tmp_path / f"shard-{n}.html", call, phase(at=NOW + n)) for n in (1, 2)]
    assert merge(*files, "--output", tmp_path / "out" / "all.svg") == 0
    out, errors = capsys.readouterr()
    assert errors == "" and out.splitlines()[-1].startswith("the timeline is in ")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines()[:-1])
    assert rows["VMs ready"] == "2: 2 cloned"
    assert rows["ports"] == "2 leased, 2 waited for, 0 starts retried"
    assert rows["time"].endswith("6.0 s in their tests")
    svg = (tmp_path / "out" / "all.svg").read_text()
    assert {"shard-1 gw0", "shard-2 gw0 VMs"} <= {*re.findall(r"<text [^>]*>([^<]*)</text>", svg)}
    # It is like any other.
    assert len(read(tmp_path / "out" / "all.svg", "x")) == 4


def test_shards_whose_files_have_one_name_are_told_by_their_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        drawn(Path(name, "timeline.html"), phase())
    assert merge("a/timeline.html", "b/timeline.html", "--output", "all.html") == 0
    assert "2: 2 cloned" in capsys.readouterr().out
    found = read(Path("all.html"), "x")
    assert {one["worker"] for one in found} == {
        "x a/timeline.html gw0", "x b/timeline.html gw0"
    }  # fmt: skip


def test_a_worker_of_another_host_is_named_with_it():
    far = phase()
    far["facts"]["host"] = "far"
    svg = timeline_of([phase(when="call"), far]).svg()
    assert ">gw0 far</text>" in svg and ">gw0</text>" not in svg
    assert [*summary_of([far]).lines()][-1].split() == ["hosts", "far", "1"]


def said(record):
    return f"<svg>{BEGIN}{html.escape(json.dumps(record), quote=False)}{END}</svg>"


def changed(**more):
    return said({"format": 1, "phases": [phase(**more)]})


ODD = {
    "nothing": "", "another page": "<html></html>", "no json": f"{BEGIN}x{END}",
    "a list": said([]), "another format": said({"format": 2, "phases": []}),
    "no phases": said({"format": 1}), "phases that are none": said({"format": 1, "phases": 7}),
    "a deep one": f"{BEGIN}{'[' * 100_000}{END}", "a number for a name": changed(test=7),
    "no moment": changed(begin="x"), "a moment without end": changed(end=float("inf")),
    "no number": changed(end=float("nan")), "a moment before time": changed(begin=-1.0),
    "another phase": changed(when="never"), "facts that are none": changed(facts=[]),
    "a vm that is none": changed(facts={"machines": [7], "waited": 0}),
    "a vm without a start": changed(facts={"machines": [vm(leased=None)], "waited": 0}),
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


def test_a_file_that_is_not_there_and_one_that_cannot_be_written_are_told(tmp_path, capsys):
    assert merge(tmp_path / "absent.html") == 1
    assert "absent.html cannot be read: No such file" in capsys.readouterr().err
    whole = drawn(tmp_path / "x.html", phase())
    assert merge(whole, "--output", whole / "y.html") == 1
    assert "y.html cannot be written" in capsys.readouterr().err


def test_a_run_draws_what_can_be_joined(pytester):
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert 0")
    pytester.runpytest("--vmports-timeline=run.html", "-p", "no:randomly")
    found = read(pytester.path / "run.html", "x")
    called = [(one["test"].rpartition("::")[2], one["outcome"]) for one in found
              if one["when"] == "call"]  # fmt: skip
    assert sorted(called) == [("test_a", "passed"), ("test_b", "failed")]

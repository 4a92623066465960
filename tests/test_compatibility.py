"""The tables of docs/compatibility.md, and the matrix that they tell of."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "tests" / "matrix"


def loaded(path: Path):
    """Return a module that is on no path of ours."""
    spec = importlib.util.spec_from_file_location(f"matrix_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(monkeypatch):
    """Return the script that writes the tables."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.delitem(sys.modules, "cases", raising=False)
    yield loaded(ROOT / "scripts" / "compatibility_table.py")
    sys.modules.pop("cases", None)


@pytest.fixture
def cases(table):
    """Return what the matrix tries."""
    return sys.modules["cases"]


def rows(page: str, name: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    (text,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()[2:]
    ]


def test_the_page_shows_the_results_as_they_are(table):
    old = table.PAGE.read_text()
    assert table.page(old) == old, "run scripts/compatibility_table.py"


def test_each_case_and_each_python_has_its_row(table, cases):
    page = table.PAGE.read_text()
    tried = [row[3] for row in rows(page, "plugins")]
    assert tried == [case.tried for case in cases.CASES.values()]
    shown = [tuple(cell.split()[0] for cell in row[:2]) for row in rows(page, "pythons")]
    assert shown == [(python, one) for python in cases.PYTHONS for one in cases.PYTESTS]


def test_each_session_of_the_noxfile_is_of_the_lists(cases):
    """So none is without a row."""
    found = {
        node.name: [ast.unparse(one) for one in node.decorator_list]
        for node in ast.parse((MATRIX / "noxfile.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    found.pop("_debian")  # made once
    by_core = ["nox.parametrize('xdist', [*XDISTS])", "nox.parametrize('pytest', [*PYTESTS])"]
    assert found == {
        "core": ["nox.session(python=HOST)", *by_core],
        "core_in_debian": [
            "nox.session(venv_backend='none')", *by_core, "nox.parametrize('version', DEBIAN)",
        ],
        "plugin": ["nox.session(python=OWN)", "nox.parametrize('case', [*CASES])"],
    }  # fmt: skip


def test_no_result_is_of_a_session_that_is_no_more(cases):
    results = json.loads((MATRIX / "results.json").read_text())
    core = {
        f"core {python} {pytest_} {xdist}"
        for python in cases.PYTHONS
        for pytest_ in cases.PYTESTS
        for xdist in cases.XDISTS
    }
    assert set(results) - core - {f"plugin {name}" for name in cases.CASES} == set()


def test_each_case_has_a_project_and_each_project_a_case(cases):
    projects = {path.name for path in (MATRIX / "projects").iterdir() if path.is_dir()}
    assert projects == {"core", *cases.CASES}
    for case in cases.CASES.values():
        assert case.runs


def test_what_was_not_tried_is_shown_as_such(table, cases, monkeypatch, tmp_path):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "none.json")
    page = table.page(table.PAGE.read_text())
    outcomes = [row[4] for row in rows(page, "plugins")]
    assert outcomes == [table.UNTRIED] * len(cases.CASES)
    assert {cell for row in rows(page, "pythons") for cell in row[2:-1]} == {table.UNTRIED}


def test_a_failure_is_shown_as_such(table, monkeypatch, tmp_path):
    results = json.loads((MATRIX / "results.json").read_text())
    results["plugin asyncio"]["outcome"] = "run 1: no 'a | b' in what pytest wrote"
    (tmp_path / "some.json").write_text(json.dumps(results))
    monkeypatch.setattr(table, "RESULTS", tmp_path / "some.json")
    page = table.page(table.PAGE.read_text())
    (row,) = (row for row in rows(page, "plugins") if row[0] == "pytest-asyncio")
    assert row[4] == r"run 1: no 'a \| b' in what pytest wrote"


def test_each_row_says_on_which_day_and_machine(table, monkeypatch, tmp_path):
    results = json.loads((MATRIX / "results.json").read_text())
    results["plugin asyncio"] |= {"date": "2001-02-03", "machine": "an older one"}
    (tmp_path / "some.json").write_text(json.dumps(results))
    monkeypatch.setattr(table, "RESULTS", tmp_path / "some.json")
    page = table.page(table.PAGE.read_text())
    assert "- a: 2001-02-03, an older one\n- b: " in page
    letters = {row[0]: row[5] for row in rows(page, "plugins")}
    assert letters["pytest-asyncio"] == "a"
    assert letters["anyio"] != "a"

"""The list of single changes can still be made, and its runner tells what the tests notice."""

from __future__ import annotations

import mutants
import pytest
from folded import folded
from mutants import MUTANTS, ROOT, Mutant


@folded("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_can_still_be_made_and_is_python(mutant):
    text = mutants.changed(ROOT, mutant)
    assert text != (ROOT / mutant.file).read_text()
    compile(text, mutant.file, "exec")
    for test in mutant.tests:
        assert (ROOT / test).is_file()


def test_each_has_a_name_of_its_own():
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 60


@pytest.fixture
def project(tmp_path):
    """Return the root of a checkout of two lines and one test."""
    for folder in ("pytest_vmports", "tests"):
        (tmp_path / folder).mkdir()
    code = "def double(x):\n    return 2 * x\n\n\ndef plugin():\n    pass\n"
    (tmp_path / "pytest_vmports" / "__init__.py").write_text(code)
    (tmp_path / "pytest_vmports" / "plugin.py").write_text("")
    (tmp_path / "tests" / "test_it.py").write_text(
        "from pytest_vmports import double\n\n\ndef test_it():\n    assert double(2) == 4\n"
    )
    return tmp_path


def a_change(name, old, new):
    return Mutant(name, "pytest_vmports/__init__.py", old, new, ("tests/test_it.py",))


GOOD = a_change("good", "2 * x", "3 * x")
EQUAL = a_change("equal", "2 * x", "x * 2")
STALE = a_change("stale", "4 * x", "5 * x")


def code_of(copy):
    return (copy / "pytest_vmports" / "__init__.py").read_text()


def test_it_says_what_is_noticed_and_what_is_not_and_leaves_the_checkout_alone(project, capsys):
    before = code_of(project)
    assert mutants.main([], project, [GOOD, EQUAL]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in said] == [
        "noticed      good",
        "NOT NOTICED  equal",
        "1 of 2 noticed, 50%; 0 cannot be made any more",
    ]
    assert code_of(project) == before


@pytest.fixture
def without_pytest(monkeypatch):
    """Faked: what the project's test says of the change."""

    def passes(copy, tests):
        return "2 * x" in code_of(copy) or "x * 2" in code_of(copy), "its output"

    monkeypatch.setattr(mutants, "passes", passes)


@pytest.mark.usefixtures("without_pytest")
def test_one_that_cannot_be_made_any_more_is_an_error_whatever_is_noticed(
    project, capsys, monkeypatch
):
    monkeypatch.setattr(mutants, "ENOUGH", 0.5)
    assert mutants.main([], project, [GOOD]) == 0
    assert mutants.main([], project, [GOOD, STALE]) == 1
    assert "stale: its text is in pytest_vmports/__init__.py 0 times" in capsys.readouterr().out


@pytest.mark.usefixtures("without_pytest")
@pytest.mark.parametrize(("others", "status"), [(9, 0), (8, 1)])
def test_nine_in_ten_are_enough(project, others, status):
    assert mutants.main([], project, [EQUAL, *[GOOD] * others]) == status


@pytest.mark.usefixtures("without_pytest")
def test_tests_that_fail_anyway_tell_nothing(project, capsys):
    path = project / "pytest_vmports" / "__init__.py"
    path.write_text(path.read_text().replace("2 * x", "7 * x"))
    assert mutants.main([], project, [a_change("any", "7 * x", "8 * x")]) == 2
    said = capsys.readouterr().out
    assert "its output\nunchanged, tests/test_it.py does not pass" in said


def test_a_package_that_is_not_the_copys_is_an_error(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SystemExit, match="another package than the copy's is imported: /"):
        mutants.verify_import(tmp_path / "elsewhere")


@pytest.mark.usefixtures("without_pytest")
def test_one_can_be_named_and_all_can_be_listed(project, capsys):
    assert mutants.main(["--list"], project, [GOOD, STALE]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["good", "stale"]
    assert mutants.main(["--only", "good"], project, [GOOD, EQUAL]) == 0
    with pytest.raises(SystemExit):
        mutants.main(["--only", "bad"], project, [GOOD])
    assert "there is no bad" in capsys.readouterr().err

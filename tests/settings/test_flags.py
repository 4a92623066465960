"""Settings whose name alone says yes, on a command line with words behind it."""

from __future__ import annotations

import pytest

from pytest_vmports.settings import options

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--own")
"""


@pytest.fixture
def suite(pytester):
    """Make two folders of tests, the first with an option of its own."""
    pytester.makefile(".ini", pytest="[pytest]")
    for name in ("one", "two"):
        folder = pytester.mkdir(name)
        (folder / f"test_{name}.py").write_text("def test_it(): pass")
    (pytester.path / "one" / "conftest.py").write_text(CONFTEST)
    return pytester


@pytest.mark.parametrize("words", [
    ["--vmports-report", "one", "--own=1"], ["--own=1", "--vmports-report", "one"],
    ["--vmports-report", "--own=1", "--vmports-console", "one"], ["one", "--own=1",
    "--vmports-report"], ["--own=1", "--vmports-report", "--", "one"],
    ["--vmports-report=yes", "one", "--own=1"],
])  # fmt: skip
def test_a_flag_takes_no_folder_of_tests_whose_conftest_is_read_as_ever(suite, words):
    result = suite.runpytest_subprocess(*words)
    result.assert_outcomes(passed=1)  # not those of both folders
    result.stdout.fnmatch_lines(["rootdir: *", "VMs ready *"])


def test_a_flag_takes_a_value_behind_its_sign(suite, monkeypatch):
    monkeypatch.setenv("VMPORTS_CONSOLE", "yes")
    config = suite.parseconfig("-q", "--vmports-console=no", "--vmports-report=x.json", "two")
    assert options.values(config, "console", "report") == [False, str(suite.path / "x.json")]
    assert [path.rpartition("/")[2] for path in config.args] == ["two"]


def test_flags_of_the_ini_file_take_no_word_either(suite):
    suite.makefile(".ini", pytest="[pytest]\naddopts = --vmports-report")
    suite.runpytest_subprocess("two").assert_outcomes(passed=1)

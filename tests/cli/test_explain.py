"""What an error means can be read by whoever has only installed the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from pytest_vmports.cli.main import main
from pytest_vmports.errors import PortInUseError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "port-in-use", "PortInUseError", "portinuse", "PORT_IN_USE", "port in use",
        "pytest_vmports.errors.PortInUseError", f"[{PortInUseError.address()}]",
    ],
)  # fmt: skip
def test_an_error_is_explained_by_any_of_its_names(capsys, name):
    assert main(["explain", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith("port-in-use\n") and "`PortInUseError`" in said
    assert "## " not in said and "PortsExhaustedError" not in said


def test_without_a_name_all_are_listed(capsys):
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"port-in-use", "setup", "boot-timeout", "qemu-not-found"} <= set(listed)
    for name in listed:
        assert main(["explain", name]) == 0
        assert "](" not in capsys.readouterr().out  # no terminal follows a link


@pytest.mark.parametrize(
    ("name", "hint"), [("port-in-us", "port-in-use"), ("BootTimout", "boot-timeout")]
)
def test_a_name_that_is_unknown_suggests_those_near_it(capsys, name, hint):
    assert main(["explain", name]) == 2
    said = capsys.readouterr().err
    assert "did you mean" in said and hint in said


def test_a_name_like_no_other_tells_how_to_list_them(capsys):
    assert main(["explain", "qqqq"]) == 2
    assert "pytest-vmports explain lists all" in capsys.readouterr().err


def test_the_catalogue_is_a_file_of_the_package():
    """Which a wheel has whole: its files are those of the package's folder."""
    page = resources.files("pytest_vmports") / "errors.md"
    assert page.is_file() and Path(str(page)).parent.name == "pytest_vmports"
    assert 'packages = ["pytest_vmports"]' in (ROOT / "pyproject.toml").read_text()

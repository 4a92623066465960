"""What is said while a VM is made: for whom, how, and what it waits for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_vmports.pool import launch
from pytest_vmports.system.progress import for_whom
from pytest_vmports.vm.console import Console


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "cloning alpine"),
        (
            {"PYTEST_CURRENT_TEST": "a/test_b.py::test_c[x (y)] (setup)"},
            "cloning alpine for a/test_b.py::test_c[x (y)]",
        ),
        (
            {"PYTEST_CURRENT_TEST": "a.py::test (setup)", "PYTEST_XDIST_WORKER": "gw3"},
            "cloning alpine [gw3] for a.py::test",
        ),
    ],
)
def test_it_names_the_test_and_its_worker(monkeypatch, variables, said):
    for name in ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert for_whom("cloning alpine") == said


@pytest.fixture
def machine(tmp_path):
    """Return a machine whose guest's console has ended as cloud-init's does."""
    console = Console(tmp_path / "console.log")
    console.path.write_text("Cloud-init v. 23 finished\nvmports-cloud-init: {} :vmports\n")
    milestones = SimpleNamespace(setup=None)
    probe = SimpleNamespace(waited_for="waiting for port 80: nothing")
    return SimpleNamespace(console=console, milestones=milestones, probe=probe)


def test_while_the_setup_runs_its_console_is_shown_and_then_what_is_waited_for(machine):
    assert launch._how_far(machine) == "Cloud-init v. 23 finished"
    machine.milestones.setup = 5.0
    assert launch._how_far(machine) == "waiting for port 80: nothing"
    machine.probe.waited_for = ""
    assert launch._how_far(machine) == "Cloud-init v. 23 finished"
    machine.probe = None
    assert launch._how_far(machine) == "Cloud-init v. 23 finished"


@pytest.mark.parametrize(
    "ours", ["vmports: setup ended with 0", 'vmports-cloud-init: {"a": 1} :vmports']
)
def test_what_our_scripts_report_is_no_last_line(tmp_path, ours):
    console = Console(tmp_path / "console.log")
    console.path.write_text(f"Starting sshd\r\n{ours}\r\n\r\n")
    assert console.last_line() == "Starting sshd"
    assert ours in console.text() and ours not in console.tail()


@pytest.mark.parametrize(("template", "word"), [(None, "booting"), ("a template", "cloning")])
def test_a_clone_is_not_said_to_boot(monkeypatch, template, word):
    said = []

    class StopError(Exception):
        pass

    def slowly(tell, what, detail):
        said.append(what)
        raise StopError

    monkeypatch.setattr(launch, "slowly", slowly)
    launcher = launch.Launcher(None, None, None, None, failed=None, tell=None)
    machine = SimpleNamespace(stop=lambda: None)
    monkeypatch.setattr(launcher, "machine", lambda *_, **__: machine)
    plan = SimpleNamespace(guest=SimpleNamespace(name="alpine"))
    exposed = SimpleNamespace(since=0.0)
    with pytest.raises(StopError):
        launcher._start(plan, exposed, lambda _: None, template)
    assert said[0].startswith(f"{word} alpine")

"""What is known of VMs that outlive their run, without a VM."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from held import held
from nasty import EVERYTHING, NASTY

from pytest_vmports.cli.main import main
from pytest_vmports.errors import GuestCrashError
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.pool import keeper as keeper_module
from pytest_vmports.pool import kept as kept_module
from pytest_vmports.pool.kept import Kept, all_kept, base
from pytest_vmports.system.proc import process_start


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def keep(tmp_path, monkeypatch, sleeper):
    """Return a function that notes a process as a kept VM; nothing else is known here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setattr("pytest_vmports.system.run_dir._LONGEST_BASE", 1000)
    (tmp_path / "t").mkdir()

    def noted(name="kone", *, start=None):
        folder = base() / name
        folder.mkdir()
        start = process_start(sleeper.pid) if start is None else start
        kept = Kept(folder, "a test", "alpine", 1.0, processes=[("QEMU", sleeper.pid, start)])
        kept.write(folder)
        return kept

    return noted


def test_what_was_noted_is_read_again(keep):
    kept = keep()
    assert all_kept() == [kept]


def test_a_process_that_only_has_the_number_is_not_ended(keep, sleeper):
    kept = keep(start=process_start(sleeper.pid) - 1)
    assert not kept.alive
    kept.stop()
    assert sleeper.poll() is None


def test_the_folder_of_one_that_has_ended_is_removed(keep, sleeper):
    kept = keep()
    sleeper.kill()
    sleeper.wait()
    assert all_kept() == []
    assert not kept.folder.exists()


def test_the_folder_stays_as_long_as_one_of_its_processes_lives(keep, sleeper):
    kept = keep()
    ended = ("gvproxy", sleeper.pid, process_start(sleeper.pid) - 1)  # its number is another's
    for processes in ([ended, *kept.processes], [*kept.processes, ended]):
        both = replace(kept, processes=processes)
        both.write(kept.folder)
        assert all_kept() == [both]
        assert kept.folder.exists()


def test_it_has_ended_before_its_folder_is_removed(keep, sleeper, monkeypatch):
    kept, ended, remove = keep(), [], shutil.rmtree
    death = os.pidfd_open(sleeper.pid)

    def look_first(folder):
        ended.append(bool(select.select([death], [], [], 0)[0]))
        remove(folder)

    monkeypatch.setattr(kept_module.shutil, "rmtree", look_first)
    ours = os.sched_getaffinity(0)
    try:
        # It dies on the processor that we are on, so only when we wait for it.
        os.sched_setaffinity(0, {min(ours)})
        os.sched_setaffinity(sleeper.pid, {min(ours)})
        os.sched_setscheduler(sleeper.pid, os.SCHED_IDLE, os.sched_param(0))
        kept.stop()
    finally:
        os.sched_setaffinity(0, ours)
        os.close(death)
    assert ended == [True]


def test_a_folder_that_somebody_else_removes_at_the_same_time_is_no_error(keep, monkeypatch):
    """Faked: that each comes to a file that the other has just removed."""
    kept, remove = keep(), shutil.rmtree
    (kept.folder / "console.log").touch()

    def stumble(folder):
        next(folder.iterdir()).unlink()
        monkeypatch.setattr(shutil, "rmtree", remove)
        raise FileNotFoundError

    monkeypatch.setattr(shutil, "rmtree", stumble)
    kept.stop()
    assert not kept.folder.exists()


def test_stopping_leaves_no_descriptor_open(keep):
    kept = keep()
    before = held()
    kept.stop()
    assert held() <= before


def test_a_folder_that_is_just_made_is_left_alone(keep):
    keep()
    (base() / "knew").mkdir()
    assert [kept.name for kept in all_kept()] == ["kone"]
    assert (base() / "knew").exists()


def test_stopping_ends_the_process_and_all_stops_all(keep, sleeper, capsys):
    keep("kone"), keep("ktwo")
    assert main(["kept", "stop", "all"]) == 0
    assert sleeper.wait(60) == -9
    assert capsys.readouterr().out.splitlines() == [
        "stopped kone (a test)",
        "stopped ktwo (a test)",
    ]
    assert main(["kept"]) == 0
    assert capsys.readouterr().out == "no VM is kept\n"


@pytest.mark.parametrize(
    ("words", "said"), [((), "name the VMs to stop, or all"), (("kfoo",), "no VM is kept as kfoo")]
)
def test_a_name_that_is_missing_or_wrong_stops_nothing(keep, sleeper, capsys, words, said):
    keep()
    assert main(["kept", "stop", *words]) == 2
    assert capsys.readouterr().err == f"pytest-vmports: {said}; kept are: kone\n"
    assert sleeper.poll() is None


def test_where_the_kernel_gives_no_pidfd_it_is_ended_all_the_same(keep, sleeper, monkeypatch):
    def refuse(_pid):
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    kept = keep()
    kept.stop()
    assert sleeper.wait(60) == -9
    assert not kept.folder.exists()


def test_a_note_with_more_than_we_know_is_that_of_a_vm_to_be_listed_and_stopped(keep, sleeper):
    kept = keep()
    note = json.loads((kept.folder / "kept.json").read_text())
    (kept.folder / "kept.json").write_text(json.dumps({**note, "later": {"v": 2}, "since": "now"}))
    (read,) = all_kept()
    assert (read.test, read.processes, read.since) == ("a test", kept.processes, 0.0)
    read.stop()
    assert sleeper.wait(60) == -9


@pytest.mark.parametrize("always", [False, True])
def test_a_vm_whose_kernel_failed_is_kept_and_fails_its_test_all_the_same(monkeypatch, always):
    crash = GuestCrashError("the guest's kernel had an oops")
    monkeypatch.setattr(keeper_module, "let_outlive", lambda *_: None)
    keeper, gone = keeper_module.Keeper(always=always, tell=print), []
    monkeypatch.setattr(keeper, "_let_go", lambda machine: not gone.append(machine))
    machine = SimpleNamespace(
        failure_at_the_end=lambda: crash, lives=True, vitals=SimpleNamespace(panic=None),
        failing=False,
    )  # fmt: skip
    machine.note_failing = lambda: setattr(machine, "failing", True)
    with pytest.raises(GuestCrashError):
        keeper.keep(machine)
    assert gone == [machine]


@pytest.mark.parametrize("name", [*NASTY.values(), EVERYTHING], ids=[*NASTY, "everything"])
def test_the_commands_that_reach_a_kept_vm_are_what_a_shell_and_socat_take(name):
    folder = Path("/tmp") / name
    console = SimpleNamespace(path=Path("console.log"))
    cards = SimpleNamespace(first=SimpleNamespace(network_log=None))
    machine = SimpleNamespace(kind=SimpleNamespace(ssh=object()), console=console, cards=cards)
    ways = keeper_module._ways(machine, folder)
    assert shlex.split(ways["ssh"])[:3] == ["ssh", "-F", str(folder / keeper_module.CONFIG)]
    for way in ("console", "monitor"):
        address = shlex.split(ways[way])[-1]
        kind, _, escaped = address.partition(":")
        assert kind == "UNIX-CONNECT"
        assert re.search(r"(?<!\\)(?:\\\\)*[,:!\"'()\[\]{}]", escaped) is None
        assert re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL).startswith(f"{folder}/")


@pytest.mark.parametrize("held", [True, False])
def test_a_vm_whose_connections_are_held_is_said_to_lose_them(held):
    cards = SimpleNamespace(first=SimpleNamespace(network_log=NetworkLog() if held else None))
    machine = SimpleNamespace(kind=SimpleNamespace(ssh=None), cards=cards,
                              console=SimpleNamespace(path=Path("console.log")))  # fmt: skip
    said = keeper_module._ways(machine, Path("/tmp/k")).get("network", "")
    assert said.startswith("it connects to nothing any more") is held

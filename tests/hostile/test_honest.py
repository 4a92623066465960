"""Hosts that are odd, and honest: the walls fit them, or are left out, which a line says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import LaunchError
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.pool import planning
from pytest_vmports.system import landlock, program_files
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.probing import ask
from pytest_vmports.system.program_files import needed_by
from pytest_vmports.system.programs import Accelerator, Gvproxy, Qemu
from pytest_vmports.system.run_dir import RunDir


@pytest.fixture(autouse=True)
def _landlock(missing):
    if problem := landlock.problem():
        missing("Landlock", problem)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a folder of the system's programs."""
    folder = tmp_path / "usr"
    folder.mkdir()
    monkeypatch.setattr(program_files, "PROGRAMS", (*program_files.PROGRAMS, str(folder)))
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """Return a program that lies where nobody would look for one."""
    folder = tmp_path / "elsewhere" / "bin"
    folder.mkdir(parents=True)
    return Path(shutil.copy(os.path.realpath(shutil.which("env")), folder / "env"))


def script(path, runs):
    path.write_text(f'#!/bin/sh\nexec {runs} "$@"\n')
    path.chmod(0o755)
    return str(path)


def unreachable(tmp_path):
    """Return names that a look at raises for, whoever looks."""
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    return str(circle), f"{tmp_path}/{'n' * 300}"


def test_places_that_cannot_be_looked_at_cost_their_rule_alone(tmp_path, monkeypatch, elsewhere):
    odd = unreachable(tmp_path)
    monkeypatch.setattr(program_files, "_SYSTEM", (*odd, *program_files._SYSTEM))
    needed = needed_by(str(elsewhere))
    assert elsewhere in needed and not {*map(str, needed)} & {*odd}
    around = Confinement(Walls((*map(Path, odd), *needed), change=program_files.DEVICES))
    assert ask([str(elsewhere), "--version"], timeout=60, confinement=around).code == 0


def test_a_host_without_descriptors_gets_no_walls_with_holes(monkeypatch, tmp_path):
    def too_many(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(landlock.os, "open", too_many)
        with pytest.raises(OSError, match="Too many"):
            landlock._allow(-1, [tmp_path], 1)


def test_a_script_of_the_systems_has_walls_where_it_runs_within_them(system, elsewhere):
    assert needed_by(script(system / "one", "env")) is not None
    assert needed_by(script(system / "two", elsewhere)) is None


def test_a_program_that_needs_more_than_is_known_has_no_walls(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    cat = str(shutil.copy(os.path.realpath(shutil.which("cat")), folder / "cat"))
    needed = tmp_path / "needed"
    needed.write_text("")
    assert needed_by(cat) is not None
    assert needed_by(cat, trial=(str(needed),)) is None
    assert needed_by(cat, trial=(str(needed),), change=(needed,)) is not None


def test_a_program_that_does_not_run_at_all_keeps_its_walls(system, elsewhere):
    assert needed_by(script(system / "one", "false")) is not None
    assert needed_by(str(elsewhere), trial=("false",)) is not None


def test_a_path_of_few_programs_hides_no_library_and_no_firmware(monkeypatch, qemu_binary):
    monkeypatch.setattr(program_files.surroundings, "_variables", {"PATH": "/nowhere"})
    monkeypatch.setenv("PATH", "/nowhere")
    needed_by.cache_clear()
    try:
        needed = needed_by(str(qemu_binary), asks=True)
    finally:
        needed_by.cache_clear()
    firmware = [one for folder in needed for one in folder.glob("*bios*.bin")]
    assert firmware


@pytest.mark.parametrize(
    "modules", ["lib/qemu", "lib64/qemu", "libexec/qemu", "lib/x86_64-linux-gnu/qemu", "named"]
)
def test_a_qemu_of_another_prefix_reads_its_modules(elsewhere, monkeypatch, modules):
    prefix = elsewhere.parent.parent
    (prefix / modules).mkdir(parents=True)
    variables = {**os.environ, "QEMU_MODULE_DIR": str(prefix / "named")}
    monkeypatch.setattr(program_files.surroundings, "variables", lambda **_: variables)
    needed = needed_by(str(elsewhere), asks=True)
    assert prefix / modules in needed and prefix not in needed


def test_a_qemu_without_walls_is_told_of_and_one_with_them_is_not(tmp_path, qemu_binary):
    def line(qemu):
        hardware = SimpleNamespace(qemu=Qemu(str(qemu), (7, 2, 0), ""), accelerator=TCG)
        return planning.unwalled_line(SimpleNamespace(hardware=hardware))

    odd = script(tmp_path / "qemu-system-x86_64", qemu_binary)
    assert line(qemu_binary) is None
    assert odd in line(odd) and "it is a script" in line(odd) and "\n" not in line(odd)


def test_a_gvproxy_that_is_a_script_says_what_to_do(tmp_path, elsewhere):
    odd = script(tmp_path / "gvproxy", elsewhere)
    with RunDir() as run_dir:
        wiring = GvproxyWiring((), Gvproxy(odd, "0", has_config=True), run_dir.path, None)
        with pytest.raises(LaunchError, match="name as gvproxy the program, and no script"):
            wiring.start(())
        wiring.stop()


def test_of_a_host_without_landlock_each_run_is_not_told(tmp_path, unwalled):
    qemu = Qemu(script(tmp_path / "qemu-system-x86_64", "qemu"), (7, 2, 0), "")
    plan = SimpleNamespace(hardware=SimpleNamespace(qemu=qemu, accelerator=TCG))
    assert planning.unwalled_line(plan) is None


TCG = Accelerator("tcg", "")

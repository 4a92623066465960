"""Files that outlive their folder for as long as somebody may want them."""

from __future__ import annotations

import os
import resource
import shutil
from types import SimpleNamespace

import pytest

from pytest_vmports.vm.files import Files
from pytest_vmports.vm.machine import Machine
from pytest_vmports.vm.owner import Owner


@pytest.fixture
def folders(tmp_path):
    """Return a VM's folder and one for copies."""
    made = tmp_path / "vm", tmp_path / "copies"
    for folder in made:
        folder.mkdir()
    (made[0] / "config").write_text("a: b")
    (made[0] / "other").write_text("not asked for")
    return made


def test_what_is_there_is_copied_and_nothing_else(folders):
    source, target = folders
    files = Files(("config", "capture"))
    for name in files.names:
        files.copy(name, source, target / name)
    assert [path.name for path in target.iterdir()] == ["config"]


def test_a_folder_that_is_gone_is_copied_all_the_same_and_more_than_once(folders):
    source, target = folders
    files = Files(("config", "capture"))
    files.keep(source)
    shutil.rmtree(source)
    for _ in range(2):
        files.copy("config", source, target / "config")
        assert (target / "config").read_text() == "a: b"


def test_the_descriptors_are_closed_with_their_owner(folders):
    before = os.listdir("/proc/self/fd")
    files = Files(("config",))
    files.keep(folders[0])
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del files
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_folder_that_cannot_be_removed_for_want_of_descriptors_is_left_to_the_run(tmp_path):
    """It is no failure of the test whose VM has ended."""
    folder = tmp_path / "v"
    folder.mkdir()
    (folder / "console.log").touch()
    machine = SimpleNamespace(workdir=folder, owner=Owner())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        Machine.discard(machine)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert folder.exists()
    Machine.discard(machine)
    assert not folder.exists()

"""virtiofsd: which one is used, and its walls. No VM is booted."""

from __future__ import annotations

import pytest
from confined import what_it_can

from pytest_vmports.system import landlock, seccomp
from pytest_vmports.vm import virtiofs
from pytest_vmports.vm.share import Share

# The newer answers so, and the older, which needs namespaces of its own.
NEWER, OLDER = "virtiofsd 1.13.2", "using FUSE kernel interface version 7.36\nvirtiofsd version 7.2"


@pytest.fixture(autouse=True)
def walled(missing):
    if problem := landlock.problem() or seccomp.problem():
        missing("walls", problem)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that puts a virtiofsd in the place of all others."""
    virtiofs.find.cache_clear()
    place = tmp_path / "virtiofsd"
    monkeypatch.setattr(virtiofs, "_PLACES", (str(place),))

    def put(text):
        place.write_text(f"#!/bin/sh\n{text}\n")
        place.chmod(0o755)
        virtiofs.find.cache_clear()
        return place

    yield put
    virtiofs.find.cache_clear()


def shared(folder, *, readonly=True):
    return Share(folder, "/srv", readonly=readonly, by="virtiofs", tag="share0")


@pytest.mark.parametrize(("says", "usable"), [(NEWER, True), (OLDER, False), ("hello", False)])
def test_the_one_that_works_behind_walls_is_known_by_its_version(
    program, monkeypatch, says, usable
):
    # A script could run anything, so it would never be walled in.
    monkeypatch.setattr(virtiofs.program_files, "needed_by", lambda _: ())
    place = program(f"echo '{says}'")
    assert virtiofs.find() == (str(place) if usable else None)


def test_one_that_cannot_be_walled_in_is_not_used(program):
    program(f"echo '{NEWER}'")
    assert virtiofs.find() is None


def test_where_there_are_no_walls_none_is(program, monkeypatch):
    monkeypatch.setattr(virtiofs.program_files, "needed_by", lambda _: ())
    program(f"echo '{NEWER}'")
    monkeypatch.setattr(landlock, "problem", lambda: "there is none")
    assert virtiofs.find() is None


@pytest.mark.parametrize("readonly", [True, False])
def test_one_that_was_taken_over_has_the_folder_and_nothing_else(tmp_path, readonly):
    folder = tmp_path / "shared"
    folder.mkdir()
    kept = virtiofs._confinement("/bin/true", shared(folder, readonly=readonly))
    able = {"own read"} | (set() if readonly else {"own write", "own make"})
    assert what_it_can(kept, folder, tmp_path / "beside") == able

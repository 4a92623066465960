"""Landlock by itself: what a child may do with files and ports, and what a host without it says."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from confined import PYTHON, tries

from pytest_vmports.system import landlock, program_files
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.gate import Gate
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.run_dir import RunDir

PROGRAMS = (*map(Path, (*program_files.PROGRAMS, *program_files.LOADER)), *PYTHON)


@pytest.fixture
def folder():
    with RunDir() as run_dir:
        yield run_dir.path


def kept(gate=None, **given):
    read = (*PROGRAMS, *given.pop("read", ()))
    return Confinement(Walls(read, change=(Path("/dev/null"),), **given), gate)


def test_what_is_written_is_a_folder_of_its_own_and_no_device_is_made_there(folder):
    own, other, seen = folder / "own", folder / "other", folder / "seen"
    for place in (own, other, seen):
        place.mkdir()
        (place / "file").write_text("x")
    code = """
        for place in (own, other, seen):
            for name, do in {
                "read": lambda: os.open(place + "/file", os.O_RDONLY),
                "write": lambda: os.open(place + "/file", os.O_RDWR | os.O_TRUNC),
                "make": lambda: os.mkdir(place + "/new"),
                "socket": lambda: unix(place + "/new.sock"),
                "device": lambda: os.mknod(place + "/null", stat.S_IFCHR | 0o600, 259),
                "remove": lambda: os.unlink(place + "/file"),
            }.items():
                attempt(f"{name} {os.path.basename(place)}", do)
        attempt("move", lambda: os.rename(own + "/new", other + "/new"))
    """
    around = kept(read=(seen,), write=(own,))
    said = tries(around, folder, code, own=str(own), other=str(other), seen=str(seen))
    own_ways = {f"{what} own" for what in ("read", "write", "make", "socket", "remove")}
    assert {name for name, what in said.items() if what == "done"} == {"read seen", *own_ways}
    assert said.pop("move") in {"EXDEV", "EACCES"}
    assert {what for what in said.values() if what != "done"} <= {"EACCES", "EPERM"}


def test_a_link_leads_no_further_than_its_walls(folder):
    secret = folder / "secret"
    secret.write_text("mine")
    own = folder / "own"
    own.mkdir()
    (own / "link").symlink_to(secret)
    (own / "folder").symlink_to(folder)
    code = """
        for name in ("link", "folder/secret", "../secret", "../own/../secret"):
            attempt(name, lambda: os.open(own + "/" + name, os.O_RDONLY))
    """
    said = tries(kept(write=(own,)), folder, code, own=str(own))
    assert set(said.values()) == {"EACCES"}


def test_what_is_not_there_or_not_ours_to_reach_is_left_out(folder):
    (folder / "file").write_text("x")
    places = (folder / "nowhere", folder / "file" / "below", folder / ("x" * 200))
    assert tries(kept(read=places), folder, "") == {}


@pytest.mark.parametrize("gated", [False, True])
def test_ports_are_its_own_to_bind_where_no_gate_binds_them(folder, gated):
    """A gate that lets a bind by would not be the last: Landlock has a rule on TCP's."""
    around = kept(Gate(lambda _: 0, ("listen",)) if gated else None)
    said = tries(around, folder, 'attempt("bind", lambda: tcp().bind(("127.0.0.1", 0)))')
    assert said == {"bind": "EACCES" if gated and landlock.version() >= 4 else "done"}


def test_no_socket_in_no_folder_and_no_process_of_others_is_reached(folder):
    name = f"\0vmports-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(name)
        service.listen()
        code = """
            attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect(name))
            attempt("signal", lambda: os.kill(pid, 0))
        """
        said = tries(kept(), folder, code, name=name, pid=os.getpid())
    scoped = "EPERM" if landlock.version() >= 6 else "done"
    assert said == {"connect": scoped, "signal": scoped}


def test_a_host_without_it_says_so(monkeypatch):
    """Faked: what kernels and containers answer."""

    def refuse(*_, **__):
        raise OSError(errno.ENOSYS, "Landlock: Function not implemented")

    ask = landlock.problem.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(landlock.libc, "syscall", refuse)
        assert "not implemented" in ask() and landlock.version.__wrapped__() == 0
    monkeypatch.setattr(landlock.sys, "platform", "darwin")
    assert "darwin" in ask()


@pytest.mark.parametrize("lists", [True, False])
def test_an_older_python_may_list_proc_and_read_nothing_there(folder, lists, monkeypatch):
    """Faked: which Python starts the child."""
    monkeypatch.setattr(landlock, "_FIRST_WITH_CLOSE_RANGE", (99,) if lists else (3,))
    code = """
        attempt("list", lambda: os.listdir("/proc/self/fd"))
        attempt("read", lambda: open("/proc/self/environ"))
        attempt("ours", lambda: open(f"/proc/{pid}/environ"))
    """
    said = tries(kept(), folder, code, pid=os.getpid())
    assert said == {"list": "done" if lists else "EACCES", "read": "EACCES", "ours": "EACCES"}

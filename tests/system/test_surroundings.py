"""What was there before a test, while something is started."""

import builtins
import importlib.util
import io
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from unittest.mock import mock_open, patch

import pytest

from pytest_vmports.errors import HostError
from pytest_vmports.network.exposed import lease_exposed
from pytest_vmports.system import sockets, surroundings, tools

LIMITS = [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS]


@pytest.fixture(autouse=True)
def put_back():
    mask = os.umask(0)
    limits = {limit: resource.getrlimit(limit) for limit in LIMITS}
    os.umask(mask)
    yield
    os.umask(mask)
    for limit, values in limits.items():
        resource.setrlimit(limit, values)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_lowered_limit_is_what_it_was_and_then_lowered_again(limit):
    before, hard = resource.getrlimit(limit)
    low = 1 << 36 if limit != resource.RLIMIT_NOFILE else 200
    resource.setrlimit(limit, (low, hard))
    with surroundings.restored(), surroundings.restored():
        assert resource.getrlimit(limit) == (before, hard)
    assert resource.getrlimit(limit) == (low, hard)


def test_a_raised_limit_stays():
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = before + 1 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    with surroundings.restored():
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised


def test_the_umask_is_what_it_was_and_then_the_tests_again(tmp_path):
    os.umask(0o777)
    with surroundings.restored():
        (tmp_path / "file").touch()
    assert os.umask(0o777) == 0o777
    assert (tmp_path / "file").stat().st_mode & 0o600 == 0o600


def test_who_leaves_first_puts_nothing_back_for_who_is_still_inside():
    os.umask(0o777)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with surroundings.restored():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(60)
    with surroundings.restored():
        leave.set()
        thread.join()
        inside = os.umask(surroundings._mask)
    assert inside == surroundings._mask
    assert os.umask(0o777) == 0o777


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_a_program_is_found_whatever_became_of_path(monkeypatch, path):
    if path is None:
        monkeypatch.delenv("PATH", raising=False)
    else:
        monkeypatch.setenv("PATH", path)
    assert os.path.isabs(surroundings.which("sh"))
    assert surroundings.which("no-such-program") is None


def test_the_variables_are_those_of_before(monkeypatch):
    monkeypatch.setenv("LATER", "x")
    assert "LATER" not in surroundings.variables()


class Mine:
    """What a test puts in the place of anything."""

    def __init__(self, *_, **__):
        raise AssertionError("a test's")


# Where and what, for monkeypatch.setattr.
PATCHED = [
    (builtins, "open", mock_open()), (builtins, "__import__", Mine),
    (importlib.util, "find_spec", Mine), (importlib, "import_module", Mine),
    (io, "open", mock_open()), (os, "listdir", Mine), (os, "open", Mine), (os, "kill", Mine),
    (os, "umask", Mine), (os.path, "exists", Mine), (Path, "exists", Mine), (Path, "open", Mine),
    (platform, "machine", lambda: "pdp11"), (shutil, "rmtree", Mine), (signal, "signal", Mine),
    (socket, "socket", Mine), (socket.socket, "connect", Mine), (subprocess, "Popen", Mine),
    (subprocess, "run", Mine), (tempfile, "mkdtemp", Mine), (threading, "Thread", Mine),
    (time, "monotonic", Mine), (time, "sleep", Mine), (sys, "meta_path", []),
]  # fmt: skip


@pytest.mark.parametrize("patched", PATCHED, ids=lambda row: row[1])
def test_what_a_test_has_replaced_is_there_within_and_the_tests_again_after(patched):
    home, name, value = patched
    before = getattr(home, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, name, value)
        with surroundings.restored():
            within = getattr(home, name)
        after = getattr(home, name)
    assert within == before
    assert after is value
    assert getattr(home, name) == before


def test_a_list_of_paths_that_a_test_has_emptied_is_full_within(monkeypatch):
    before = surroundings._lists["path"]
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path.clear()
    sys.path.append("/of/the/test")
    with surroundings.restored():
        within = [*sys.path]
    assert within == [*before, "/of/the/test"] and sys.path == ["/of/the/test"]


def test_modules_that_a_test_has_hidden_or_replaced_are_found_within():
    import json

    with patch.dict(sys.modules, {"json": None, "io": Mine, "not_there_before": None}):
        with surroundings.restored():
            within = sys.modules["json"], sys.modules["io"], "not_there_before" in sys.modules
        assert sys.modules["json"] is None and sys.modules["io"] is Mine
        assert sys.modules["not_there_before"] is None
        del sys.modules["os"]
        with surroundings.restored():
            assert sys.modules["os"] is os
        assert "os" not in sys.modules
    assert within == (json, io, False)


def test_a_fake_file_system_is_refused_by_name(monkeypatch):
    """Faked: pyfakefs, which puts an object of its own in every module."""
    surroundings.refuse_fakes()
    monkeypatch.setattr(surroundings, "os", SimpleNamespace(**vars(os)))
    with pytest.raises(HostError, match=r"a fake \(types.SimpleNamespace\).*Pause\(fs\)"):
        lease_exposed([], None, None)


def test_nothing_is_put_back_that_was_never_changed():
    assert not surroundings.changed()
    assert surroundings._replaced() == []


@pytest.mark.parametrize("which", ["limit", "umask", "function"])
def test_it_is_known_that_a_test_has_changed_something(which, monkeypatch):
    if which == "limit":
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
    elif which == "umask":
        os.umask(0o777)
    else:
        monkeypatch.setattr(socket, "socket", Mine)
    assert surroundings.changed()


def test_beside_a_test_nothing_changes_under_it_and_a_child_has_what_was_before(
    monkeypatch, tmp_path
):
    limits = {limit: resource.getrlimit(limit)[0] for limit in LIMITS}
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (200, resource.getrlimit(limit)[1]))
    os.umask(0o777)
    monkeypatch.setattr(socket, "socket", Mine)
    # A limit is set when its child has begun: it goes on when it is told to.
    program = (
        "import os, resource, sys; sys.stdin.read(); print(os.umask(0), "
        f"[resource.getrlimit(limit)[0] for limit in {[int(limit) for limit in LIMITS]}])"
    )
    said = []

    def work():
        with surroundings.beside_a_test(), surroundings.restored():
            said.append((socket.socket, resource.getrlimit(resource.RLIMIT_FSIZE)[0]))
            child = tools.start([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE)
            said.append(child.communicate(timeout=60)[0].decode())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [(Mine, 200), f"{surroundings._mask} {[*limits.values()]}\n"]
    assert os.umask(0o777) == 0o777


def test_a_socket_of_ours_is_none_that_a_test_has_put_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket, "socket", Mine)
        ours, theirs = sockets.pair()
        with ours, theirs, sockets.connected(server.getsockname(), 10) as connection:
            assert theirs.send(b"x") == 1 and ours.recv(2) == b"x"
            assert connection.getpeername() == server.getsockname()
            assert connection.gettimeout() == 10


def test_what_cannot_be_put_back_is_no_reason_to_put_nothing_back_later(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(surroundings, "_lists", {"no_such": []})
        patch.setattr(socket, "socket", Mine)
        with pytest.raises(AttributeError), surroundings.restored():
            pass
        assert socket.socket is Mine
    monkeypatch.setattr(socket, "socket", Mine)
    with surroundings.restored():
        assert socket.socket is not Mine

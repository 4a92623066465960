"""However a run ends, nothing of its VMs is left; and however a test fails, its VM is shown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vm_helpers import assert_gone, until

from pytest_vmports.system.run_dir import RunDir

# The inner tests write down what has to be gone later. A rename, so that nobody reads half of it.
CONFTEST = """
import json, os
import pytest

@pytest.fixture
def told(vm_with_ports, vmports_pool, request):
    story = {
        "pids": vm_with_ports.pids,
        "ports": [[port.protocol, port.external] for port in vm_with_ports],
        "folder": str(vmports_pool.run_dir),
    }
    with open("story.part", "w") as file:
        json.dump(story, file)
    os.rename("story.part", "story.json")
"""
WAITS = """
import threading
import pytest

@pytest.mark.vmports(8080, "5353/udp", wait_for="none")
def test_waits(told):
    threading.Event().wait()
"""


@pytest.fixture
def inner(pytester, shared_templates, qemu_binary):
    """Return pytester with a conftest that tells of the VM."""
    pytester.makeconftest(CONFTEST)
    return pytester


@pytest.fixture(params=["usernet", "gvproxy_081", "gvproxy_089"])
def wiring(request, monkeypatch):
    """Choose the wiring of the inner run's VM."""
    if request.param != "usernet":
        monkeypatch.setenv("VMPORTS_ALLOW_NETWORK", "yes")
        monkeypatch.setenv("VMPORTS_GVPROXY", str(request.getfixturevalue(request.param)))


@pytest.fixture
def by_gvproxy(monkeypatch, gvproxy_089):
    """Let gvproxy connect the inner run's VM."""
    monkeypatch.setenv("VMPORTS_ALLOW_NETWORK", "yes")
    monkeypatch.setenv("VMPORTS_GVPROXY", str(gvproxy_089))


@contextlib.contextmanager
def running(inner, *arguments):
    """Run pytest as a terminal would, in a process group of its own; yields when its VM runs."""
    inner.makepyfile(WAITS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    with (
        Path("output").open("wb") as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as run,
    ):
        try:
            until(
                lambda: Path("story.json").exists() or run.poll() is not None,
                120,
                "the inner run has a VM",
            )
            assert run.poll() is None, Path("output").read_text()
            yield run, story()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def story():
    """Return what the inner test has told."""
    return json.loads(Path("story.json").read_text())


def test_a_killed_run_leaves_no_process_and_no_busy_port(inner, wiring):
    with running(inner, "-p", "no:xdist") as (run, told):
        run.kill()
        run.wait()
        assert_gone(told, seconds=2)
    # What it could not remove is removed by the next who needs a folder.
    with RunDir():
        assert not Path(told["folder"]).exists()


def test_a_killed_run_takes_those_along_that_it_might_have_kept(inner, by_gvproxy, monkeypatch):
    monkeypatch.setenv("VMPORTS_KEEP", "failed")
    with running(inner, "-p", "no:xdist") as (run, told):
        run.kill()
        run.wait()
        assert_gone(told, seconds=2)


def test_a_worker_killed_in_the_middle_of_a_test_takes_its_vm_along(inner, by_gvproxy):
    inner.makepyfile(
        """
        import os, signal
        import pytest

        @pytest.mark.vmports(8080, "5353/udp", wait_for="none")
        def test_kills_its_worker(told):
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.parametrize("number", range(3))
        def test_others(number):
            pass
        """
    )
    result = inner.runpytest_subprocess("-n", "2")
    assert_gone(story(), seconds=2)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*test_kills_its_worker*"])


@pytest.mark.parametrize("workers", [["-p", "no:xdist"], ["-n", "1"]], ids=["alone", "worker"])
def test_an_interrupted_run_cleans_up(inner, by_gvproxy, workers):
    with running(inner, *workers) as (run, told):
        os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        assert run.wait(60) == pytest.ExitCode.INTERRUPTED
        assert_gone(told, seconds=2)
    if workers == ["-p", "no:xdist"]:
        assert not Path(told["folder"]).exists()


@pytest.fixture(params=[["-p", "no:xdist"], ["-n", "1"]], ids=["alone", "worker"])
def failed(request, inner, by_gvproxy):
    """Return the result of a run with a failing test and one whose QEMU is killed."""
    inner.makepyfile(
        """
        import os, signal
        import pytest

        pytestmark = pytest.mark.vmports(8080, setup="echo said by the guest", wait_for="none")

        def test_fails(told):
            assert False

        def test_loses_its_qemu(vm_with_ports):
            qemu = vm_with_ports.pids["QEMU"]
            os.kill(qemu, signal.SIGKILL)
            os.waitid(os.P_PID, qemu, os.WEXITED | os.WNOWAIT)
        """
    )
    return inner.runpytest_subprocess(*request.param, "-p", "no:randomly")


def test_a_failing_test_shows_its_vm_and_a_lost_qemu_is_an_error(failed):
    failed.assert_outcomes(failed=1, passed=1, errors=1)
    failed.stdout.fnmatch_lines_random(
        [
            "*ERROR at teardown of test_loses_its_qemu*",
            "*MachineDiedError: QEMU ended on its own with signal 9*",
            "* test_fails *",
            "*VM: gvproxy, cloned, ready*",
            "forward: 127.0.0.1:* -> 8080/tcp",
            "gvproxy = * (environment variable VMPORTS_GVPROXY)",
            "* s  ready, handed over",
            "port 8080: the guest refused: *",
            "*VM: end of the guest's console*",
            "| said by the guest",
            "*VM: output of gvproxy*",
            "* QEMU ended with signal 9",
            "*waiting for clients*",
        ]
    )
    assert "QEMU's command line" not in failed.stdout.str()  # -v and the artifacts have it
    # Once: the other test's error has it.
    assert failed.stdout.str().count("VM: end of the guest's console") == 1
    assert_gone(story(), seconds=2)
    assert not Path(story()["folder"]).exists()

"""Runs without one of pytest's own plugins: `-p no:NAME`."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest
from _pytest import config

# Nothing is collected without `python`; pytest itself refuses to be without the essential ones.
NAMES = sorted(set(config.default_plugins) - set(config.essential_plugins) - {"python"})

# QEMU refuses this kernel, so no guest boots.
SUITE = """
import socket
import pytest

def test_fails(vm_factory):
    with vm_factory(ports=["8080"], kernel="kernel"):
        pass

@pytest.mark.vmports("8080", "53/udp")
def test_next(exposed_ports, free_port):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(exposed_ports[8080].address)
        server.listen()
    assert free_port not in {port.external for port in exposed_ports}
"""


@pytest.fixture
def run(pytester, monkeypatch, qemu_binary):
    """Return a function that runs the suite; it returns pytest's result and the failure's text."""
    # Others rely on some of them.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(SUITE)
    (pytester.path / "kernel").write_bytes(b"\0no kernel" * 1000)

    def ran(*words):
        # Not as pytester does it, which names a folder for temporary files: without tmpdir there is
        # no such option.
        command = [sys.executable, "-m", "pytest", "-p", "pytest_vmports.plugin"]
        result = pytester.run(*command, *words)
        assert result.ret == pytest.ExitCode.TESTS_FAILED, result.stdout.str()
        if "no:junitxml" in words:
            return result, result.stdout.str()
        failed, passed = ET.parse(pytester.path / "junit.xml").iter("testcase")
        assert passed.get("name") == "test_next" and len(passed) == 0
        (failure,) = failed
        return result, failure.text

    return ran


@pytest.mark.parametrize("name", NAMES)
def test_a_failing_test_has_its_report_without_any_of_pytests_plugins(run, name):
    words = [] if name == "junitxml" else ["--junitxml=junit.xml"]
    result, text = run("-p", f"no:{name}", *words)
    for piece in ("invalid kernel header", "VM: time line", "VM: output of QEMU", "VM: artifacts"):
        assert piece in text, text
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert " failed: " not in text, text


# What changes who writes where, with xdist, whose reports come from another process.
@pytest.mark.parametrize(
    "words",
    [
        *([f"-pno:{name}", "-pxdist", "-n1"] for name in ("capture", "terminal", "tmpdir")),
        ["-s", "-pxdist", "-n1"], ["--capture=no"], ["--capture=tee-sys"],
        ["-pno:capture", "-pno:terminal", "-pno:logging"],
        ["-pno:capture", "-vv", "--vmports-console"],
        ["-pno:terminal", "--vmports-report", "--vmports-timeline=run.html"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_failing_test_has_its_report_however_pytest_writes(run, words):
    result, text = run("--junitxml=junit.xml", *words)
    for piece in ("invalid kernel header", "VM: time line", "VM: output of QEMU", "VM: artifacts"):
        assert piece in text, text
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert " failed: " not in text, text


def test_without_a_folder_for_temporary_files_artifacts_go_where_they_are_told(run, pytester):
    _, text = run("-p", "no:tmpdir", "--junitxml=junit.xml")
    assert "not written: pytest's own folder" in text
    assert "--vmports-artifacts=DIR names another" in text
    _, text = run("-p", "no:tmpdir", "--junitxml=junit.xml", "--vmports-artifacts=kept")
    (folder,) = (one for one in (pytester.path / "kept").iterdir() if one.name != "initrds")
    assert str(folder) in text and (folder / "qemu.sh").exists()


def test_without_pytests_capture_a_vm_may_take_long(run, pytester):
    """Its progress is told all the same, on a standard error that nobody captures."""
    pytester.makepyfile(
        """
        from pytest_vmports.plugin import session_of
        def test_fails(request):
            session_of(request.config).terminal("a line")
            assert session_of(request.config).terminal.redraw("no") is False
            assert 0
        def test_next(): pass
        """
    )
    result, _ = run("-p", "no:capture", "--junitxml=junit.xml")
    result.stderr.fnmatch_lines(["a line"])

"""The files that a failing test's VM leaves, and the script that starts it again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from vm_helpers import until

from pytest_vmports.artifacts import folder_name

SUITE = """
import pytest

KIND = {
    "pcap": True, "display": True, "files": {"word": "/etc/word"},
    "setup": "nc -lk -p 8080 -e cat /etc/word &",
}
pytestmark = pytest.mark.vmports(8080, **KIND)

def test_call_alone(vm_with_ports):
    with vm_with_ports.connect(8080) as s:
        assert s.recv(100) == b"by hand"
    assert vm_with_ports.console == "other"

def test_call_net(vm_factory):
    with vm_factory(ports=[8080], allow_network=True, **KIND) as vm, vm.connect(8080) as s:
        assert s.recv(100) == b"by hand"
    assert vm.console == "other"  # the VM has ended

@pytest.mark.vmports(setup="exit 9")
def test_setup(vm_with_ports):
    pass

def test_good(vm_with_ports):
    pass
"""


@pytest.fixture
def failed(pytester, qemu_binary, gvproxy_089):
    """Return the folder of a run whose tests failed."""
    pytester.makepyfile(test_it=SUITE)
    (pytester.path / "word").write_text("by hand")
    result = pytester.runpytest_subprocess("-n2", "--vmports-artifacts", "kept")
    result.assert_outcomes(failed=2, errors=1, passed=1)
    result.stdout.fnmatch_lines_random([f"{pytester.path}/kept/test_it.py-test_call_alone-*"])
    return pytester.path / "kept"


def test_a_failing_test_leaves_its_vm_as_files_and_a_script_that_boots_it(failed):
    folders = {name.rpartition("-")[0]: failed / name for name in os.listdir(failed)}
    names = {"test_it.py-test_call_alone", "test_it.py-test_call_net", "test_it.py-test_setup"}
    assert set(folders) - {""} == names  # beside the initrds
    for folder in (folders[name] for name in names):
        about = json.loads((folder / "vm.json").read_text())
        there = sorted(os.listdir(folder))
        assert about["files"] == there
        assert {"console.log", "qemu.sh", "QEMU.log"} <= set(there)
        assert "setup ended with" in (folder / "console.log").read_text()
    # A VM that runs; the others have ended.
    assert [name for name in names if (folders[name] / "screen.png").exists()] == [
        "test_it.py-test_call_alone"
    ]
    about = json.loads((folders["test_it.py-test_call_net"] / "vm.json").read_text())
    assert about["wiring"] == "gvproxy" and about["settings"]["allow_network"]["value"] is True
    assert "gvproxy.yaml" in about["files"] and "gvproxy.log" in about["files"]
    # Classic pcap: https://www.tcpdump.org/manpages/pcap-savefile.5.html; 1 is Ethernet.
    for name in ("test_it.py-test_call_alone", "test_it.py-test_call_net"):
        packets = (folders[name] / "packets.pcap").read_bytes()
        assert struct.unpack_from("=IHH12xI", packets) == (0xA1B2C3D4, 2, 4, 1)
        assert b"by hand" in packets
        assert answer_of(folders[name]) == b"by hand"


def answer_of(folder):
    """Start a VM by its script, and return what its port answers."""
    about = json.loads((folder / "vm.json").read_text())
    (forward,) = about["forwards"]
    running = subprocess.Popen(
        [folder / "qemu.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, cwd="/",
    )  # fmt: skip
    heard = []

    def answers():
        assert running.poll() is None, running.stdout.read()
        with (
            contextlib.suppress(OSError),
            socket.create_connection((forward["host"], forward["external"]), timeout=5) as s,
        ):
            heard.append(s.recv(100))
        return heard and heard[-1]

    try:
        until(answers, 90, lambda: f"an answer; heard {heard}")
    finally:
        running.kill()
        said, _ = running.communicate()
    assert b"vmports: setup ended with 0" in said  # its console is on the terminal
    return heard[-1]


def test_a_folder_that_cannot_be_written_hides_no_failure(pytester, qemu_binary):
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.vmports(8080, setup='exit 9')\n"
        "def test_it(vm_with_ports): pass\n"
    )
    (pytester.path / "file").touch()
    result = pytester.runpytest_subprocess("--vmports-artifacts", "file")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SetupError*", "not written to *file: *Not a directory*"])


def test_names_are_readable_bounded_and_never_two_tests():
    names = {folder_name(test) for test in ("a.py::test[x/y]", "a.py::test[x:y]", "a" * 500 + "/")}
    assert len(names) == 3
    assert all(len(name) < 120 and "/" not in name and Path(name).name == name for name in names)
    assert folder_name("plain") == "plain" and folder_name("plain", 2) == "plain-vm2"

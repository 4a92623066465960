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
from vm_helpers import unstarted, until

from pytest_vmports.report import artifacts
from pytest_vmports.report.artifacts import folder_name, write
from pytest_vmports.settings import options
from pytest_vmports.vm import files
from pytest_vmports.vm.argv import CAPTURE

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
    result = pytester.runpytest_subprocess(
        "-n2", "--vmports-artifacts", "kept", f"--vmports-gvproxy={gvproxy_089}"
    )
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
    result.stdout.fnmatch_lines(
        [
            "*SetupError*", "*VM: artifact failed*",
            "artifact failed: all below */file (see --vmports-artifacts): NotADirectoryError: *",
        ]
    )  # fmt: skip


@pytest.fixture
def machine(vmports_pool, request, qemu_binary):
    """Return a machine that was never started."""
    keywords = {"expose": "8080", "pcap": True, "host_ports": "80:9"}
    settings = options.resolve(request.config, keywords, "the test")
    exposed = vmports_pool.lease(settings.expose, settings)
    exposed.release()
    return unstarted(vmports_pool, settings, exposed)


ALWAYS = ["console.log", "qemu.sh", "vm.json"]


@pytest.mark.parametrize("name", [*ALWAYS, CAPTURE])
def test_one_file_that_a_full_disk_does_not_take_costs_no_other(machine, tmp_path, name):
    """The disk is full in earnest, for this one name."""
    folder = tmp_path / folder_name("a test")
    folder.mkdir()
    (folder / name).symlink_to("/dev/full")
    machine.console.path.write_text("said\n" * 1000)
    (machine.workdir / CAPTURE).write_bytes(b"packets")
    lines = []
    assert write(machine, tmp_path, "a test", tmp_path, note=lines.append) == folder
    (line,) = lines
    assert line.startswith(f"artifact failed: {name}: OSError: [Errno 28] No space left on device")
    assert f"{artifacts.__file__}:" in line or f"{files.__file__}:" in line
    for other in {*ALWAYS, CAPTURE} - {name}:
        assert (folder / other).stat().st_size > 0
    if name != "vm.json":
        assert json.loads((folder / "vm.json").read_text())["failed"] == lines


def test_an_initrd_that_cannot_be_made_costs_no_other_file(machine, tmp_path):
    (tmp_path / "initrds").touch()  # where their folder should be
    lines = []
    folder = write(machine, tmp_path, "a test", tmp_path, number=2, note=lines.append)
    (line,) = lines
    assert line.startswith("artifact failed: qemu.sh of VM 2: ")
    assert sorted(os.listdir(folder)) == ["console.log", "vm.json"]


ODD = {
    "surrogates": "\udcff\ud800", "NUL": "\0", "control": "\r\n\x1b[31m", "letters": "é中",
    "long": "x" * 5000, "path": "/../..", "shell": "'$(exit 9)`", "blank": " ",
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_id_has_its_files_and_a_script_that_a_shell_takes(machine, tmp_path, odd):
    (tmp_path / "base").mkdir()
    lines = []
    folder = write(machine, tmp_path / "base", f"a::b[{odd}]", tmp_path, note=lines.append)
    assert lines == []
    assert folder.parent == tmp_path / "base" and len(folder.name) < 120
    assert json.loads((folder / "vm.json").read_text())["test"] == f"a::b[{odd}]"
    subprocess.run(["sh", "-n", folder / "qemu.sh"], check=True)
    head = (folder / "qemu.sh").read_text().splitlines()[1]
    assert head.startswith("# Boots the VM of a::b[") and head.isprintable()


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_kernel_whose_name_is_no_text_is_told_and_named_in_the_script(
    pytester, qemu_binary, workers
):
    """And no worker falls silent: xdist sends only what has an encoding."""
    pytester.makepyfile(
        """
        def test_it(vm_factory):
            with vm_factory(ports=[], kernel="k\\udcff"):
                pass

        def test_none(vm_factory):
            with vm_factory(ports=[], kernel="none\\udcff"):
                pass

        def test_next():
            pass
        """
    )
    (pytester.path / "k\udcff").write_bytes(b"\0no kernel" * 1000)
    words = ["--vmports-artifacts=kept", "--vmports-report", "--vmports-timeline=a.svg"]
    result = pytester.runpytest_subprocess(workers, *words)
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["guest: k\\udcff", "*qemu: invalid kernel header*"])
    result.stdout.fnmatch_lines(["*GuestNotFoundError: *none\\udcff does not exist*"])
    result.stdout.no_fnmatch_line("* failed: *")
    (script,) = (pytester.path / "kept").glob("*/qemu.sh")
    assert b"/k\xff" in script.read_bytes()


def test_names_are_readable_bounded_and_never_two_tests():
    ids = ["a.py::test[x/y]", "a.py::test[x:y]", "a" * 500 + "/", "a" * 500, "a" * 501, "\udcff"]
    names = {folder_name(test) for test in ids}
    assert len(names) == len(ids)
    assert all(len(name) < 120 and "/" not in name and Path(name).name == name for name in names)
    assert folder_name("plain") == "plain" and folder_name("plain", 2) == "plain-vm2"

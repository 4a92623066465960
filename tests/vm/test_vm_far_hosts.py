"""A run over two hosts, which the test makes itself: what reaches them, and what comes home."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from far_hosts import HOSTS, far_hosts, sshd
from namespaces import what_it_takes
from vm_helpers import alive, fixed_port, until

SUITE = """
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

SHARED = Path({shared!r})
KIND = {{"setup": "nc -lk -p 8080 -e cat &", "accel": "tcg"}}

def meet(*names):
    "Wait until tests on both hosts are here."
    (SHARED / socket.gethostname()).touch()
    look = threading.Event()
    while not set(names) <= {{one.name for one in SHARED.iterdir()}}:
        look.wait(0.02)

@pytest.mark.vmports(8080, **KIND)
def test_first(vm_with_ports):
    pass

@pytest.mark.parametrize("number", range(4))
@pytest.mark.vmports("{port}:8080", **KIND)
def test_far(vm_with_ports, number):
    meet("one.test", "two.test")
    assert os.environ["VMPORTS_PREWARM"] == "0"
    with vm_with_ports.connect(8080) as s:
        s.sendall(b"hello")
        assert s.recv(5) == b"hello"
    assert number < 3

@pytest.mark.parametrize("number", range(2))
@pytest.mark.vmports(8080, **KIND)
def test_waits(vm_with_ports, number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker stays for as long as execnet lets it
    (SHARED / f"waits-{{socket.gethostname()}}").touch()
    look = threading.Event()
    while not (SHARED / "gone").exists():
        look.wait(0.02)
    (SHARED / f"outlived-{{socket.gethostname()}}").touch()
"""


@pytest.fixture
def hosts(missing, pytester, qemu_binary):
    what_it_takes(missing)
    if sshd() is None:
        missing("sshd", "install openssh-server")
    apart = ["--net"] if os.geteuid() == 0 else ["--net", "--map-root-user"]
    if subprocess.run(["unshare", *apart, "true"], check=False).returncode:
        missing("namespaces", "run as root, or where users may have them")
    path = str(Path(__file__).parents[2])
    where = {
        "PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": str(pytester.path),
        "VMPORTS_CACHE_DIR": str(pytester.path / "cache-{host}"),
    }  # fmt: skip
    with far_hosts(pytester.path / "hosts", **where) as made:
        yield made


def living(hosts):
    """Return all processes on the hosts, by their commands."""
    found = psutil.Process(hosts.pid).children(recursive=True)
    return [(one.cmdline(), one) for one in found if alive(one.pid)]


def qemus(hosts):
    return [one for command, one in living(hosts) if "qemu-system" in " ".join(command[:1])]


def controller(hosts):
    """Return pytest's process that has no worker's work."""
    (found,) = (one for command, one in living(hosts) if "--dist=worksteal" in command)
    return found


def running(hosts, count=2):
    """Return the QEMUs of tests on as many hosts, which wait."""
    found = qemus(hosts)
    assert len(found) == count
    return found


@pytest.mark.slow  # over twenty seconds on a busy host
def test_a_run_over_two_hosts_is_one_run_and_leaves_no_vm_when_it_is_killed_or_cut(hosts, pytester):
    shared, project, artifacts = (pytester.path / name for name in ("met", "project", "artifacts"))
    shared.mkdir()
    project.mkdir()
    (project / "test_it.py").write_text(SUITE.format(shared=str(shared), port=fixed_port()))
    (project / "pytest.ini").write_text("[pytest]\n")
    gates = [
        f"--tx=ssh={name}//python={sys.executable}//chdir={project}//ssh_config={hosts.ssh_config}"
        for name in HOSTS
    ]
    command = [
        sys.executable, "-m", "pytest", "-p", "no:randomly", "--dist=worksteal",
        "--max-worker-restart=0", f"--rootdir={project}", f"-c{project}/pytest.ini",
    ]  # fmt: skip
    said = pytester.path / "said"
    environment = {
        "VMPORTS_REPORT": "yes",
        "VMPORTS_ARTIFACTS": str(artifacts),
        "VMPORTS_PREWARM": "0",
        "VMPORTS_CONSOLE": "yes",
        "VMPORTS_CACHE_STORE": str(pytester.path / "store"),
    }

    def begin(words, *gates):
        hosts.begin(*command, *gates, "-k", words, folder=project, output=said, **environment)

    # One host fills the store.
    begin("first", gates[0])
    assert hosts.end() == 0, said.read_text()
    text = said.read_text()
    assert re.search(r"^gw0 one\.test alpine\| ", text, re.MULTILINE), text
    assert re.search(r"^templates made +1$", text, re.MULTILINE), text

    # Both run tests, and none boots.
    begin("far", *gates)
    code = hosts.end()
    text = said.read_text()
    assert code == pytest.ExitCode.TESTS_FAILED, text
    assert "1 failed, 3 passed" in text
    assert re.search(r"^templates made +0$", text, re.MULTILINE), text
    (home,) = artifacts.iterdir()
    _host, there = re.search(
        rf"^{home} \(from (\S+), where they are in (\S+)\)$", text, re.MULTILINE
    ).groups()
    assert sorted(one.name for one in home.iterdir()) == sorted(os.listdir(there))
    for file in home.iterdir():
        assert file.read_bytes() == (Path(there) / file.name).read_bytes()
    assert os.access(home / "qemu.sh", os.X_OK)
    for name in HOSTS:
        assert len(re.findall(rf"^vmports: {name}: QEMU [\d.]+, tcg", text, re.MULTILINE)) == 1
    assert re.search(r"^hosts +(one|two)\.test 2, (one|two)\.test 2$", text, re.MULTILINE)

    # Tests that wait, whose controller is killed.
    begin("waits", *gates)
    until(lambda: len([*shared.glob("waits-*")]) == 2, 120, said.read_text)
    ours = running(hosts)
    controller(hosts).kill()
    assert hosts.end() == -signal.SIGKILL
    until(lambda: not any(alive(one.pid) for one in ours), 60, lambda: str(ours))
    # By the word of the workers, not with them, whom execnet ends later.
    (shared / "gone").touch()
    until(lambda: len([*shared.glob("outlived-*")]) == 2, 60, "the workers ended first")
    until(lambda: not qemus(hosts), 60, "a VM was left")

    # The same, and one host is cut off.
    for file in shared.iterdir():
        file.unlink()
    begin("waits", *gates)
    until(lambda: len([*shared.glob("waits-*")]) == 2, 120, said.read_text)
    ours = running(hosts)
    hosts.cut("two.test")
    until(lambda: len([one for one in ours if alive(one.pid)]) == 1, 60, lambda: str(ours))
    (shared / "gone").touch()
    assert hosts.end() == pytest.ExitCode.TESTS_FAILED
    text = said.read_text()
    assert re.search(r"worker 'gw1' crashed while running '?\S*test_waits", text), text
    until(lambda: not qemus(hosts), 60, "a VM was left")

"""Another release of Debian as the tests see it: made of the mirror, and nothing of it gets out."""

import subprocess
import sys
from pathlib import Path

import debian_chroot
import psutil
import pytest
from vm_helpers import echo, host_service, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system(missing):
    if lacking := debian_chroot.missing():
        missing(lacking, "see docs/contributing.md")
    return debian_chroot.chroot("sid")


def said(system, *command):
    return system.run(*command, stdout=subprocess.PIPE, text=True).stdout.split()


@pytest.mark.parametrize(
    ("path", "writable"),
    [("/usr", False), ("/checkout", False), ("/venv", False), ("/tmp", True), ("/root", True)],
)
def test_only_what_ends_with_a_run_can_be_written_to(system, path, writable):
    done = system.run("touch", f"{path}/written", stderr=subprocess.DEVNULL)
    assert (done.returncode == 0) == writable
    assert system.run("test", "-e", f"{path}/written").returncode == 1


def test_it_has_a_qemu_and_a_python_of_its_own_and_this_checkout(system):
    where = "import pytest_vmports, sys; print(sys.prefix, pytest_vmports.__file__)"
    assert said(system, "python", "-c", where) == ["/venv", "/checkout/pytest_vmports/__init__.py"]
    assert said(system, "sh", "-c", "command -v qemu-system-x86_64") == [
        "/usr/bin/qemu-system-x86_64"
    ]


def test_it_has_the_packages_that_are_named_in_place_of_the_tests_own(system):
    """As `make test-matrix` asks for them."""
    other = debian_chroot.chroot("sid", "pytest==8.0.*", "pytest-xdist==3.5.*")
    assert said(other, "python", "-c", "import pytest; print(pytest.__version__[:4])") == ["8.0."]
    assert other.run("python", "-c", "import hypothesis", stderr=subprocess.DEVNULL).returncode == 1
    assert system.run("python", "-c", "import hypothesis").returncode == 0


def test_it_has_no_network_but_its_own_loopback(system):
    dial = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"
    with host_service(echo) as port:
        subprocess.run([sys.executable, "-c", dial, str(port)], check=True)
        done = system.run("python", "-c", dial, str(port), stderr=subprocess.PIPE, text=True)
    assert "ConnectionRefusedError" in done.stderr
    assert said(system, "ls", "/proc/sys/net/ipv4/conf") == ["all", "default", "lo"]


def test_when_the_program_that_runs_it_is_killed_nothing_stays(system):
    program = "import debian_chroot as d; d.chroot('sid').run('sh', '-c', 'echo in; sleep 999')"
    tests = Path(debian_chroot.__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tests, stdout=subprocess.PIPE
    ) as starter:
        try:
            assert starter.stdout.readline() == b"in\n"
            inside = psutil.Process(starter.pid).children(recursive=True)
        finally:
            starter.kill()
    assert inside
    until(lambda: not any(process.is_running() for process in inside), 60, lambda: str(inside))
    assert str(system.root) not in Path("/proc/self/mountinfo").read_text()

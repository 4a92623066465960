"""Suites that are broken on purpose: the reason a person needs stands in the report."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vm_helpers import fixed_port

from pytest_vmports.guests.alpine import find_images

SUITE = """
import pytest
from pytest_vmports import Guest

@pytest.mark.vmports({marker})
def test_it(vm_with_ports):
    {body}
"""


# Notes every machine that is started, by whichever worker.
STARTS = """
from pytest_vmports.vm.machine import Machine

start = Machine.start

def noted(self, *arguments):
    with open("started", "a") as file:
        file.write("x")
    return start(self, *arguments)

Machine.start = noted
"""
FIFTY = """
import pytest

@pytest.mark.vmports({marker})
@pytest.mark.parametrize("number", range(50))
def test_it(vm_with_ports, number):
    pass
"""


@pytest.fixture
def report(pytester, qemu_binary):
    """Return a function that runs a suite of one test and returns what pytest wrote."""

    def run(marker, body="pass", *, outcome, settings=(), before=()):
        pytester.makepyfile(SUITE.format(marker=marker, body=body))
        command = [*before, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *settings]
        result = pytester.run(*command)
        result.assert_outcomes(**outcome)
        return result.stdout.str() + result.stderr.str()

    return run


def assert_told(text, *reasons):
    __tracebackhide__ = True
    missing = [reason for reason in reasons if reason not in text]
    assert not missing, text


ERROR, PASSED_AND_ERROR = {"errors": 1}, {"passed": 1, "errors": 1}


# Two tries where a busy host might be the reason; and whatever two workers begin at one time.
@pytest.mark.parametrize(
    ("marker", "error", "reason", "told", "starts", "workers"),
    [
        ("8080, setup='exit 3'", "SetupError", "the guest's setup ended with 3", [], 1, 2),
        (
            "8080, setup='echo c >/proc/sysrq-trigger'", "GuestPanicError",
            "the guest's kernel panicked: sysrq triggered crash",
            ["8080/tcp", "VM: time line",
             "ended with 0 (kernel panic: sysrq triggered crash)"], 1, 0,
        ),
        (
            "8080, setup='echo hello from here', boot_timeout=2", "BootTimeoutError",
            "the guest was not ready within 2 s",
            ["port 8080: ", "hello from here", "setup ended, or restored", "change wait_for",
             "pytest-vmports explain boot-timeout"], 2, 0,
        ),
    ],
    ids=["a setup that fails", "a panic", "a server that is forgotten"],
)  # fmt: skip
@pytest.mark.slow_as("forgotten")
def test_fifty_tests_of_one_fault_cost_one_boot_and_each_tells_the_reason(
    pytester, qemu_binary, monkeypatch, marker, error, reason, told, starts, workers
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    counts = "import vm_helpers; vm_helpers.count_boots_from('vmports: setup ended')\n"
    pytester.makeconftest(STARTS + (counts if error == "BootTimeoutError" else ""))
    pytester.makepyfile(FIFTY.format(marker=marker))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", f"-n{workers}", "-rN")
    result.assert_outcomes(errors=50)
    assert len(Path("started").read_text()) == starts
    text = result.stdout.str()
    firsts = [line for line in text.splitlines() if re.match(rf"E +\S*{error}: ", line)]
    assert len(firsts) >= 50 and all(reason in line for line in firsts), text
    assert len(re.findall(r"E +\(met first by ", text)) >= 50 - starts
    assert_told(text, *told)
    # The error shows the console's end; a section with the same would say it twice.
    assert (error == "GuestPanicError") <= ("VM: end of the guest's console" not in text)


def test_a_port_that_a_stranger_has(report):
    port = fixed_port()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        text = report(f"'{port}:8080'", outcome=ERROR)
    assert_told(text, f"{port}", f"pid {os.getpid()}", "python")


def test_no_qemu(report):
    text = report("8080", outcome=ERROR, settings=["--vmports-qemu=qemu-system-none"])
    assert_told(
        text,
        "no working QEMU found",
        "qemu-system-none named by the setting qemu: not there",
        "name one with --vmports-qemu",
    )


def test_a_kvm_that_may_not_be_used(report):
    """Forbidden in earnest: the device is missing, not ours to open, or without a processor's help.

    Where it works there is nothing to be told; the reasons one by one are in test_host.py.
    """
    features = Path("/proc/cpuinfo").read_text()
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in features or "svm" in features):
        pytest.skip("KVM works here")
    text = report("8080, accel='kvm', setup='true', boot_timeout=20", outcome=ERROR)
    assert_told(text, "kvm", "accel")
    assert any(words in text for words in ("/dev/kvm", "KVM", "hardware: kvm (asked for)"))


def test_a_gvproxy_that_is_killed_in_the_middle(report, gvproxy_089):
    body = "import os, signal; os.kill(vm_with_ports.pids['gvproxy'], signal.SIGKILL)"
    marker = "8080, allow_network=True, setup='nc -lk -p 8080 -e cat &'"
    settings = [f"--vmports-gvproxy={gvproxy_089}"]
    text = report(marker, body, outcome=PASSED_AND_ERROR, settings=settings)
    assert_told(text, "gvproxy ended on its own with signal 9", "VM: time line")


def test_an_image_that_is_truncated(report, pytester):
    image = find_images()[0].with_suffix(".qcow2")
    with image.open("rb") as whole:
        (pytester.path / "half.qcow2").write_bytes(whole.read(image.stat().st_size // 2))
    text = report("8080, guest='half.qcow2'", outcome=ERROR)
    assert_told(text, "half.qcow2", "truncated or damaged", "fetch or build it again")


@pytest.fixture
def small(missing):
    """Return a function that gives what runs a command beside a file system of so many MiB.

    In a mount namespace of its own, which ends with the run.
    """
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False).returncode
    ):
        missing("a mount namespace (unshare --mount)", "allow user namespaces, or run as root")
    # Not below pytest's own folder: a long TMPDIR is not used, for the sake of sockets.
    folder = Path(tempfile.mkdtemp(prefix="full-"))

    def made(size):
        script = f'mount -t tmpfs -o mode=700,size={size}M tmpfs "$0" && exec "$@"'
        return folder, [*namespace, "sh", "-c", script, str(folder)]

    yield made
    folder.rmdir()


@pytest.mark.parametrize("full", ["cache", "tmp"])
def test_a_disk_that_is_full(report, small, full):
    folder, before = small(48 if full == "cache" else 4)
    settings = [f"--vmports-cache-dir={folder}"]
    if full == "tmp":
        settings, before = ["--basetemp=base"], [*before, "env", f"TMPDIR={folder}"]
    works = full == "cache"
    text = report(
        "8080, setup='nc -lk -p 8080 -e cat &'", outcome={"passed": 1} if works else ERROR,
        settings=settings, before=before,
    )  # fmt: skip
    assert_told(text, "No space left on device", str(folder))
    assert text.count("saved guests are kept for this run only") == works


@pytest.mark.parametrize(
    ("wait_for", "body", "outcome"),
    [
        ("any", "pass", ERROR),
        ("none", "while not vm_with_ports._machine.monitor.disk_full: pass", PASSED_AND_ERROR),
    ],
    ids=["it is waited for", "its test has ended"],
)
@pytest.mark.slow_as("has ended")
def test_a_guest_that_writes_more_to_its_disk_than_the_host_has_room_for(
    report, small, wait_for, body, outcome
):
    """It is paused, and says no word of that."""
    kernel, initrd = find_images()
    script = "b=/bin/busybox; $b mount -t devtmpfs d /dev; $b modprobe virtio_blk; "
    script += "echo writes >/dev/console; $b cat /dev/zero >/dev/vda"
    guest = {
        "path": str(kernel.with_suffix(".qcow2")), "kernel": str(kernel), "initrd": str(initrd),
        "append": f'rdinit=/bin/sh -- -c "{script}"',
    }  # fmt: skip
    folder, before = small(24)
    marker = f"8080, guest=Guest.disk(**{guest!r}), wait_for={wait_for!r}"
    before += ["env", f"TMPDIR={folder}"]
    text = report(marker, body, outcome=outcome, settings=["--basetemp=base"], before=before)
    assert_told(text, "DiskFullError: QEMU has paused the guest", str(folder), "writes")

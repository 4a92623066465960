"""What QEMU itself says of a guest's panic, and the guest's memory as it was then."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from cached import cached
from vm_helpers import until

from pytest_vmports.errors import GuestPanicError
from pytest_vmports.guests.alpine import find_images

PORT = 8080
SETUP = f"nc -lk -p {PORT} -e sh &\n"
PANIC = "echo c >/proc/sysrq-trigger"
DRIVER = ("pvpanic.ko", "pvpanic-mmio.ko")


@pytest.fixture(scope="session")
def driver(missing):
    """Return the driver's files, which the bundled guest's disk has and its initrd has not."""
    debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if debugfs is None:
        missing("debugfs")
    (image,) = find_images()[0].parent.glob("*.qcow2")

    def make(folder: Path) -> None:
        raw = folder / "root.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)

        def ask(request: str) -> str:
            done = subprocess.run(
                [debugfs, "-R", request, raw], check=True, capture_output=True, text=True
            )
            return done.stdout

        release = next(
            fields[5] for line in ask("ls -p /lib/modules").splitlines()
            if len(fields := line.split("/")) > 5 and not fields[5].startswith(".")
        )  # fmt: skip
        modules = f"/lib/modules/{release}/kernel/drivers/misc/pvpanic"
        for name in DRIVER:
            ask(f"dump {modules}/{name}.gz {folder}/{name}.gz")
            (folder / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        raw.unlink()

    facts = image.stat()
    source = f"{image.name} {facts.st_size} {facts.st_mtime_ns} {DRIVER}".encode()
    folder = cached("pvpanic", source, make)
    return {str(folder / name): f"/lib/{name}" for name in DRIVER}


@pytest.fixture
def make(vm_factory):
    """Return a function that makes a VM of these settings, which does what it is told."""

    def made(setup="", **settings):
        return vm_factory(ports=[PORT], setup=SETUP + setup, **settings)

    return made


def tell(vm, command):
    with vm.connect(PORT) as connection:
        connection.sendall(f"{command}\n".encode())


# A kernel that writes to no console of ours, and stays as it is when it has panicked.
UNSEEN = "echo N >/sys/class/tty/ttyS0/console; echo 0 >/proc/sys/kernel/panic"


def test_a_panic_that_no_console_shows_is_told_by_qemu(make, driver):
    setup = "".join(f"insmod /lib/{name}\n" for name in DRIVER)
    told = "the guest's kernel panicked: it told QEMU's device pvpanic, and its console says nothing"
    # Cloned, so that the device and its driver have come through a saved state.
    with pytest.raises(GuestPanicError) as at_the_end, make(setup, files=driver) as vm:
        assert vm.origin == "cloned"
        vm.run(UNSEEN)
        with pytest.raises(GuestPanicError) as waiting:
            vm.run(PANIC, timeout=None)
    for error in (waiting.value, at_the_end.value):
        assert str(error).startswith(told)
        assert "Kernel panic" not in error.console
        assert error.returncode == "nothing yet: it still runs"


DUMPED = """
    import pytest
    from vm_helpers import until

    pytestmark = pytest.mark.vmports({port}, setup={setup!r}, crash_dump=True)

    def tell(vm, command):
        with vm.connect({port}) as connection:
            connection.sendall(command.encode() + b"\\n")

    def test_panics(vm_with_ports):
        tell(vm_with_ports, {panic!r})
        until(lambda: "---[ end" in vm_with_ports.console, 60, lambda: vm_with_ports.console)

    def test_reboots(vm_with_ports):
        vm_with_ports.run("echo -1 >/proc/sys/kernel/panic")
        tell(vm_with_ports, {panic!r})
        until(lambda: "---[ end" in vm_with_ports.console, 60, lambda: vm_with_ports.console)

    def test_says_so(vm_with_ports):
        vm_with_ports.run("echo '<2>BUG: of a test' >/dev/kmsg", check=False)
"""


def test_a_crashed_guests_memory_is_among_the_artifacts(
    pytester, tmp_path, shared_templates, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makepyfile(DUMPED.format(port=PORT, setup=SETUP, panic=PANIC))
    result = pytester.runpytest_subprocess(
        f"--vmports-artifacts={tmp_path}", "-p", "no:xdist", "-p", "no:randomly"
    )
    print(result)
    import os
    os.system(f"find {tmp_path} | xargs ls -la; file {tmp_path}/*/vmcore; cp {tmp_path}/*/vmcore /tmp/crash/")
    assert 0

"""What QEMU itself says of a guest's panic, and the guest's memory as it was then."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from cached import cached

from pytest_vmports.errors import GuestPanicError
from pytest_vmports.guests.alpine import find_images

PORT = 8080
SETUP = f"nc -lk -p {PORT} -e sh &\n"
PANIC = "echo c >/proc/sysrq-trigger"
DRIVERS = ("misc/pvpanic/pvpanic", "misc/pvpanic/pvpanic-mmio", "firmware/qemu_fw_cfg")
NAMES = [Path(driver).name for driver in DRIVERS]
INSMOD = "".join(f"insmod /lib/{name}.ko\n" for name in NAMES)


@pytest.fixture(scope="session")
def drivers(missing):
    """Return the files of drivers, which the bundled guest's disk has and its initrd has not."""
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
        for path, name in zip(DRIVERS, NAMES, strict=True):
            packed = folder / f"{name}.ko.gz"
            ask(f"dump /lib/modules/{release}/kernel/drivers/{path}.ko.gz {packed}")
            (folder / f"{name}.ko").write_bytes(gzip.decompress(packed.read_bytes()))
        raw.unlink()

    facts = image.stat()
    source = f"{image.name} {facts.st_size} {facts.st_mtime_ns} {DRIVERS}".encode()
    folder = cached("pvpanic", source, make)
    return {str(folder / f"{name}.ko"): f"/lib/{name}.ko" for name in NAMES}


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


@pytest.mark.slow
def test_a_panic_that_no_console_shows_is_told_by_qemu(make, drivers):
    told = (
        "the guest's kernel panicked: it told QEMU's device pvpanic, and its console says nothing"
    )
    # Cloned, so that the device and its driver have come through a saved state.
    errors = []

    def use(vm):
        assert vm.origin == "cloned"
        vm.run(UNSEEN)
        with pytest.raises(GuestPanicError) as waiting:
            vm.run(PANIC, timeout=None)
        errors.append(waiting.value)

    with pytest.raises(GuestPanicError) as at_the_end, make(INSMOD, files=drivers) as vm:
        use(vm)
    for error in (*errors, at_the_end.value):
        assert str(error).startswith(told)
        assert "Kernel panic" not in error.console
        assert error.returncode == "nothing yet: it still runs"


DUMPED = """
    import pytest
    from vm_helpers import until

    pytestmark = pytest.mark.vmports({port}, setup={setup!r}, crash_dump=True)

    def panics(vm):
        with vm.connect({port}) as connection:
            connection.sendall(b"{panic}\\n")
        until(lambda: "Kernel panic" in vm.console, 60, lambda: vm.console)

    @pytest.mark.vmports(files={drivers!r}, setup={insmod!r})
    def test_panics(vm_with_ports):
        panics(vm_with_ports)

    def test_goes_on(vm_with_ports):
        vm_with_ports.run("echo '<2>BUG: of a test' >/dev/kmsg", check=False)

    def test_leaves_nothing(vm_with_ports):
        vm_with_ports.run("echo -1 >/proc/sys/kernel/panic")
        qemu = vm_with_ports.pids["QEMU"]
        panics(vm_with_ports)
        from vm_helpers import alive
        until(lambda: not alive(qemu), 60, "QEMU ends")
"""


@pytest.mark.slow
def test_a_crashed_guests_memory_is_among_the_artifacts(
    pytester, tmp_path, shared_templates, monkeypatch, drivers
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    suite = DUMPED.format(
        port=PORT, setup=SETUP, insmod=SETUP + INSMOD, drivers=drivers, panic=PANIC
    )
    pytester.makepyfile(textwrap.dedent(suite))
    result = pytester.runpytest_subprocess(
        f"--vmports-artifacts={tmp_path}", "-p", "no:xdist", "-p", "no:randomly"
    )
    result.assert_outcomes(passed=2, failed=1, errors=3)
    dumps = {path.parent.name.partition("test_")[2]: path for path in tmp_path.glob("*/vmcore")}
    told = {name.rpartition("py-test_")[2][:6]: dump.read_bytes() for name, dump in dumps.items()}
    assert set(told) == {"panics", "goes_o"}
    for dump in told.values():
        assert dump.startswith(b"KDUMP   ")
        assert dump[12:].startswith(b"Linux\0")
        assert len(dump) < 128 << 20  # half of its memory, and much of that is empty
    # With the driver of fw_cfg the guest has told where its kernel lies.
    assert b"OSRELEASE=" in told["panics"] and b"KERNELOFFSET=" in told["panics"]
    text = result.stdout.str()
    assert "VM: the guest's kernel panicked" in text
    assert "QEMU had ended: a kernel that reboots when it panics leaves nothing" in text

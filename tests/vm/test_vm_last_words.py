"""Boots that end short of their goal, by real firmware and kernels: told at once, with a remedy."""

from __future__ import annotations

import subprocess

import pytest
from vm_helpers import serve

from pytest_vmports import Guest
from pytest_vmports.errors import (
    BootFileError,
    FirmwareNotFoundError,
    GuestPanicError,
    GuestStuckError,
)
from pytest_vmports.guests import initramfs
from pytest_vmports.guests.alpine import find_images, least_memory
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.firmware import find_firmware
from pytest_vmports.vm import stillness

# Nobody would wait for it.
LONG = 10_000


@pytest.fixture
def empty(tmp_path, qemu_binary):
    """Return an image with nothing on it, which cannot be told before it is booted."""
    image = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
    return image


def stuck(boot, **settings):
    with (
        pytest.raises(GuestStuckError) as caught,
        boot(8080, boot_timeout=LONG, wait_for="all", **settings),
    ):
        pass
    return caught.value


def test_a_bios_that_finds_nothing_to_boot_ends_the_wait(boot, empty):
    error = stuck(boot, guest=Guest.disk(empty))
    assert error.words == "No bootable device."
    assert "its BIOS found nothing to boot on the disk" in str(error).splitlines()[0]
    assert "Boot failed: not a bootable disk" in error.console


@pytest.mark.slow
def test_a_uefi_that_finds_nothing_to_boot_ends_the_wait(boot, empty, missing):
    try:
        find_firmware(X86_64)
    except FirmwareNotFoundError as error:
        missing("UEFI firmware", str(error))
    error = stuck(boot, guest=Guest.disk(empty, firmware="uefi"))
    assert "its UEFI firmware found nothing to boot on the disk" in str(error).splitlines()[0]


SILENT_SECTORS = {
    "halts": (b"\xfa\xf4", stillness.HALTED),
    "loops": (b"\xeb\xfe", stillness.NO_SYSTEM),
}


@pytest.mark.parametrize(("code", "verdict"), SILENT_SECTORS.values(), ids=SILENT_SECTORS)
def test_a_boot_sector_that_does_nothing_ends_the_wait(boot, tmp_path, monkeypatch, code, verdict):
    image = tmp_path / "disk.img"
    image.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(8 << 20))
    # Only how long that is looked at: what QEMU tells is the same at any time.
    monkeypatch.setattr(stillness, "_SECONDS", 0.3)
    error = stuck(boot, guest=Guest.disk(image))
    assert str(error).splitlines()[0] == f"the guest will not come up: {verdict.means}"
    assert error.words.startswith("Booting from Hard Disk")


@pytest.mark.slow
def test_the_shell_of_an_initrd_ends_the_wait(boot, tmp_path):
    """An init of one's own that gives up as Debian's does."""
    kernel, initrd = find_images()
    init = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo "ALERT!  /dev/vdb1 does not exist.  Dropping to a shell!"
PS1='(initramfs) ' exec /bin/busybox sh -i
"""
    made = tmp_path / "initrd"
    initramfs.append(
        initrd, initramfs.archive([initramfs.file_entry("init", init.encode(), 0o755)]), made
    )
    error = stuck(boot, guest=Guest.kernel(kernel, made))
    assert error.words.startswith("(initramfs)")
    assert "/dev/vdb1 does not exist" in str(error)


def test_an_initrd_without_busybox_is_told_before_or_by_the_panic(boot, tmp_path):
    kernel, _ = find_images()
    content = initramfs.archive([initramfs.file_entry("etc/motd", b"x")], alone=True)
    readable, compressed = tmp_path / "initrd", tmp_path / "initrd.zst"
    readable.write_bytes(content)
    subprocess.run(["zstd", "-q", readable, "-o", compressed], check=True)
    machines = []
    with (
        pytest.raises(BootFileError, match=r"holds no /bin/busybox"),
        boot(guest=Guest.kernel(kernel, readable, setup=""), observe=machines.append),
    ):
        pass
    assert not any(machine.command for machine in machines)
    with (
        pytest.raises(GuestPanicError) as caught,
        boot(guest=Guest.kernel(kernel, compressed, setup=""), boot_timeout=LONG),
    ):
        pass
    assert "our init needs /bin/busybox in the initrd" in str(caught.value).splitlines()[1]


@pytest.mark.parametrize("allow_network", [False, True])
@pytest.mark.slow_as("False")
def test_the_bundled_guest_comes_up_with_the_least_memory_it_is_allowed(
    boot, allow_network, gvproxy_089
):
    settings = {"allow_network": allow_network, "gvproxy": str(gvproxy_089)}
    with boot(8080, memory=least_memory(), setup=serve(8080), **settings) as vm:
        assert vm.run("cat /sys/class/net/eth0/operstate").stdout.strip() in {"up", "unknown"}
        assert vm.run("ip route show default").stdout.strip() or not allow_network

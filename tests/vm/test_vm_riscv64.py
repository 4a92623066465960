"""A guest for riscv64, emulated: its board, our agent, and what its QEMU saves of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import riscv64_guest
from cached import CannotMakeError
from vm_helpers import FROM_TEMPLATE, WIRINGS

from pytest_vmports import Guest
from pytest_vmports.errors import BootFileError, GuestPanicError, MonitorError
from pytest_vmports.system.architecture import RISCV64
from pytest_vmports.system.programs import find_qemu

pytestmark = pytest.mark.slow
SETTINGS = {"qemu": "qemu-system-riscv64", "boot_timeout": 300}
SETUP = "nc -ll -p 8080 -e uname -m &"


@pytest.fixture(scope="session")
def images(missing):
    if lacking := riscv64_guest.missing():
        missing("what makes and runs a riscv64 guest", f"install {', '.join(lacking)}")
    try:
        return riscv64_guest.kernel_and_initrd()
    except CannotMakeError as error:
        missing("a kernel for riscv64", str(error))


@pytest.fixture(scope="session")
def prepared(images):
    return Guest.kernel(*images, memory=256, setup=SETUP)


@pytest.fixture(scope="session")
def saves(images):
    """Whether this QEMU saves all of a guest."""
    return find_qemu(SETTINGS["qemu"]).version >= RISCV64.saved_from


def answers(vm):
    with vm.connect(8080, timeout=60) as connection:
        return connection.recv(100) == b"riscv64\n"


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_riscv64_kernel_boots_and_answers(vm_factory, images, wiring, gvproxy_089):
    guest = Guest.kernel(*images, memory=256)
    with vm_factory(ports=[8080], guest=guest, **SETTINGS, **WIRINGS[wiring]) as vm:
        assert "this is riscv64" in vm.console and answers(vm)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_setup_runs_and_each_vm_sleeps_and_wakes(
    vm_factory, prepared, wiring, saves, tmp_path, gvproxy_089
):
    content = os.urandom(30_000)
    (tmp_path / "in").write_bytes(content)
    for number in range(2):
        with vm_factory(ports=[8080], guest=prepared, **SETTINGS, **WIRINGS[wiring]) as vm:
            assert vm.origin in FROM_TEMPLATE if saves else vm.origin == "booted"
            assert answers(vm)
            done = vm.run("sleep 1; uname -m; echo bad >&2; exit 3", check=False)
            assert (done.returncode, done.stdout, done.stderr) == (3, "riscv64\n", "bad\n")
            vm.put(tmp_path / "in", "/tmp/there")
            vm.get("/tmp/there", tmp_path / f"out{number}")
            assert (tmp_path / f"out{number}").read_bytes() == content


def test_the_page_on_guests_shows_one_that_works(pytester, images):
    page = (Path(__file__).resolve().parents[2] / "docs" / "guests.md").read_text()
    (text,) = re.findall(
        r"^```python\n(# test_riscv64.py\n.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    for path, name in zip(images, ("vmlinux", "initrd.img"), strict=True):
        (pytester.path / name).symlink_to(path)
    pytester.makepyfile(text)
    pytester.runpytest_subprocess("--vmports-boot-timeout=300").assert_outcomes(passed=1)


def test_a_moment_is_gone_back_to_where_qemu_saves_it(vm_factory, prepared, saves):
    with vm_factory(ports=[8080], guest=prepared, **SETTINGS) as vm:
        if not saves:
            with pytest.raises(MonitorError, match="does not save the timers"):
                vm.snapshot()
            assert answers(vm)
            return
        moment = vm.snapshot()
        vm.run("touch /late")
        vm.restore(moment)
        assert vm.run("sleep 1; ls /late", check=False).returncode == 1 and answers(vm)


def test_a_panic_is_told(vm_factory, prepared):
    with (
        pytest.raises(GuestPanicError, match="sysrq"),
        vm_factory(ports=[8080], guest=prepared, **SETTINGS) as vm,
    ):
        vm.run("echo c >/proc/sysrq-trigger", timeout=60)


def test_a_kernel_of_another_architecture_is_refused(vm_factory, images):
    kernel, initrd = images
    guest = Guest.kernel(kernel, initrd, memory=256)
    with (
        pytest.raises(BootFileError, match="a Linux kernel for RISC-V"),
        vm_factory(ports=[8080], guest=guest),
    ):
        pass

"""A guest of another architecture, emulated: the machine type, console and card of arm64."""

from __future__ import annotations

import arm64_guest
import pytest
from vm_helpers import WIRINGS

from pytest_vmports import Guest


@pytest.fixture(scope="session")
def arm64(missing):
    if lacking := arm64_guest.missing():
        missing("what makes and runs an arm64 guest", f"install {', '.join(lacking)}")
    kernel, initrd = arm64_guest.kernel_and_initrd()
    return Guest.kernel(kernel, initrd, memory=512)


@pytest.mark.slow
@pytest.mark.parametrize("wiring", WIRINGS)
def test_an_arm64_kernel_boots_and_answers(vm_factory, arm64, wiring, gvproxy_089):
    settings = {"qemu": "qemu-system-aarch64", "boot_timeout": 600, **WIRINGS[wiring]}
    with vm_factory(ports=[8080], guest=arm64, **settings) as vm:
        assert "-machine virt" in vm.command_line
        assert "this is aarch64" in vm.console
        with vm.connect(8080, timeout=60) as connection:
            assert connection.recv(100) == b"aarch64\n"

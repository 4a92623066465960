"""Hardware that a test asks for, as a real guest sees it."""

from __future__ import annotations

import pytest
from vm_helpers import FROM_TEMPLATE, GUEST, ask_tcp

from pytest_vmports import Guest
from pytest_vmports.errors import SettingError


def test_a_processor_that_was_asked_for_is_the_clones_too(vm_factory):
    wanted = {"ports": [8080], "setup": GUEST, "cpu": "qemu64,+avx"}
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        about = vm.run("cat /proc/cpuinfo").stdout
        (flags,) = [line.split() for line in about.splitlines() if line.startswith("flags")]
        assert "avx" in flags and "avx2" not in flags
        assert "QEMU Virtual CPU" in about


def test_a_processor_that_this_qemu_lacks_costs_no_boot_and_others_are_named(vm_factory):
    with (
        pytest.raises(SettingError, match=r"cpu = 'pentium9'.*unable to find CPU.*max, qemu64"),
        vm_factory(ports=[8080], setup=GUEST, accel="tcg", cpu="pentium9"),
    ):
        pass


def test_a_board_that_was_asked_for_has_all_that_ours_has(vm_factory, tmp_path):
    """A template, two cards, a disk, the window, and an end by the guest's own word."""
    wanted = {
        "ports": [8080], "guest": Guest.alpine_disk(setup=GUEST), "machine": "q35",
        "host_ports": {8000: 9},
    }  # fmt: skip
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        assert vm.run("ls /sys/class/net").stdout.split() == ["eth0", "eth1", "lo"]
        assert "Q35" in vm.run("cat /sys/class/dmi/id/product_name").stdout
        assert vm._machine.kind._link._control.window.seen
        (tmp_path / "f").write_text("here")
        vm.put(tmp_path / "f", "/root/f")
        assert vm.run("cat /root/f").stdout == "here"
        vm.shutdown()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"machine": "virt"}, r"guests for x86_64 are given pc, q35, microvm"),
        ({"machine": "microvm", "display": True}, r"it has no graphics card, and display = yes"),
        ({"machine": "microvm", "accel": "tcg"}, r"that is emulated.*use KVM or HVF, or pc"),
    ],
)
def test_a_board_that_cannot_be_had_costs_no_boot(vm_factory, wanted, why):
    with (
        pytest.raises(SettingError, match=f"machine = '{wanted['machine']}' is not .*{why}"),
        vm_factory(ports=[8080], setup=GUEST, **wanted),
    ):
        pass

"""Hardware that a test asks for, as a real guest sees it."""

from __future__ import annotations

import pytest
from vm_helpers import FROM_TEMPLATE, GUEST

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

"""Clones of guests whose clock nothing sets: they are had where that is wanted, and say so."""

from __future__ import annotations

import dataclasses
import time
from functools import partial

import pytest
from vm_helpers import ask_shell

from pytest_vmports import Guest
from pytest_vmports.constants import GUEST_IP
from pytest_vmports.guests import initramfs
from pytest_vmports.guests.alpine import find_images

PORT = 7777
INIT = f"""\
#!/bin/busybox sh
bb=/bin/busybox
for one in proc:proc sysfs:sys devtmpfs:dev; do $bb mount -t ${{one%:*}} none /${{one#*:}}; done
$bb --install -s
modprobe -qa virtio_pci virtio_net
ip link set lo up
ip link set eth0 up
ip addr add {GUEST_IP}/24 dev eth0
echo an init of its own >/dev/console
nc -lk -p {PORT} -e sh &
while :; do sleep 1000; done
"""


@pytest.fixture(scope="module")
def own_init(tmp_path_factory, qemu_binary):
    """Return a guest that boots an init of its own, which serves a shell."""
    kernel, initrd = find_images()
    made = tmp_path_factory.mktemp("own") / "initrd"
    entry = initramfs.file_entry("init", INIT.encode(), 0o755)
    initramfs.append(initrd, initramfs.archive([entry]), made)
    return Guest.kernel(kernel, made)


def tell(vm, command):
    with vm.connect(PORT) as connection:
        connection.sendall(f"{command}\n".encode())


def told(lines):
    """Return what was told beside how far things are."""
    return [line for line in lines if " s so far: " not in line]


def assert_behind(vm, seconds, command="date +%s", *, late=2):
    """Fail when the guest's clock is not by so much behind, whenever it was looked at."""
    before = time.time()
    told = float(ask_shell(vm, command, timeout=240))
    assert before - late <= told + seconds <= time.time() + 1


def test_an_init_of_its_own_is_cloned_and_kept_ready_and_its_clock_is_told(
    boot_and_lines, own_init
):
    boot, lines = boot_and_lines
    for fresh in (False, False, True):
        wanted = {"template": "always", "on_reboot": "allow", "guest": own_init}
        with boot(PORT, fresh_boot=fresh, **wanted) as vm:
            assert vm.origin == ("booted" if fresh else "cloned")
            assert (vm.clock_behind > 0) is not fresh
            assert_behind(vm, vm.clock_behind)
            # Its board's clock goes by the host's.
            assert_behind(vm, 0, "hwclock -s; date +%s")
    (line,) = told(lines)
    assert "clones of" in line and "nothing would set a restored clock" in line


@pytest.mark.slow
def test_how_far_a_clock_is_behind_adds_up_over_restores_and_a_reboot_ends_it(vm_factory, own_init):
    wanted = {"template": "always", "on_reboot": "allow", "guest": own_init}
    with vm_factory(ports=[PORT], **wanted) as vm:
        moment = vm.snapshot()
        assert 0 < moment.clock_behind == vm.clock_behind
        vm.restore(dataclasses.replace(moment, saved_at=moment.saved_at - 1000))
        assert vm.clock_behind > 1000 + moment.clock_behind
        vm.reboot(partial(tell, vm, "reboot -f"))
        assert (vm.clock_behind, vm.reboots) == (0, 1)
        # It is ready, and no connection of before has told so.
        assert vm.console.count("an init of its own") == 2
        # It reads whole seconds when it boots, and loses some more where the host lets it wait.
        assert_behind(vm, 0, late=10)


def test_without_that_it_boots_from_cold_and_the_line_names_the_way(boot_and_lines, own_init):
    boot, lines = boot_and_lines
    with boot(PORT, fresh_boot=False, guest=own_init) as vm:
        assert (vm.origin, vm.clock_behind) == ("booted", 0)
    (line,) = told(lines)
    assert "boots from cold" in line and "template = always" in line

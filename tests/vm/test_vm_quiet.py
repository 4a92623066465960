"""What QEMU says of our command lines and commands: nothing, with any wiring and in any life."""

from __future__ import annotations

import contextlib

import pytest
from vm_helpers import GUEST, WIRINGS, complaints

from pytest_vmports import Guest
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.pool.pool import open_pool
from pytest_vmports.settings import options
from pytest_vmports.vm import monitor

# What differs in QEMU's command line, all of it at once.
SETTINGS = {"setup": GUEST, "pcap": True, "display": True, "host_ports": {80: 9}}


@pytest.fixture(scope="module", params=["none", "usernet", "relay", "gvproxy_081", "gvproxy_089"])
def wanted(request, qemu_binary):
    """Return the settings of each wiring in turn."""
    ports = {"none": [], "relay": [8080, "53/udp"]}.get(request.param, [8080])
    wired = {**SETTINGS, "expose": ports}
    if request.param.startswith("gvproxy"):
        binary = str(request.getfixturevalue(request.param))
        wired.update(allow_network=True, gvproxy=binary)
    return options.resolve(request.config, wired, "the test")


@pytest.mark.slow_as("081")
def test_qemu_has_nothing_to_say_of_a_template_a_clone_a_standby_and_a_snapshot(
    vmports_pool, wanted
):
    machines, origins = [], []
    for following in ([wanted], []):
        with vmports_pool.vm(wanted, observe=machines.append, following=following) as vm:
            origins.append(vm.origin)
            moment = vm.snapshot()
            vm.restore(moment)
            origins.append(vm.origin)
    assert origins == ["cloned", "restored", "standby", "restored"]
    assert [complaints(machine) for machine in machines] == [[]] * len(machines)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_qemu_has_nothing_to_say_of_a_disk(vm_factory, wiring, qemu_binary, gvproxy_089):
    kernel, _ = find_images()
    guest = Guest.disk(
        kernel.with_suffix(".qcow2"), kernel=kernel, initrd=kernel.with_suffix(".initrd"),
        memory=512, append="root=/dev/vda rw rootflags=rw rootfstype=ext4",
    )  # fmt: skip
    with vm_factory(ports=[8080], guest=guest, wait_for="none", **WIRINGS[wiring]) as vm:
        vm.snapshot()
        assert complaints(vm._machine) == []


@pytest.mark.parametrize("saved", [False, True], ids=["to save first", "to load first"])
@pytest.mark.parametrize("first_with_file", [(0, 0), (99, 0)], ids=["file first", "fd first"])
@pytest.mark.slow_as("file first-to load")
def test_a_way_to_a_file_that_this_qemu_refuses_is_followed_by_the_other(
    vmports_pool, vmports_allocator, request, monkeypatch, tmp_path, first_with_file, saved
):
    """Faked: what we believe of QEMU's version. Each QEMU refuses or deprecates one of the two."""
    asked = {"expose": [], "pcap": True, "setup": "touch /root/saved"}
    settings = options.resolve(request.config, asked, "the test")
    if saved:
        with vmports_pool.vm(settings):
            pass
    monkeypatch.setattr(monitor, "_FIRST_WITH_FILE", first_with_file)
    monkeypatch.setattr(monitor, "_learned", {})
    with contextlib.ExitStack() as stack:
        pool = vmports_pool
        if not saved:  # into a cache that is empty
            root = request.config.rootpath
            opened = open_pool(vmports_allocator, root=root, tell=print, cache_dir=tmp_path)
            pool = stack.enter_context(opened)
        vm = stack.enter_context(pool.vm(settings))
        assert vm.origin == "cloned"
        moment = vm.snapshot()
        vm.run("rm /root/saved")
        vm.restore(moment)
        assert vm.run("ls /root").stdout == "saved\n"

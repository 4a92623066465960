"""The end of a VM: whatever the host lacks, it ends, and nothing of it is left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import warnings

import pytest
from vm_helpers import alive, unstarted

from pytest_vmports.errors import LostEvidenceWarning, MachineError
from pytest_vmports.pool.handle import VM
from pytest_vmports.settings import options
from pytest_vmports.vm import files as files_module
from pytest_vmports.vm import machine as machine_module
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.crash_dump import CrashDump
from pytest_vmports.vm.monitor import Monitor

LACKS = (errno.EMFILE, errno.ENOSPC, errno.EACCES)


@pytest.fixture
def vm(vmports_pool, request, qemu_binary, gvproxy_089):
    """Return a VM that boots; nobody waits for it."""
    keywords = {"gvproxy": str(gvproxy_089), "allow_network": True, "expose": [8080]}
    settings = options.resolve(request.config, keywords, "the test")
    exposed = vmports_pool.lease(settings.expose, settings)
    machine = unstarted(vmports_pool, settings, exposed)
    try:
        machine.start(exposed.pass_fds)
        exposed.release_guards()
        yield VM(machine, exposed, lambda mappings: vmports_pool.lease(mappings, settings))
    finally:
        machine.stop()
        exposed.release()


def gone(vm, pids):
    """Whether nothing is left of a VM."""
    machine = vm._machine
    left = [pid for pid in pids if alive(pid)]
    return not left and not machine.workdir.exists() and not vm._added


# What is replaced by a fake that lacks something, and whether the test is told by an error.
STEPS = {
    "looking at the console": (Console, "_look", True),
    "asking gvproxy": ("wiring", "look_for_opened", True),
    "writing the dump": (CrashDump, "take", True),
    "hanging up on QEMU": (Monitor, "close", True),
    "hanging up on the guest": ("kind", "close", True),
    "ending the network": ("wiring", "_remove_sockets", True),
    "removing the overlay": (machine_module, "remove_overlay", True),
    "keeping the console": (Console, "keep", False),
    "keeping the files": (files_module.Files, "keep", False),
}


@pytest.mark.parametrize("number", range(len(STEPS)), ids=STEPS)
def test_a_step_that_lacks_something_keeps_no_other_from_being_taken(vm, monkeypatch, number):
    place, name, told = list(STEPS.values())[number]
    machine, lack = vm._machine, LACKS[number % len(LACKS)]
    wholes = {"wiring": type(machine.cards.first), "kind": type(machine.kind)}
    pids = list(vm.pids.values())
    vm.expose(9090)

    def lacks(*_words, **_more):
        raise OSError(lack, "of a test")

    monkeypatch.setattr(wholes.get(place, place), name, lacks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if told:
            with pytest.raises((OSError, MachineError), match="of a test"):
                vm.end()
        else:
            vm.end()
    lost = [str(one.message) for one in caught if one.category is LostEvidenceWarning]
    assert told or ["of a test" in one for one in lost] == [True]
    monkeypatch.undo()
    assert gone(vm, pids)


def test_without_a_free_descriptor_a_vm_ends(vm, few_descriptors):
    """The real thing: no file can be opened when the end begins."""
    pids = list(vm.pids.values())
    vm._machine.console.path.write_text("[    1.0] what nobody has read\n")
    few_descriptors()
    with pytest.raises(MachineError, match="whether the guest has crashed is not known"):
        vm.end()
    assert gone(vm, pids)


@pytest.fixture
def few_descriptors():
    """Return a function that leaves no descriptor free."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []

    def take():
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))), limits[1])
        )
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))

    yield take
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)

"""A TPM 2.0 with real VMs: it is the guest's own, and saved with it."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from vm_helpers import FROM_TEMPLATE, until

from pytest_vmports.errors import MachineDiedError, SwtpmNotFoundError
from pytest_vmports.system import swtpm as finding

GUEST = "nc -lk -p 8080 -e cat &"
# Vendor and device, of swtpm; read by QEMU, for the bundled kernel has no driver.
# Source: TCG PC Client Platform TPM Profile, TPM_DID_VID.
LOOK = "xp /1xw 0xfed40f00"
SEEN = "00000000fed40f00: 0x00011014"


def look(vm):
    return vm._machine.monitor.hmp(LOOK).strip()


def test_a_guest_has_one_and_is_cloned_with_it(vm_factory, swtpm):
    for _ in range(2):
        with vm_factory(ports=[8080], setup=GUEST, tpm=True) as vm:
            assert vm.origin in FROM_TEMPLATE
            assert vm.run("ls /sys/firmware/acpi/tables/TPM2").stdout.endswith("TPM2\n")
            assert look(vm) == SEEN
            moment = vm.snapshot()
            vm.restore(moment)
            assert look(vm) == SEEN
    with vm_factory(ports=[8080], setup=GUEST) as vm:
        assert vm.run("ls /sys/firmware/acpi/tables/TPM2", check=False).returncode


def test_a_vm_whose_tpm_has_ended_fails_its_test(vm_factory, swtpm):
    def loses_it():
        with vm_factory(ports=[8080], setup=GUEST, tpm=True) as vm:
            os.kill(vm.pids["swtpm"], signal.SIGKILL)
            until(lambda: not vm._machine.lives, 30, "its end")

    with pytest.raises(MachineDiedError, match="swtpm ended on its own with signal 9"):
        loses_it()


def test_nothing_of_it_is_left(vm_factory, swtpm):
    with vm_factory(ports=[8080], setup=GUEST, tpm=True) as vm:
        pid = vm.pids["swtpm"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_where_there_is_none_it_is_said_how_to_get_it(vm_factory, monkeypatch):
    finding.find_swtpm.cache_clear()
    monkeypatch.setattr(finding, "surroundings", SimpleNamespace(which=lambda _: None))
    with (
        pytest.raises(SwtpmNotFoundError, match="not on PATH; install it"),
        vm_factory(ports=[8080], setup=GUEST, tpm=True),
    ):
        pass


# TPM2_PCR_Extend of PCR 16 with 32 bytes of 1, and TPM2_PCR_Read of it. Source: TPM 2.0 Library, 3.
EXTEND = "80020000004100000182000000100000000940000009000000000000000001000b" + "01" * 32
READ = "800100000014" + "0000017e" + "00000001000b03000001"
ASK = (
    "import os, sys; f = os.open('/dev/tpm0', os.O_RDWR); os.write(f, bytes.fromhex(sys.argv[1])); "
    "print(os.read(f, 4096).hex())"
)


@pytest.mark.slow
def test_what_a_guest_measures_is_its_own_and_a_clone_has_what_was_saved(
    vm_factory, debian_guest, swtpm
):
    def ask(vm, command):
        return vm.run(f'python3 -c "{ASK}" {command}').stdout.strip()

    settings = {"ports": [80], "guest": debian_guest, "boot_timeout": 900, "tpm": True}
    seen = []
    for _ in range(2):
        with vm_factory(**settings) as vm:
            assert vm.origin in FROM_TEMPLATE
            before = ask(vm, READ)[-64:]
            assert ask(vm, EXTEND)[12:20] == "00000000"
            after = ask(vm, READ)[-64:]
            moment = vm.snapshot()
            assert ask(vm, EXTEND)[12:20] == "00000000"
            vm.restore(moment)
            assert before != after == ask(vm, READ)[-64:]
            seen.append((before, after))
    assert seen[0] == seen[1]

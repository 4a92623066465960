import os

import pytest

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"
pytestmark = pytest.mark.vmports(8080, setup=SETUP)
pids = []


@pytest.mark.timeout(10, func_only=True)
def test_hangs(vm_with_ports):
    pids.extend(vm_with_ports.pids.values())
    vm_with_ports.run("sleep 10000", timeout=10000)


def test_its_vm_is_gone():
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

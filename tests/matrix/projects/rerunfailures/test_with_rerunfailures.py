from pathlib import Path

import pytest

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"
pytestmark = pytest.mark.vmports(8080, setup=SETUP)


def test_flaky(vm_with_ports):
    assert vm_with_ports.run("ls /tmp/seen", check=False).returncode != 0, "not a fresh VM"
    vm_with_ports.run("touch /tmp/seen")
    first = not Path("tried").exists()
    Path("tried").touch()
    assert not first


def test_always_fails(vm_with_ports):
    assert vm_with_ports.run("ls /tmp/seen", check=False).returncode != 0, "not a fresh VM"
    vm_with_ports.run("touch /tmp/seen")
    assert vm_with_ports.run("echo one").stdout == "two\n"

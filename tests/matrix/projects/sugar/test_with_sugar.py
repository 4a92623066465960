import pytest

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"


@pytest.mark.vmports(8080, setup=SETUP, fresh_boot=True)
def test_boots_for_long(vm_with_ports):
    assert vm_with_ports.run("echo one").stdout == "one\n"


@pytest.mark.vmports(8080, setup=SETUP)
def test_fails(vm_with_ports):
    assert vm_with_ports.run("echo one").stdout == "two\n"

import allure
import pytest

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"
pytestmark = pytest.mark.vmports(8080, setup=SETUP)


@allure.title("a command in a VM")
def test_fails(vm_with_ports):
    with allure.step("run it"):
        assert vm_with_ports.run("echo one").stdout == "two\n"


def test_passes(vm_with_ports):
    assert vm_with_ports.run("echo one").stdout == "one\n"

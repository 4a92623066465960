import random

import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")


@pytest.mark.parametrize("number", range(4))
def test_any_order(vm_with_ports, free_port_factory, number):
    ports = [free_port_factory() for _ in range(5)]
    random.seed(1)  # as all workers' seeds are the same
    ports += [free_port_factory() for _ in range(5)]
    assert len({*ports, vm_with_ports[8080].external}) == 11
    assert vm_with_ports.run("ls /tmp/seen", check=False).returncode != 0
    vm_with_ports.run("touch /tmp/seen")

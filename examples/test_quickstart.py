"""The example of the README."""

import pytest

from pytest_vmports import PortMapping


@pytest.mark.vmports(
    8080,
    PortMapping(internal=53, protocol="udp"),
    "15432:5432",
    setup="nc -lk -p 8080 -e cat &",
)
def test_echo(vm_with_ports):
    with vm_with_ports.connect(8080) as s:  # socket to the forwarded port
        s.sendall(b"hi\n")
        assert s.recv(16) == b"hi\n"
    assert vm_with_ports[8080].url.startswith("http://127.0.0.1:")
    assert vm_with_ports[5432].external == 15432


@pytest.mark.vmports(8080)
def test_my_own_launcher(exposed_ports):  # ports only: no VM is started
    netdev = exposed_ports.qemu_args()[1]
    assert f"hostfwd=tcp:127.0.0.1:{exposed_ports[8080].external}-" in netdev
    forwards = exposed_ports.gvproxy_config()["stack"]["forwards"]
    assert forwards == {f"127.0.0.1:{exposed_ports[8080].external}": "192.168.127.2:8080"}


@pytest.mark.vmports(8080, allow_network=True, setup="nc -lk -p 8080 -e cat &")
def test_online(vm_with_ports):  # gvproxy wires this one
    assert vm_with_ports.wiring == "gvproxy"
    with vm_with_ports.connect(8080) as s:
        s.sendall(b"hi\n")
        assert s.recv(16) == b"hi\n"

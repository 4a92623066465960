import socket

import pytest
import pytest_socket

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")


def reaches(vm):
    with vm.connect(8080) as connection:
        connection.sendall(b"word")
        assert connection.recv(4) == b"word"
    assert vm.run("echo one").stdout == "one\n"
    # TEST-NET-1, which is nobody's; it is not asked for.
    with socket.socket() as stranger, pytest.raises(pytest_socket.SocketConnectBlockedError):
        stranger.connect(("192.0.2.1", 80))


def test_reaches_a_vm(vm_with_ports):
    reaches(vm_with_ports)


@pytest.mark.vmports(allow_network=True)
def test_reaches_a_vm_with_gvproxy(vm_with_ports):
    reaches(vm_with_ports)


def test_without_sockets(vm_with_ports):
    assert vm_with_ports.run("echo one").stdout == "one\n"
    with pytest.raises(pytest_socket.SocketBlockedError):
        vm_with_ports.connect(8080)

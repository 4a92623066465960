import socket

import pytest
import pytest_socket

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")


@pytest.mark.parametrize("allow_network", [False, True])
def test_vm(request, allow_network):
    request.node.add_marker(pytest.mark.vmports(allow_network=allow_network))
    vm = request.getfixturevalue("vm_with_ports")
    with vm.connect(8080) as connection:
        connection.sendall(b"word")
        assert connection.recv(4) == b"word"
    assert vm.run("echo one").stdout == "one\n"
    # TEST-NET-1, which is nobody's; it is not asked for.
    with socket.socket() as stranger, pytest.raises(pytest_socket.SocketConnectBlockedError):
        stranger.connect(("192.0.2.1", 80))

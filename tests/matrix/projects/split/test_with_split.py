import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")


@pytest.mark.parametrize("number", range(4))
def test_part(vm_with_ports, number):
    with vm_with_ports.connect(8080) as connection:
        connection.sendall(b"word")
        assert connection.recv(4) == b"word"

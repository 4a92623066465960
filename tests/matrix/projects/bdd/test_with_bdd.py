import pytest
from pytest_bdd import given, parsers, scenario, then, when


@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
@scenario("echo.feature", "what is sent comes back")
def test_echo():
    pass


@given("a VM that echoes", target_fixture="connection")
def _(vm_with_ports):
    with vm_with_ports.connect(8080) as connection:
        yield connection


@when(parsers.parse("I send {word}"))
def _(connection, word):
    connection.sendall(word.encode())


@then(parsers.parse("{word} comes back"))
def _(connection, word):
    assert connection.recv(len(word)) == word.encode()

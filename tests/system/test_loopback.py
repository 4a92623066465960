"""A machine whose loopback is down is told so before anything boots."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from pytest_vmports.system.loopback import refuse_without

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
SUITE = """
import pytest

@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
def test_vm(vm_with_ports):
    pass

@pytest.mark.vmports(8080)
def test_ports(exposed_ports):
    pass

def test_factory(vm_factory):
    with vm_factory([8080], setup="nc -lk -p 8080 -e cat &"):
        pass

def test_without_ports(exposed_ports):
    pass
"""


@pytest.fixture
def namespace():
    """Return what runs a command in a network namespace whose loopback is down."""
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces can be made here: {error}")
    return UNSHARE


def test_a_loopback_that_is_down_is_one_clear_error_wherever_ports_are_asked_for(
    pytester, namespace, qemu_binary
):
    pytester.makepyfile(SUITE)
    result = pytester.run(
        *namespace, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"
    )
    result.assert_outcomes(errors=2, failed=1, passed=1)
    errors = [line for line in result.outlines if line.startswith("E ") and "HostError" in line]
    assert len(errors) == 3
    for error in errors:
        assert "the loopback interface lo is down here, so nobody can reach a forward on" in error
        assert "run `ip link set lo up` in this network namespace" in error


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "192.0.2.7", "a.name"])
def test_a_machine_whose_loopback_is_up_is_not_refused(host):
    refuse_without(host)


def test_nothing_else_that_goes_wrong_is_taken_for_it(monkeypatch):
    class Refuses(socket.socket):
        def connect(self, address):
            raise PermissionError

    monkeypatch.setattr(socket, "socket", Refuses)
    refuse_without("127.0.0.1")

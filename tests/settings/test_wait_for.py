"""What has to answer before a VM is ready."""

from __future__ import annotations

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.settings.wait_for import WaitFor

EXPOSED = [
    ExposedPort(internal=80, external=20001),
    ExposedPort(internal=53, external=20002, protocol="udp"),
    ExposedPort(internal=443, external=20003),
    ExposedPort(internal=80, external=20004, protocol="udp"),
]


@pytest.mark.parametrize(
    ("wait_for", "ports", "said"),
    [
        (WaitFor(), [80, 443], "any one forwarded TCP port"),
        (WaitFor("all"), [80, 443], "all forwarded TCP ports"),
        (WaitFor("none"), [], "nothing"),
        (WaitFor("ports", (80,)), [80], "port 80"),
        (WaitFor("ports", (80, 443, 8080)), [80, 443], "port 80, 443, 8080"),
        (WaitFor("http", (443,), "/up"), [443], "an answer to GET /up on port 443"),
    ],
    ids=str,
)
def test_only_the_tcp_ports_that_are_waited_for_are_asked(wait_for, ports, said):
    asked = wait_for.candidates(EXPOSED)
    assert [port.internal for port in asked] == ports
    assert {port.protocol for port in asked} <= {"tcp"}
    assert str(wait_for) == said

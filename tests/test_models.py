"""PortMapping and ExposedPort: what they accept, and what they say."""

import pytest
from pydantic import ValidationError

from pytest_vmports import ExposedPort, PortMapping


@pytest.mark.parametrize("internal", [1, 80, 65535])
def test_every_guest_port_can_be_mapped(internal):
    assert PortMapping(internal=internal).internal == internal


@pytest.mark.parametrize("internal", [0, -1, 65536, "80", 80.0, True, None])
def test_what_is_no_guest_port_is_refused(internal):
    with pytest.raises(ValidationError, match="internal"):
        PortMapping(internal=internal)


@pytest.mark.parametrize("external", [1024, 3000, 65535, None])
def test_unprivileged_host_ports_can_be_asked_for(external):
    assert PortMapping(internal=80, external=external).external == external


@pytest.mark.parametrize("external", [0, 80, 1023, 65536, "3000", True])
def test_what_is_no_unprivileged_host_port_is_refused(external):
    with pytest.raises(ValidationError, match="external"):
        PortMapping(internal=80, external=external)


@pytest.mark.parametrize("protocol", ["sctp", "TCP", "", None])
def test_only_tcp_and_udp_are_protocols(protocol):
    with pytest.raises(ValidationError, match="protocol"):
        PortMapping(internal=80, protocol=protocol)


def test_a_mapping_is_tcp_on_any_host_port_unless_told_otherwise():
    assert PortMapping(internal=80) == PortMapping(internal=80, external=None, protocol="tcp")


def test_a_refusal_is_a_value_error():
    with pytest.raises(ValueError, match="internal"):
        PortMapping(internal=0)


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValidationError, match="port"):
        PortMapping(internal=80, port=80)
    with pytest.raises(ValidationError, match="bind"):
        ExposedPort(internal=80, external=20000, bind="::")


@pytest.mark.parametrize(
    "port", [PortMapping(internal=80), ExposedPort(internal=80, external=2000)]
)
def test_a_port_is_a_value_that_cannot_change(port):
    with pytest.raises(ValidationError, match="frozen"):
        port.internal = 81
    assert {port: "a key"}[port.model_copy()] == "a key"


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (PortMapping(internal=80), "80/tcp"),
        (PortMapping(internal=53, protocol="udp"), "53/udp"),
        (PortMapping(internal=80, external=3000), "3000:80/tcp"),
    ],
)
def test_a_mapping_reads_as_docker_writes_it(mapping, text):
    assert str(mapping) == text


def test_an_exposed_tcp_port_has_an_http_url_and_an_address():
    port = ExposedPort(internal=8080, external=20417)
    assert port.url == "http://127.0.0.1:20417"
    assert port.address == ("127.0.0.1", 20417)
    assert str(port) == "127.0.0.1:20417 -> 8080/tcp"


def test_an_exposed_udp_port_has_a_udp_url_on_its_own_host():
    port = ExposedPort(internal=53, external=20053, host="127.0.0.2", protocol="udp")
    assert port.url == "udp://127.0.0.2:20053"
    assert port.address == ("127.0.0.2", 20053)


def test_an_exposed_port_without_a_host_port_is_refused():
    with pytest.raises(ValidationError, match="external"):
        ExposedPort(internal=80)

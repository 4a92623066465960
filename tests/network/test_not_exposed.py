"""A guest port that is looked up and was not declared: what is said."""

from __future__ import annotations

import re

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.errors import NotExposedError, VmPortsError
from pytest_vmports.network.exposed import BY_CALL, find_port

PORTS = (
    ExposedPort(internal=80, external=20001),
    ExposedPort(internal=53, external=20002, protocol="udp"),
)


def test_it_is_an_error_of_ours_and_still_a_key_error():
    with pytest.raises(KeyError) as caught:
        find_port(PORTS, 8080)
    assert isinstance(caught.value, VmPortsError)
    assert str(caught.value).startswith(
        "guest port 8080 is not exposed; exposed are: 80/tcp, 53/udp; declare it by the test's "
        "marker: @pytest.mark.vmports(8080)"
    )


@pytest.mark.parametrize(
    ("ports", "wanted", "said"),
    [
        ((), 80, "exposed are: none; declare it by the test's marker: @pytest.mark.vmports(80)"),
        (
            PORTS,
            "53/tcp",
            "exposed are: 80/tcp, 53/udp; declare it by the test's marker: @pytest.m",
        ),
        (PORTS, "67/udp", "@pytest.mark.vmports('67/udp')"),
        (PORTS, 20002, "20002 is the host's port, of guest port 53: look that up"),
        (PORTS, 0, "look up a guest port, as 8080 or '53/udp'"),
        (PORTS, "http", "look up a guest port, as 8080 or '53/udp'"),
        (PORTS, None, "look up a guest port, as 8080 or '53/udp'"),
    ],
)
def test_what_to_do_depends_on_what_was_looked_up(ports, wanted, said):
    with pytest.raises(NotExposedError) as caught:
        find_port(ports, wanted)
    assert said in str(caught.value)


def test_who_calls_for_a_vm_is_not_told_of_markers():
    with pytest.raises(NotExposedError) as caught:
        find_port(PORTS, 8080, BY_CALL)
    assert "vm_factory(ports=[8080])" in str(caught.value)
    assert "marker" not in str(caught.value)


MARKERS = {
    "": "vmports(80) [",
    "@pytest.mark.slow": "vmports(80) [",
    "@pytest.mark.vmport(80)": "vmports(80), not @pytest.mark.vmport [",
    "@pytest.mark.vm_ports(80)": "vmports(80), not @pytest.mark.vm_ports [",
    "@pytest.mark.VMPorts(80)": "vmports(80), not @pytest.mark.VMPorts [",
    "@pytest.mark.vmprots(80)": "vmports(80), not @pytest.mark.vmprots [",
    "@pytest.mark.ports(80)": "vmports(80), not @pytest.mark.ports [",
}


def test_a_marker_that_is_missing_or_misspelt_is_named(pytester):
    tests = (
        f"{marker}\ndef test_{number}(exposed_ports):\n    exposed_ports[80]\n"
        for number, marker in enumerate(MARKERS)
    )
    pytester.makepyfile("\n".join(["import pytest\n", *tests]))
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-W", "ignore", "--tb=line", "-rN")
    result.assert_outcomes(failed=len(MARKERS))
    errors = [
        line for line in result.outlines if re.match(r"E .*NotExposedError: guest port 80 is", line)
    ]
    for error, said in zip(errors, MARKERS.values(), strict=True):
        assert f"exposed are: none; declare it by the test's marker: @pytest.mark.{said}" in error

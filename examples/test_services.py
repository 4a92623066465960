"""Several services of one guest: HTTP, UDP, files from the host."""

import urllib.request
from pathlib import Path

import pytest

pytestmark = [
    # Relative paths are relative to pytest's rootdir; this one works from anywhere.
    pytest.mark.vmports(setup=str(Path(__file__).parent / "hello.sh")),
    pytest.mark.vmports(8080, "5353/udp", wait_for="8080/health"),
]


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param("usernet", marks=pytest.mark.vmports(allow_network=False)),
        pytest.param("gvproxy", marks=pytest.mark.vmports(allow_network=True)),
    ],
)
def test_both_wirings_serve_http_and_udp(vm_with_ports, wiring):
    vm = vm_with_ports
    assert vm.wiring == wiring
    with urllib.request.urlopen(vm[8080].url + "/hello", timeout=10) as page:
        assert page.read() == b"you asked: GET /hello HTTP/1.1\r"
    with vm.connect(5353, protocol="udp") as s:
        s.send(b"quiet\n")
        assert s.recv(64) == b"QUIET\n"


@pytest.mark.vmports("18080:8080")
def test_a_fixed_host_port_is_waited_for_and_kept(vm_with_ports):
    with urllib.request.urlopen("http://127.0.0.1:18080/", timeout=10) as page:
        assert page.status == 200
    assert len(vm_with_ports) == 3  # 8080 twice: one host port of our choice, one fixed

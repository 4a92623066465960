"""A distribution's image by its name, and a container image of a distribution's service."""

from __future__ import annotations

import urllib.request

import image_server
import pytest
from container_images import layer, layout, link
from image_server import DEBIAN_FILE, DEBIAN_FOLDER
from vm_helpers import FROM_TEMPLATE, until

from pytest_vmports import Guest

SUITE = """
import urllib.request
import pytest

@pytest.mark.vmports(80, boot_timeout=900)
@pytest.mark.parametrize("number", range(2))
def test_it_serves(vm_with_ports, number):
    vm = vm_with_ports
    assert vm.origin in ("cloned", "kept ready"), vm.origin
    assert b"Welcome to nginx" in urllib.request.urlopen(vm[80].url, timeout=60).read()
    assert vm.run("systemctl is-active nginx; ls /root").stdout.split() == ["active", "hello"]
    vm.run("rm /root/hello")
"""
CONFTEST = """
import pytest
from pytest_vmports import Guest

@pytest.fixture(scope="session")
def vmports_guest():
    data = {"locale": False, "write_files": [{"path": "/root/hello", "content": "by name"}]}
    return Guest.image("debian-13", user_data=data)
"""
ASKED = [f"{DEBIAN_FOLDER}{name}" for name in ("SHA512SUMS", DEBIAN_FILE)]


@pytest.mark.slow
def test_a_distribution_s_image_is_fetched_once_for_all_workers_and_cloned(
    pytester, debian, shared_templates, monkeypatch
):
    pytester.makepyfile(SUITE)
    pytester.makeconftest(CONFTEST)
    with image_server.serving_debian(debian.disk) as server:
        monkeypatch.setenv("VMPORTS_IMAGE_MIRROR", f"debian={server.url}")
        monkeypatch.setenv("VMPORTS_IMAGES_DIR", str(pytester.path / "images"))
        result = pytester.runpytest_subprocess("-n", "2")
        asked = [path for method, path, _ in server.asked if method == "GET"]
    result.assert_outcomes(passed=2)
    assert sorted(asked) == ASKED


@pytest.mark.slow
def test_a_distribution_s_nginx_runs_as_a_container_s(vm_factory, debian, tmp_path):
    """With links of its logs, as the image of its makers has them."""
    logs = layer(
        link("var/log/nginx/access.log", "/dev/stdout"),
        link("var/log/nginx/error.log", "/dev/stderr"),
        ("var/www/html/index.html", b"nginx in a container"),
    )  # fmt: skip
    image = layout(
        tmp_path / "image", [debian.nginx.read_bytes(), logs], Cmd=["nginx", "-g", "daemon off;"],
        Volumes={"/run": {}}, ExposedPorts={"80/tcp": {}},
    )  # fmt: skip
    guest = Guest.oci(image, ports=[80], memory=512)
    for _ in range(2):
        with vm_factory(guest=guest, boot_timeout=600) as vm:
            assert vm.origin in FROM_TEMPLATE
            with urllib.request.urlopen(vm[80].url, timeout=60) as answer:
                assert answer.read() == b"nginx in a container"
            until(lambda: '"GET / HTTP/1.1" 200' in vm.console, 30, "its log")
            assert vm.run("nginx -v").stderr.startswith("nginx version")
            vm.run("rm /var/www/html/index.html")

"""Container images with real VMs: their service answers, and is a clone's in the next test."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from container_images import archive, busybox, layer, layout, link
from vm_helpers import FROM_TEMPLATE, WIRINGS

from pytest_vmports import Guest
from pytest_vmports.errors import GuestStuckError

ANSWER = b"""#!/bin/sh
read -r line
printf 'HTTP/1.0 200 OK\\r\\nConnection: close\\r\\n\\r\\n'
cat "$PAGE"
"""
SITE = layer(
    ("page", b"from a container"), link("var/log.txt", "/dev/stdout"), ("bin/answer", ANSWER),
    ("bin/serve", b'#!/bin/sh\necho serving as $(id -u):$(id -G) >/var/log.txt\nexec "$@"\n'),
)  # fmt: skip
SERVES = {
    "Entrypoint": ["serve"], "Cmd": ["nc", "-lk", "-p", "80", "-e", "/bin/answer"],
    "Env": ["PAGE=/page", "A.B=c"], "User": "www", "WorkingDir": "/srv/app",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return an image of a web server that runs as a user."""
    return layout(tmp_path_factory.mktemp("site"), [busybox(), SITE], **SERVES)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_its_service_answers_on_its_own_port_and_is_cloned(vm_factory, site, wiring, gvproxy_089):
    guest = Guest.oci(site, ports=[80])
    settings = {"guest": guest, "gvproxy": str(gvproxy_089), **WIRINGS[wiring]}
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
        with urllib.request.urlopen(vm[80].url, timeout=30) as answer:
            assert answer.read() == b"from a container"
        assert "serving as 82:82 4" in str(vm.console)
        assert vm.run("id -u; echo $PAGE; env | grep A.B; ls -d /srv/app").stdout.split("\n") == [
            "0",
            "/page",
            "A.B=c",
            "/srv/app",
            "",
        ]
        vm.run("echo changed >/page")
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
        with urllib.request.urlopen(vm[80].url, timeout=30) as answer:
            assert answer.read() == b"from a container"


def test_an_archive_takes_files_setup_command_variables_and_disks(vm_factory, tmp_path):
    (tmp_path / "page").write_text("of the host")
    image = archive(tmp_path / "app.tar", [busybox(), SITE], **SERVES)
    guest = Guest.oci(
        image, ports="9090", command="nc -lk -p 9090 -e /bin/answer", env={"PAGE": "/copy"},
        files={tmp_path / "page": "/page"}, setup="busybox cp /page /copy; echo for $PAGE >>/copy",
    )  # fmt: skip
    with vm_factory(guest=guest, disks=["16M"]) as vm:
        with urllib.request.urlopen(vm[9090].url, timeout=30) as answer:
            assert answer.read() == b"of the hostfor /copy\n"
        assert vm.run("cat /sys/block/vdb/serial /sys/block/vdc/serial").stdout == "disk1seed"


def test_a_service_that_ends_is_told_at_once(vm_factory, tmp_path):
    image = layout(tmp_path / "image", [busybox()], Cmd=["sh", "-c", "echo no database; exit 3"])
    with (
        pytest.raises(GuestStuckError, match="the service of its container image has ended") as got,
        vm_factory(guest=Guest.oci(image, ports=[80])),
    ):
        pass
    assert "no database" in str(got.value)
    assert "has ended with 3" in str(got.value)


def test_an_image_without_a_shell_serves(vm_factory, tmp_path):
    """As one that is called distroless."""
    image = layout(
        tmp_path / "image", [busybox(), layer(("bin/.wh.sh", b""))],
        Entrypoint=["nc", "-lk", "-p", "80", "-e", "/bin/cat"],
    )  # fmt: skip
    with vm_factory(guest=Guest.oci(image, ports=[80])) as vm:
        with socket.create_connection((vm[80].host, vm[80].external), 30) as client:
            client.sendall(b"hello\n")
            assert client.recv(6, socket.MSG_WAITALL) == b"hello\n"
        done = vm.run("true", check=False)
        assert (done.returncode, done.stderr) == (127, "vmports: cannot run /bin/sh\n")

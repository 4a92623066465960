"""The bundled guest on its own disk: a whole Alpine that is prepared as the small one is."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest
from vm_helpers import FROM_TEMPLATE, PACKAGE, ask_tcp

from pytest_vmports import Guest

PORT = 8080
SETUP = f"nc -lk -p {PORT} -e cat & cat /etc/app.conf"
WIRINGS = {"usernet": {}, "gvproxy": {"allow_network": True}}


@pytest.fixture(scope="module", params=WIRINGS)
def vm(boot, request, tmp_path_factory):
    config = tmp_path_factory.mktemp("files") / "app.conf"
    config.write_text("colour = blue\n")
    guest = Guest.alpine_disk(files={str(config): "/etc/app.conf"})
    with boot(PORT, guest=guest, setup=SETUP, fresh_boot=False, **WIRINGS[request.param]) as vm:
        assert vm.origin in FROM_TEMPLATE  # a test may reset it
        yield vm


def test_it_is_a_clone_of_an_alpine_with_our_addresses_files_and_setup(vm):
    assert ask_tcp(vm, PORT, b"echo") == b"echo"
    assert "colour = blue" in vm.console
    said = vm.run(
        "cat /etc/os-release; df / | tail -1; ip -4 addr show eth0; cat /etc/hosts"
    ).stdout
    for words in ("Alpine Linux", "/dev/vda", "192.168.127.2/24", "127.0.0.1 localhost"):
        assert words in said
    assert vm.run("cat /etc/resolv.conf").stdout.startswith("nameserver 192.168.127.")


def test_files_commands_moments_and_a_reset_are_those_of_its_disk(vm, tmp_path):
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 500)
    vm.put(tmp_path / "sent", "/srv/")
    assert vm.get("/srv/sent", tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    assert vm.run("mount | grep ' /srv '", check=False).returncode
    moment = vm.snapshot()
    vm.run("rm /srv/sent; sync")
    vm.restore(moment)
    assert vm.run("ls /srv").stdout == "sent\n"
    # What is on the disk stays, as after a button is pressed; the setup runs anew.
    vm.run("sync")
    vm.reset()
    assert (vm.run("ls /srv").stdout, ask_tcp(vm, PORT, b"again")) == ("sent\n", b"again")


def test_two_clones_share_nothing_that_they_write(boot):
    words = {"guest": "alpine-disk", "setup": f"nc -lk -p {PORT} -e cat &", "fresh_boot": False}
    with boot(PORT, **words) as one:
        one.run("echo one >/srv/who; sync")
        with boot(PORT, **words) as two:
            assert two.origin in FROM_TEMPLATE
            assert two.run("ls /srv").stdout == ""
        assert one.run("cat /srv/who").stdout == "one\n"


def test_a_package_is_installed_from_a_server_and_its_service_answers(boot, tmp_path):
    with boot(guest="alpine-disk", setup="", fresh_boot=False) as builder:
        builder.run(f"mkdir /root/made; cd /root/made; {PACKAGE}")
        builder.get("/root/made/repo", tmp_path / "repo")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "repo")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        setup = (
            "apk add --allow-untrusted --repositories-file /dev/null --repository "
            "http://192.168.128.1:8000/x86_64/Packages.adb hello && rc-service hello start"
        )
        words = {"host_ports": {8000: server.server_port}, "setup": setup, "fresh_boot": False}
        for _ in range(2):
            with boot(9000, guest="alpine-disk", **words) as vm:
                assert vm.origin in FROM_TEMPLATE
                with vm.connect(9000) as connection, connection.makefile() as said:
                    assert said.readline() == "it is installed\n"
        server.shutdown()


@pytest.mark.parametrize("guest", ["alpine-disk", Guest.alpine_disk], ids=["name", "function"])
def test_a_factory_takes_what_the_marker_takes(vm_factory, guest):
    with vm_factory(guest=guest, wait_for="none") as vm:
        assert "Alpine Linux" in vm.run("cat /etc/os-release").stdout

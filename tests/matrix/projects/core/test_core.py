"""What has to work with every Python, pytest and xdist."""

import importlib
import pkgutil
import socket

import pytest

import pytest_vmports

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"
pytestmark = pytest.mark.vmports(8080, setup=SETUP)


def echoed(vm, port=8080):
    with vm.connect(port) as connection:
        connection.sendall(b"word")
        return connection.recv(4) == b"word"


def test_every_module_can_be_loaded():
    # That of Allure is for those who have it.
    left_out = {"pytest_vmports.leases.__main__", "pytest_vmports.report.to_allure"}
    for module in pkgutil.walk_packages(pytest_vmports.__path__, "pytest_vmports."):
        if module.name not in left_out:
            importlib.import_module(module.name)


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_a_fresh_vm(vm_with_ports, number):
    assert echoed(vm_with_ports)
    assert vm_with_ports.run("cat /tmp/seen", check=False).stdout == ""
    vm_with_ports.run("echo seen >/tmp/seen")


@pytest.mark.vmports(allow_network=True)
def test_gvproxy(vm_with_ports):
    assert vm_with_ports.wiring == "gvproxy"
    assert echoed(vm_with_ports)


@pytest.mark.vmports(fresh_boot=True)
def test_a_boot_from_cold(vm_with_ports):
    assert vm_with_ports.origin == "booted"
    assert echoed(vm_with_ports)


def test_files_and_moments(vm_with_ports, tmp_path):
    vm = vm_with_ports
    (tmp_path / "file").write_text("text")
    vm.put(tmp_path / "file", "/root/")
    moment = vm.snapshot()
    vm.run("rm /root/file")
    vm.restore(moment)
    vm.get("/root/file", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "text"
    extra = vm.expose(9090)
    assert extra.external not in {8080, vm[8080].external}


def test_two_vms_of_one_test(vm_factory):
    with (
        vm_factory(ports=[8080], setup=SETUP, network="lan") as one,
        vm_factory(ports=[8080], setup=SETUP, network="lan") as other,
    ):
        assert echoed(one)
        assert echoed(other)
        one.run(f"ping -c 1 -W 20 {other.lan_address}")


def test_ports_without_a_vm(exposed_ports, free_port):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(exposed_ports[8080].address)
    assert free_port != exposed_ports[8080].external


def test_a_helper_thread_of_asyncio_runs_in_no_one_s_way(vm_with_ports):
    import asyncio

    async def both():
        return await asyncio.gather(
            asyncio.to_thread(vm_with_ports.run, "echo one"),
            asyncio.to_thread(vm_with_ports.run, "echo two"),
        )

    assert [done.stdout for done in asyncio.run(both())] == ["one\n", "two\n"]


def test_fails(vm_with_ports):
    assert vm_with_ports.run("echo one").stdout == "two\n"

"""What a type checker is to find nothing wrong with; `scripts/check-package` asks one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_vmports import (
    VM,
    BootTimeoutError,
    Completed,
    ExposedPort,
    ExposedPorts,
    FreePortFactory,
    Guest,
    PortMapping,
    Settings,
    Snapshot,
    VmFactory,
    VmPortsError,
)


@pytest.fixture(scope="session")
def vmports_guest() -> Guest:
    return Guest.image("debian-13")


@pytest.fixture
def pair(vm_factory: VmFactory) -> Iterator[tuple[VM, VM]]:
    with (
        vm_factory([80], network="lab", memory="1G", files={"app": "/srv/app"}) as one,
        vm_factory(
            [8080, "53/udp", PortMapping(internal=443)],
            network="lab",
            allow_network=["packages.example.org"],
            template="always",
            setup=Path("prepare.sh"),
            wait_for=[80, 443],
            boot_timeout=300,
            tpm=True,
            guest=Guest.image("debian-13"),
        ) as two,
    ):
        yield one, two


def test_words(vm_with_ports: VM, tmp_path: Path) -> None:
    vm = vm_with_ports
    done: Completed = vm.run(["uname", "-r"], timeout=10)
    words: list[str] = done.stdout.split()
    port: ExposedPort = vm[80]
    number: int = port.external
    moment: Snapshot = vm.snapshot()
    vm.restore(moment)
    vm.put(tmp_path / "a", "/srv/")
    vm.get("/var/log/app.log", tmp_path)
    assert words and number and port.url.startswith("http")


def test_ports(exposed_ports: ExposedPorts, free_port_factory: FreePortFactory) -> None:
    words: list[str] = exposed_ports.qemu_args()
    assert words and free_port_factory() > 0


def test_settings(vmports_settings: Settings) -> None:
    megabytes: int = vmports_settings.memory
    assert megabytes


def test_errors() -> None:
    with pytest.raises(VmPortsError) as caught:
        raise BootTimeoutError
    assert caught.value.fields

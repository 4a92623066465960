"""The three VMs."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pytest_vmports import VM

HERE = Path(__file__).parent
NETWORK = "site"


@dataclass
class Site:
    """A balancer, and the servers behind it by their names."""

    balancer: VM
    servers: dict[str, VM]

    def ask(self, path="/name"):
        """Send the balancer a request from outside."""
        return httpx.get(self.balancer[8080].url + path, timeout=30)

    def asked(self, times):
        """Return which servers answered so many requests, one after the other."""
        return [self.ask().text.strip() for _ in range(times)]


@pytest.fixture
def site(vm_factory):
    """Return three VMs that know each other, and end with the test."""
    with contextlib.ExitStack() as vms:
        servers = {
            name: vms.enter_context(
                vm_factory(network=NETWORK, setup=HERE / "server.sh", wait_for="none")
            )
            for name in ("red", "blue")
        }
        balancer = vms.enter_context(
            vm_factory(ports=[8080], network=NETWORK, setup=HERE / "balance.sh")
        )
        for name, vm in servers.items():
            vm.run(f"echo {name} >/srv/name")
        addresses = "".join(f"{vm.lan_address}\n" for vm in servers.values())
        balancer.run("cat >/etc/servers", input=addresses)
        yield Site(balancer, servers)

"""A Debian VM on which the role has been played, and the way to play it again."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra

from pytest_vmports import VM, Guest

HERE = Path(__file__).parent


@dataclass
class Run:
    """What ansible-playbook says of a run."""

    output: str

    @property
    def changed(self):
        """Return how many tasks have changed something."""
        return int(re.search(r"\bchanged=(\d+)", self.output)[1])

    @property
    def handlers(self):
        """Return the names of the handlers that were called."""
        return re.findall(r"^RUNNING HANDLER \[(.*?)\]", self.output, re.MULTILINE)


@dataclass
class Server:
    """A VM, and the ssh configuration by which it is reached as ``vm``."""

    vm: VM
    ssh_config: Path

    @property
    def connections(self):
        """Return the folder of the ssh connections that stay open.

        They are found by the host's name, which is ``vm`` for the VMs of all tests.
        """
        return self.ssh_config.parent

    @property
    def host(self):
        """Return what testinfra calls a host."""
        return testinfra.get_host(
            "ssh://vm", ssh_config=str(self.ssh_config), controlpath=self.connections / "testinfra"
        )

    def play(self, **variables):
        """Play the role."""
        command = [
            *(sys.executable, "-m", "ansible", "playbook", "site.yml", "--inventory=vm,"),
            f"--ssh-common-args=-F '{self.ssh_config}'",
            *(f"--extra-vars={name}='{value}'" for name, value in variables.items()),
        ]
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.connections),
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Run(done.stdout)


@pytest.fixture(scope="session")
def vmports_guest():
    """Return Debian's image, to which a key of this run is let in."""
    return Guest.image("debian-13", ssh=True, user_data={"locale": False})


@pytest.fixture(scope="module")
def server(vm_factory, tmp_path_factory):
    """Return a server on which the role was played once; for tests that leave it as it is."""
    with vm_factory(ports=[80, 8080], wait_for="none") as vm:
        config = vm.ssh_config(tmp_path_factory.mktemp("ssh") / "config")
        server = Server(vm, config)
        server.play()
        yield server


@pytest.fixture
def changeable(server):
    """Return the same server, which is afterwards as it was."""
    moment = server.vm.snapshot()
    yield server
    server.vm.restore(moment)

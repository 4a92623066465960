import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROLE = Path(__file__).parent / "role"


@pytest.mark.vmports(80)
def test_scenario(vm_with_ports, tmp_path):
    config = vm_with_ports.ssh_config(tmp_path / "ssh_config")
    role = shutil.copytree(ROLE, tmp_path / "role")
    env = {**os.environ, "VM_SSH_CONFIG": str(config)}
    for command in ("converge", "idempotence", "verify"):
        done = subprocess.run(
            ["molecule", command], cwd=role, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert vm_with_ports.run("cat /var/www/html/page").stdout == "from Molecule"

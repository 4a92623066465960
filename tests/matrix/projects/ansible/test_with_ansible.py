import re
import subprocess

import pytest

PLAYBOOK = """
- hosts: all
  tasks:
    - name: a page
      ansible.builtin.copy: {content: "from Ansible", dest: /var/www/html/page}
    - name: a service
      ansible.builtin.service: {name: nginx, state: started}
"""


@pytest.mark.vmports(80)
def test_playbook(vm_with_ports, tmp_path):
    config = vm_with_ports.ssh_config(tmp_path / "ssh_config")
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    command = ["ansible-playbook", "-i", "vm,", "--ssh-common-args", f"-F {config}", "play.yml"]
    for changed in (1, 0):
        done = subprocess.run(
            command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        count = dict(re.findall(r"(\w+)=(\d+)", done.stdout))
        assert count["changed"] == str(changed), done.stdout
        assert count["ok"] == "3"
    with vm_with_ports.connect(80) as connection:
        connection.sendall(b"GET /page HTTP/1.0\r\n\r\n")
        assert b"from Ansible" in connection.makefile("rb").read()

import paramiko
import pytest


@pytest.mark.vmports(80)
def test_client(vm_with_ports, tmp_path):
    config = paramiko.SSHConfig.from_path(str(vm_with_ports.ssh_config(tmp_path / "ssh_config")))
    vm = config.lookup("vm")
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            vm["hostname"], int(vm["port"]), vm["user"], key_filename=vm["identityfile"],
            timeout=60, banner_timeout=60, auth_timeout=60,
        )  # fmt: skip
        _, stdout, _ = client.exec_command("systemctl is-active nginx")
        assert stdout.read() == b"active\n"
        with client.open_sftp() as sftp, sftp.open("/root/word", "w") as file:
            file.write("word")
    assert vm_with_ports.run("cat /root/word").stdout == "word"

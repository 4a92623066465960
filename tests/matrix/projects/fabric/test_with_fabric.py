import fabric
import pytest


@pytest.mark.vmports(80)
def test_connection(vm_with_ports, tmp_path):
    path = vm_with_ports.ssh_config(tmp_path / "ssh_config")
    config = fabric.Config(runtime_ssh_path=str(path))
    (tmp_path / "word").write_text("word")
    with fabric.Connection("vm", config=config, connect_timeout=60) as connection:
        done = connection.run("systemctl is-active nginx", hide=True, in_stream=False)
        assert done.stdout == "active\n"
        connection.put(str(tmp_path / "word"), "/root/word")
    assert vm_with_ports.run("cat /root/word").stdout == "word"

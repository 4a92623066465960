import pytest
import testinfra


@pytest.mark.vmports(80)
def test_host(vm_with_ports, tmp_path):
    config = vm_with_ports.ssh_config(tmp_path / "ssh_config")
    host = testinfra.get_host("ssh://vm", ssh_config=str(config))
    assert host.system_info.distribution == "debian"
    assert host.service("nginx").is_running
    assert host.package("nginx-light").is_installed
    assert host.file("/etc/nginx/nginx.conf").user == "root"

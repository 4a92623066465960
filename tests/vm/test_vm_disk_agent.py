"""Our agent in a Debian, brought there by cloud-init: clones without ssh, and what may happen."""

from __future__ import annotations

import os
import time
import urllib.request

import pytest
from vm_helpers import FROM_TEMPLATE

from pytest_vmports import Guest
from pytest_vmports.errors import MachineError
from pytest_vmports.vm.inside.lay_disks import NOTE
from pytest_vmports.vm.inside.ssh import SshShell

pytestmark = pytest.mark.slow
DATA = "#cloud-config\nlocale: false\n"


@pytest.fixture
def no_ssh(monkeypatch):
    """Let each command that goes by ssh fail the test."""

    def refuse(*_args, **_keywords):
        pytest.fail("a command went by ssh")

    with monkeypatch.context() as patched:
        patched.setattr(SshShell, "run", refuse)
        yield patched


def test_a_clone_is_told_the_time_and_runs_commands_without_ssh(
    vm_factory,
    debian_guest,
    tmp_path,
    no_ssh,
):
    settings = {"ports": [80], "guest": debian_guest, "boot_timeout": 1800}
    drawn = set()
    for _ in range(2):
        with vm_factory(**settings) as vm:
            assert vm.origin in FROM_TEMPLATE
            assert [port.internal for port in vm.ports] == [80]
            assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30
            drawn.add(vm.run("head -c 32 /dev/urandom | base64").stdout)
            assert urllib.request.urlopen(vm[80].url, timeout=60).status == 200
            begins_like_a_login(vm)
            is_alone_on_its_port(vm)
            assert vm.run("wc -c", input=b"\xff" * 20_000).stdout == "20000\n"
            outlives_its_end(vm)
    assert len(drawn) == 2
    no_ssh.undo()
    with vm_factory(**settings) as vm:
        # Files go by ssh, and are there for commands by the agent.
        (tmp_path / "large").write_bytes(data := os.urandom(300_000))
        vm.put(tmp_path / "large", "large")
        assert vm.run("wc -c <large").stdout == "300000\n"
        assert vm.get("/root/large", tmp_path / "back").read_bytes() == data
        lives_through_snapshots(vm)
        vm.shutdown(timeout=600)


def begins_like_a_login(vm):
    said = vm.run("pwd; id -un; env").stdout.splitlines()
    assert said[:2] == ["/root", "root"]
    assert {"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"} <= set(said)
    (path,) = (line for line in said if line.startswith("PATH="))
    assert {"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"} <= set(path[5:].split(":"))


def is_alone_on_its_port(vm):
    """Nothing of it listens on the network, and nobody else has its serial port open."""
    assert "agent" not in vm.run("ss -ltnup").stdout
    open_by = vm.run("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c ttyS1$").stdout
    assert int(open_by) == 2  # its input and its output


def outlives_its_end(vm):
    """As the kernel ends it for want of memory; what it had started lives on."""
    vm.run("sleep 1000 >/dev/null 2>&1 &")
    with pytest.raises(MachineError, match="ended and was started anew"):
        vm.run("kill -KILL $(systemctl show -P MainPID vmports-agent); sleep 100")
    assert vm.run("pidof sleep").stdout.strip()
    assert vm.run("systemctl is-active vmports-agent").stdout == "active\n"


def lives_through_snapshots(vm):
    moment = vm.snapshot()
    vm.run("rm large; touch other")
    vm.restore(moment)
    assert vm.run("ls").stdout == "hello\nlarge\n"
    assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30


def test_a_disk_that_uefi_boots_has_clones_and_commands_without_ssh(
    vm_factory,
    debian,
    tmp_path,
):
    guest = Guest.disk(debian.disk, firmware="uefi", memory=512, user_data=DATA, ssh=False)
    settings = {"ports": [80], "guest": guest, "boot_timeout": 1800}
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert vm._machine.kind.ssh is None
        assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30
        (tmp_path / "file").write_bytes(data := os.urandom(100_000))
        vm.put(tmp_path / "file", "/root/")
        assert vm.get("/root/file", tmp_path / "back").read_bytes() == data
        vm.run("touch kept; sync")
        vm.reset()
        assert vm.origin == "booted"
        assert vm.run("ls").stdout.split() == ["file", "kept"]


def test_a_signed_disk_boots_with_secure_boot_on_and_so_has_its_clone(vm_factory, debian):
    guest = Guest.disk(debian.disk, firmware="uefi-secure", memory=512, user_data=DATA, ssh=False)
    settings = {"ports": [80], "guest": guest, "machine": "q35", "boot_timeout": 1800}
    for _ in range(2):
        with vm_factory(**settings) as vm:
            assert vm.origin in FROM_TEMPLATE
            assert "secureboot: Secure boot enabled" in vm.run("dmesg").stdout
            # Source: the kernel's efivarfs: four bytes of attributes before the value.
            state = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
            assert vm.run(f"od -An -tx1 -j4 {state}").stdout == " 01\n"
            assert "[integrity]" in vm.run("cat /sys/kernel/security/lockdown").stdout
            vm.restore(vm.snapshot())
            assert vm.run(f"od -An -tx1 -j4 {state}").stdout == " 01\n"


def test_a_guest_whose_agent_does_not_come_up_is_entered_by_ssh_and_one_line_says_so(
    vm_factory,
    debian,
    vmports_pool,
    monkeypatch,
):
    told = []
    monkeypatch.setattr(vmports_pool, "_tell", told.append)
    direct = {
        **debian.direct,
        "append": f"{debian.direct['append']} systemd.mask=vmports-agent.service",
    }
    guest = Guest.disk(debian.root, memory=512, user_data=DATA, **direct)
    settings = {"ports": [80], "guest": guest, "boot_timeout": 1800}
    with vm_factory(**settings) as vm:
        assert not (vm._machine.workdir / NOTE).exists()
        assert vm.run("hostname").stdout == "vmports\n"
        assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 60
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
    lines = [line for line in told if "our agent did not come up" in line]
    assert len(lines) == 1 and "commands go by ssh" in lines[0]


def test_without_the_agent_ssh_serves_as_before(vm_factory, debian):
    guest = Guest.disk(debian.root, memory=512, user_data=DATA, **debian.direct)
    settings = {"ports": [80], "guest": guest, "boot_timeout": 1800}
    with vm_factory(**settings, agent="no") as vm:
        assert vm.origin in FROM_TEMPLATE
        assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30
        assert vm.run("pwd; systemctl is-active vmports-agent || true").stdout == (
            "/root\ninactive\n"
        )
        assert vm._machine.kind.ssh._login.now is not None  # by one login, all of it

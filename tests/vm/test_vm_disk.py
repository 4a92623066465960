"""Disk images with real VMs: the bundled one with its own init; a Debian with systemd (slow)."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from vm_helpers import FROM_TEMPLATE, WIRINGS, debian_words, remains, until

from pytest_vmports import Guest
from pytest_vmports.errors import (
    CloudInitError,
    CloudInitWarning,
    GuestPanicError,
    ImageError,
    MachineDiedError,
    NoShellError,
)
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.pool.kept import all_kept
from pytest_vmports.vm.inside import copying
from pytest_vmports.vm.inside.shell import RunnerShell


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def bundled():
    """Return the bundled package's disk, with the kernel that boots it."""
    kernel, _ = find_images()
    return kernel.with_suffix(".qcow2"), kernel


@pytest.mark.slow
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_disk_with_an_init_of_its_own_boots_and_is_never_written(
    vm_factory, bundled, wiring, qemu_binary, gvproxy_089
):
    image, kernel = bundled
    before = digest(image)
    guest = Guest.disk(
        image, kernel=kernel, initrd=kernel.with_suffix(".initrd"), memory=512,
        append="root=/dev/vda rw rootflags=rw rootfstype=ext4",
    )  # fmt: skip
    # Its network is made for other addresses than ours, so no port of it ever answers.
    with vm_factory(ports=[8080], guest=guest, wait_for="none", **WIRINGS[wiring]) as vm:
        assert vm.origin == "booted"
        until(lambda: "OpenRC" in vm.console, 120, "its own init")
        with pytest.raises(NoShellError):
            vm.run("true")
        folder = vm._machine.workdir
        left = vm.pids.values(), [("tcp", vm[8080].external)]
        assert (folder / "root.qcow2").stat().st_size > 0
    assert not folder.exists()
    assert remains(*left) == []
    assert digest(image) == before


def test_an_image_that_cannot_be_booted_costs_no_boot_and_leaves_nothing(
    vm_factory, tmp_path, bundled, vmports_pool
):
    image, kernel = bundled
    broken = tmp_path / "truncated.qcow2"
    with image.open("rb") as whole:
        broken.write_bytes(whole.read(1 << 20))
    guest = Guest.disk(broken, kernel=kernel, append="root=/dev/vda")
    before = set(vmports_pool.run_dir.iterdir())
    with pytest.raises(ImageError, match=r"truncated\.qcow2"), vm_factory(ports=[80], guest=guest):
        pass
    for folder in set(vmports_pool.run_dir.iterdir()) - before:
        assert not (folder / "root.qcow2").exists()


USER_DATA = """\
#cloud-config
locale: false
write_files:
- path: /root/hello
  content: from cloud-init
"""


REBOOTS = f"{USER_DATA}power_state:\n  mode: reboot\n"


@pytest.mark.slow
def test_a_debian_that_cloud_init_reboots_is_saved_afterwards_and_its_clones_reboot(
    vm_factory, debian
):
    guest = Guest.disk(debian.root, memory=512, user_data=REBOOTS, ssh=True, **debian.direct)
    wanted = {"guest": guest, "boot_timeout": 1500, "on_reboot": "allow"}
    with vm_factory(ports=[80], **wanted) as vm:
        assert vm.console.count("reboot: Restarting system") == 1  # while its template was made
        assert vm.origin in FROM_TEMPLATE and vm.reboots == 0
        vm.run("echo kept >/root/kept; sync; echo lost >/run/lost")
        before = vm.run("cat /proc/sys/kernel/random/boot_id").stdout
        vm.reboot()
        assert urllib.request.urlopen(vm[80].url, timeout=60).status == 200
        assert vm.run("cat /root/kept; ls /run/lost", check=False).stdout == "kept\n"
        assert vm.run("cat /proc/sys/kernel/random/boot_id").stdout != before
        assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30
        assert vm.reboots == 1


@pytest.mark.slow
@pytest.mark.parametrize(("way", "wiring"), [("kernel", "usernet"), ("bios", "gvproxy")])
def test_a_debian_with_cloud_init_ssh_and_agent_serves(
    vm_factory, debian, debian_guest, way, wiring, tmp_path, gvproxy_089
):
    """How UEFI boots it is among the tests of our agent in disks."""
    guest, image = debian_guest, debian.root
    if way == "bios":
        image = debian.disk
        keywords = {"memory": 512, "user_data": USER_DATA, "ssh": True, "agent": True}
        guest = Guest.disk(image, firmware=way, **keywords)
    before = digest(image)
    settings = {
        "ports": [80], "guest": guest, "boot_timeout": 900, "gvproxy": str(gvproxy_089),
        "on_reboot": "allow", **WIRINGS[wiring],
    }  # fmt: skip
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert [port.internal for port in vm.ports] == [80]
        assert abs(float(vm.run("date +%s.%N").stdout) - time.time()) < 30
        assert vm.run("cat /root/hello").stdout == "from cloud-init"
        assert vm.run("systemctl is-active nginx").stdout == "active\n"
        assert urllib.request.urlopen(vm[80].url, timeout=60).status == 200
        assert vm._machine.kind._agent.run("hostname", timeout=60) == (0, b"vmports\n", b"")

        data = os.urandom(1 << 20)
        (tmp_path / "app.tar.gz").write_bytes(data)
        vm.put(tmp_path / "app.tar.gz", "/srv/")
        assert vm.get("/srv/app.tar.gz", tmp_path / "back").read_bytes() == data
        goes_both_ways_by_the_agent(vm, tmp_path)

        config = vm.ssh_config(tmp_path / "ssh_config")
        done = subprocess.run(
            ["ssh", "-F", str(config), "vm", "id -un"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "root\n"
        looks_right_to_testinfra(config)
        stays_through_snapshots(vm)
        if way == "bios":  # that of a kernel is tried above, that of UEFI with our agent
            stays_through_a_reboot(vm)
        vm.shutdown(timeout=300)
    with vm_factory(**settings) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert vm.run("ls /srv /root").stdout.split() == ["/root:", "hello", "/srv:"]
    assert digest(image) == before


def goes_both_ways_by_the_agent(vm, tmp_path):
    """More than it takes in a message."""
    (tmp_path / "more").write_bytes(data := os.urandom(3 << 20))
    way = RunnerShell(vm._machine.kind._agent)
    copying.put(way, tmp_path / "more", "/root/", 600)
    assert copying.get(way, "/root/more", tmp_path / "again", 600).read_bytes() == data
    assert vm.run("rm /root/more; ls -A /tmp | grep vmports", check=False).stdout == ""


def stays_through_snapshots(vm):
    moment = vm.snapshot()
    vm.run("rm /srv/app.tar.gz")
    vm.restore(moment)
    assert vm.run("ls /srv").stdout == "app.tar.gz\n"


def stays_through_a_reboot(vm):
    vm.run("touch /root/kept; sync")
    before = vm.run("cat /proc/sys/kernel/random/boot_id").stdout
    vm.reboot()  # the disk is still there
    assert vm.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    assert vm.run("ls /root /srv").stdout.split() == [
        "/root:", "hello", "kept", "/srv:", "app.tar.gz",
    ]  # fmt: skip


def looks_right_to_testinfra(config):
    import testinfra

    host = testinfra.get_host("ssh://vm", ssh_config=str(config))
    assert host.service("nginx").is_running
    assert host.socket("tcp://80").is_listening
    assert host.file("/root/hello").content_string == "from cloud-init"


FILL = "fallocate -l $(df --output=avail -k / | tail -n 1)K /fill; dd if=/dev/zero of=/fill2; true"


@pytest.mark.slow
def test_a_cloud_init_that_fails_says_why(vm_factory, debian):
    data = {"locale": False, "bootcmd": [FILL]}
    guest = Guest.disk(debian.root, memory=512, user_data=data, ssh=False, **debian.direct)
    with (
        pytest.raises(CloudInitError, match="No space left on device"),
        vm_factory(ports=[80], guest=guest, boot_timeout=600),
    ):
        pass


@pytest.mark.slow
def test_a_cloud_init_that_complains_is_warned_of_where_that_is_tolerated(vm_factory, debian):
    data = {"locale": False, "runcmd": ["exit 7"]}
    guest = Guest.disk(debian.root, memory=512, user_data=data, ssh=False, **debian.direct)
    settings = {"fresh_boot": True, "boot_timeout": 900, "cloud_init": "tolerant"}
    with (
        pytest.warns(CloudInitWarning, match="scripts.user"),
        vm_factory(ports=[80], guest=guest, **settings) as vm,
    ):
        assert urllib.request.urlopen(vm[80].url, timeout=60).status == 200


@pytest.mark.slow
@pytest.mark.parametrize(("means", "check"), [("ssh", True), ("agent", False)])
def test_a_command_by_ssh_or_agent_that_the_guest_panics_at_raises_the_panic(
    vm_factory, debian_guest, monkeypatch, means, check
):
    with vm_factory(ports=[80], guest=debian_guest, boot_timeout=900, allow_crash=True) as vm:
        kind = vm._machine.kind
        runner = {"ssh": kind.ssh, "agent": kind._agent}[means]
        monkeypatch.setattr(kind, "shell", lambda _check: RunnerShell(runner))
        with pytest.raises(MachineDiedError) as caught:
            vm.run("echo c >/proc/sysrq-trigger", check=check, timeout=120)
    assert type(caught.value) is GuestPanicError
    assert caught.value.panic == "sysrq triggered crash"


@pytest.mark.slow
def test_a_vm_that_was_kept_is_reached_by_ssh(
    pytester, vm_factory, debian, debian_guest, request, monkeypatch
):
    with vm_factory(ports=[80], guest=debian_guest, boot_timeout=900) as vm:
        monkeypatch.setenv("VMPORTS_CACHE_DIR", str(vm._machine._saved.folder.parent))
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_vmports import Guest

        guest = Guest.disk({str(debian.root)!r}, **{debian_words(debian)!r})

        @pytest.mark.vmports(80, guest=guest, boot_timeout=600)
        def test_fails(vm_with_ports):
            vm_with_ports.run("echo was here >/root/told")
            assert vm_with_ports.origin != "cloned"
        """
    )
    result = pytester.runpytest_subprocess("-n1", "--vmports-keep=failed")
    kept = [vm for vm in all_kept() if f"kept as {vm.name}" in result.stdout.str()]
    for vm in kept:
        request.addfinalizer(vm.stop)
    result.assert_outcomes(failed=1)
    (vm,) = kept
    ask = [*shlex.split(vm.ways["ssh"]), "cat /root/told"]
    assert subprocess.check_output(ask, text=True, timeout=120) == "was here\n"


@pytest.mark.slow
def test_the_page_on_guests_shows_a_disk_image_that_works(pytester, debian, gvproxy_089):
    page = Path(__file__).resolve().parents[2] / "docs" / "guests.md"
    section = page.read_text().partition("## A disk image\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(# (\S+)\n.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert {name for _, name in blocks} == {"conftest.py", "test_install.py"}
    for text, name in blocks:
        (pytester.path / name).write_text(text)
    (pytester.mkdir("images") / "debian-12-genericcloud-amd64.qcow2").symlink_to(debian.disk)
    (pytester.mkdir("tests") / "cloud-init.yaml").write_text(USER_DATA)
    (pytester.mkdir("dist") / "app.tar.gz").write_bytes(os.urandom(10_000))
    words = ["--vmports-allow-network=yes", "--vmports-boot-timeout=900", "-vv"]
    run = pytester.runpytest_subprocess(*words)
    run.assert_outcomes(passed=2)

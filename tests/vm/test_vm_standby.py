"""The next test's VM, kept ready while a test runs."""

import socket
import textwrap
import time
import urllib.request

import psutil
import pytest

from pytest_vmports import Guest
from pytest_vmports.settings import options
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.vm.inside.disk import DiskGuest
from pytest_vmports.vm.inside.ssh import SshShell

SUITE = """
    import psutil, pytest

    pytestmark = pytest.mark.vmports({ports}, setup="nc -lk -p 8080 -e cat &", {settings})

    def listening(vm):
        found = set()
        for pid in vm.pids.values():
            for row in psutil.Process(pid).net_connections("inet"):
                if row.status == psutil.CONN_LISTEN or row.type == 2:
                    found.add(row.laddr.port)
        return found

    @pytest.mark.parametrize("number", range(4))
    def test_echo(vm_with_ports, number):
        vm = vm_with_ports
        with vm.connect(8080) as s:
            s.sendall(b"hi\\n")
            assert s.recv(16) == b"hi\\n"
        print("ORIGIN", vm.origin)
        print("EXACT", {{p.external for p in vm if p.protocol == "tcp"}} == listening(vm))
        for pid in vm.pids.values():
            print("PID", pid)
"""


@pytest.fixture
def run(pytester, qemu_binary, shared_templates):
    def run(*, ports="8080", settings="", arguments=()):
        suite = SUITE.format(ports=ports, settings=settings)
        pytester.makepyfile(textwrap.dedent(suite))
        result = pytester.runpytest_subprocess(
            "-s", "-p", "no:randomly", "-p", "no:xdist", *arguments
        )
        result.assert_outcomes(passed=4)
        said = [line.split()[-2:] for line in result.outlines if " " in line]
        return {
            key: [value for word, value in said if word.endswith(key)]
            for key in ("ORIGIN", "EXACT", "PID")
        }

    return run


@pytest.mark.parametrize("network", ["False", "True"])
def test_the_next_test_gets_the_vm_that_waited_with_its_own_ports_and_nothing_stays(
    run, network, gvproxy_089
):
    said = run(settings=f"allow_network={network}, gvproxy='{gvproxy_089}'")
    assert said["ORIGIN"] == ["cloned", "standby", "standby", "standby"]
    assert said["EXACT"] == ["True"] * 4
    assert len(set(said["PID"])) == len(said["PID"])  # never the same VM twice
    assert not any(psutil.pid_exists(int(pid)) for pid in said["PID"])


BESIDE = """
    import os, resource, socket, subprocess
    from unittest.mock import mock_open, patch
    import pytest

    pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
    LIMIT = resource.RLIMIT_FSIZE
    BEFORE, MASK = resource.getrlimit(LIMIT), os.umask(0o022)
    os.umask(MASK)

    def test_that_changes_things(vm_with_ports, vmports_pool):
        resource.setrlimit(LIMIT, (4096, BEFORE[1]))
        os.umask(0o777)
        try:
            with (
                patch("socket.socket") as socket, patch("subprocess.Popen") as popen,
                patch("builtins.open", mock_open()) as opened,
            ):
                vmports_pool.standby.join()
                assert not (socket.called or popen.called or opened.called)
            assert resource.getrlimit(LIMIT)[0] == 4096
            assert os.umask(MASK) == 0o777
        finally:
            resource.setrlimit(LIMIT, BEFORE)
            os.umask(MASK)

    def test_next(vm_with_ports):
        pid = vm_with_ports.pids["QEMU"]
        assert vm_with_ports.origin == "standby"
        assert resource.prlimit(pid, LIMIT) == BEFORE
        with open(f"/proc/{pid}/status") as status:
            assert f"Umask:\\t{MASK:04o}\\n" in status.read()
"""


def test_a_test_and_the_vm_that_is_made_beside_it_do_not_disturb_each_other(
    pytester, qemu_binary, shared_templates
):
    pytester.makepyfile(textwrap.dedent(BESIDE))
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=2)


def test_a_fixed_port_goes_from_vm_to_vm(run, worker_id):
    port = 17300 + int(worker_id.removeprefix("gw") or 0) if worker_id != "master" else 17299
    said = run(ports=f"'{port}:8080'")
    assert said["ORIGIN"][1:] == ["standby"] * 3
    assert said["EXACT"] == ["True"] * 4


def test_it_can_be_switched_off(run):
    assert run(arguments=["--vmports-prewarm", "0"])["ORIGIN"] == ["cloned"] * 4


SEVERAL = """
    import pytest

    ONE = {"ports": [8080], "setup": "nc -lk -p 8080 -e cat &"}
    OTHER = {"ports": [9090], "setup": "nc -lk -p 9090 -e cat &"}
    A = pytest.mark.vmports(8080, setup=ONE["setup"])
    B = pytest.mark.vmports(9090, setup=OTHER["setup"])

    def told(vm, vmports_pool):
        vmports_pool.standby.join()
        print("ORIGIN", vm.origin, len(vmports_pool.standby._ready))

    @pytest.mark.parametrize("kind", [
        pytest.param(number, marks=A if number % 2 else B) for number in range(5)
    ])
    def test_kinds(vm_with_ports, vmports_pool, kind):
        told(vm_with_ports, vmports_pool)

    @pytest.mark.parametrize("number", range(3))
    def test_factory(vm_factory, vmports_pool, number):
        with vm_factory(**ONE) as one:
            told(one, vmports_pool)
            with vm_factory(**OTHER) as other:
                told(other, vmports_pool)
"""


def test_several_of_several_kinds_wait_for_the_tests_that_need_them(
    pytester, qemu_binary, shared_templates
):
    pytester.makepyfile(textwrap.dedent(SEVERAL))
    words = ["-s", "-p", "no:randomly", "-p", "no:xdist", "--vmports-prewarm", "2"]
    result = pytester.runpytest_subprocess(*words)
    result.assert_outcomes(passed=8)
    said = [line.partition("ORIGIN ")[2] for line in result.outlines if "ORIGIN" in line]
    # Of each kind one has to be made first; two wait then, and fewer towards the end.
    assert said[:5] == ["cloned 1", "cloned 2", "standby 2", "standby 1", "standby 0"]
    # Of a factory the first two tests tell what the next ones take.
    assert said[5:] == [
        "cloned 0", "cloned 0", "cloned 2", "standby 2", "standby 1", "standby 0",
    ]  # fmt: skip


def test_a_test_of_another_kind_gets_no_vm_that_waited(pytester, qemu_binary, shared_templates):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
        def test_one(vm_with_ports):
            assert vm_with_ports.origin == "cloned"

        @pytest.mark.vmports(9090, setup="nc -lk -p 9090 -e cat &")
        def test_two(vm_with_ports):
            assert vm_with_ports.origin == "cloned"
            with vm_with_ports.connect(9090) as s:
                s.sendall(b"hi\\n")
                assert s.recv(16) == b"hi\\n"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=2)


def listening(vm):
    rows = psutil.Process(vm.pids["QEMU"]).net_connections("inet")
    return {row.laddr.port for row in rows if row.status == psutil.CONN_LISTEN}


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """Return a disk image of the bundled guest's, and what its ssh was asked by which host port.

    Faked: ssh itself and cloud-init, of which that guest has neither.
    """
    kernel, initrd = Guest.alpine(
        setup="nc -lk -p 80 -e cat & nc -lk -p 22 -e cat & until nc -z 127.0.0.1 22; do :; done"
    ).boot_files(tmp_path, tmp_path, X86_64)
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    asked = []

    def run(self, command, **_):
        asked.append((self._port.external, command))
        return 0, b"", b""

    monkeypatch.setattr(SshShell, "run", run)
    monkeypatch.setattr(DiskGuest, "await_setup", lambda *_: None)
    address = "vmports.ip=192.168.127.2 vmports.gateway=192.168.127.1 vmports.dns=192.168.127.3"
    guest = Guest.disk(
        tmp_path / "disk.raw", kernel=kernel, initrd=initrd, ssh=True, append=address
    )
    return guest, asked


def test_a_disk_is_kept_ready_too_and_its_way_in_goes_to_its_test(
    request, vmports_pool, small_disk
):
    guest, asked = small_disk
    wanted = {"expose": [80], "prewarm": 2, "agent": False}
    settings = options.resolve(request.config, wanted, "the test")
    with vmports_pool.vm(settings, guest, following=[settings] * 2) as vm:
        assert vm.origin == "cloned"
        vmports_pool.standby.join()
        waiting = [machine for _, machine in vmports_pool.standby._ready]
        assert len({machine.workdir / "root.qcow2" for machine in waiting}) == 2
        for machine in waiting:
            assert (machine.workdir / "root.qcow2").exists() and machine.cards.first.ports == ()
    for following in ([settings], []):
        with vmports_pool.vm(settings, guest, following=following) as vm:
            assert vm.origin == "standby" and vm._machine is waiting.pop(0)
            (ssh,) = vm._machine.plan.own_forwards
            assert listening(vm) == {vm[80].external, ssh.external}
            assert vm.run("true").returncode == 0
            assert asked[-1] == (ssh.external, "true")
            for port in (vm[80], ssh):
                with socket.create_connection(port.address, 60) as connection:
                    connection.sendall(b"hi")
                    assert connection.recv(2) == b"hi"
    vmports_pool.standby.drop()


@pytest.mark.slow
def test_a_debian_is_kept_ready_with_a_disk_of_its_own_and_ssh_by_its_tests_port(
    request, vmports_pool, debian_guest, tmp_path
):
    guest = debian_guest
    wanted = {"expose": [80], "boot_timeout": 3600, "prewarm": 2}
    settings = options.resolve(request.config, wanted, "the test")
    with vmports_pool.vm(settings, guest, following=[settings] * 2) as vm:
        assert vm.origin == "cloned"
        vm.run("echo of the first >/root/mark", timeout=600)
        vmports_pool.standby.join()
    seen = set()
    for _ in range(2):
        with vmports_pool.vm(settings, guest, following=[settings]) as vm:
            assert vm.origin == "standby"
            assert urllib.request.urlopen(vm[80].url, timeout=600).status == 200
            said = vm.run("cat /root/mark; echo mine >/root/mark; date +%s", timeout=600)
            assert said.stderr.endswith("No such file or directory\n")
            assert abs(float(said.stdout) - time.time()) < 60
            (ssh,) = vm._machine.plan.own_forwards
            assert listening(vm) == {vm[80].external, ssh.external}
            assert f"Port {ssh.external}\n" in vm.ssh_config(tmp_path / "config").read_text()
            seen.add(vm.pids["QEMU"])
    assert len(seen) == 2
    vmports_pool.standby.drop()
    assert not any(map(psutil.pid_exists, seen))

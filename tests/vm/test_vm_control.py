"""What a test does to its VM and in it: commands, files, forwards, power; in both wirings."""

from __future__ import annotations

import os
import time

import pytest
from trees import nasty, picture
from vm_helpers import FROM_TEMPLATE, GUEST, alive, ask_tcp, fixed_port, remains, until

from pytest_vmports.errors import (
    CommandTimeoutError,
    GuestFileError,
    MachineDiedError,
    MachineError,
    NoShellError,
    PortInUseError,
    SettingError,
)
from pytest_vmports.guests.alpine import find_images

SETTINGS = {"setup": GUEST, "port_wait": 0.1}


@pytest.fixture(scope="module", params=["usernet", "gvproxy_081", "gvproxy_089"])
def settings(request, qemu_binary):
    """Return the settings of each wiring in turn."""
    if request.param == "usernet":
        return SETTINGS
    gvproxy = request.getfixturevalue(request.param)
    return {**SETTINGS, "allow_network": True, "gvproxy": str(gvproxy)}


@pytest.fixture
def vm(vm_factory, settings):
    with vm_factory(ports=[8080], **settings) as vm:
        yield vm


def test_commands_and_files_go_into_a_clone_at_once(vm, tmp_path):
    assert vm.origin in FROM_TEMPLATE
    assert vm.run("hostname").stdout == "vmports\n"
    assert vm.run("cat; exit 3", check=False, input=b"\xff\0").stdout_bytes == b"\xff\0"
    with pytest.raises(CommandTimeoutError):
        vm.run("echo begun; sleep 1000", timeout=1)

    data = os.urandom(100_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data").write_bytes(data)
    vm.put(tmp_path / "folder", "/srv/app")
    assert vm.run("cd /srv/app && wc -c <data").stdout == "100000\n"
    assert vm.get("/srv/app/data", tmp_path).read_bytes() == data
    with pytest.raises(GuestFileError, match="/nowhere from the guest could not be copied"):
        vm.get("/nowhere", tmp_path)


def test_a_tree_of_all_that_ever_went_wrong_comes_back_as_it_went(vm_factory, tmp_path):
    source = nasty(str(tmp_path / "source"))
    with vm_factory(ports=[8080], **SETTINGS) as vm:
        vm.put(source, "/srv/-f\\n")
        got = vm.get("/srv/-f\\n", f"{tmp_path}/out/")
        assert got == tmp_path / "out" / "-f\\n"
        # busybox gives a link no time.
        assert picture(got, times_of_links=False) == picture(
            source, times_of_links=False, special_bits=False
        )
        assert vm.run(["stat", "-c", "%a %U", "set-id"], cwd="/srv/-f\\n").stdout == "6755 root\n"
        text = vm.run("printf '\\377\\000 x'").stdout
        assert vm.run(["cat"], input=text).stdout == text
        assert vm.get("/proc/mounts", tmp_path).read_text().startswith("rootfs / ")
        with pytest.raises(ValueError, match="NUL"):
            vm.run("echo half; \0 echo more")
        with pytest.raises(GuestFileError, match="it is neither a file nor a folder"):
            vm.get("/dev/zero", tmp_path)


FORKED = """
    import os
    import pytest
    from pytest_vmports.errors import ForkedProcessError

    @pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
    def test_of_a_parent_and_its_child(vm_with_ports):
        vm = vm_with_ports
        child = os.fork()
        if child == 0:
            with pytest.raises(ForkedProcessError, match=f"that of process {os.getppid()}"):
                vm.run("true")
            return  # through all of pytest's teardown
        os.waitpid(child, 0)
        assert vm.run("echo lives").stdout == "lives\\n"
        assert os.path.isdir(vm._machine.workdir)
"""


def test_a_forked_child_leaves_its_parents_vm_alone(pytester, shared_templates):
    pytester.makepyfile(FORKED)
    done = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:cacheprovider")
    assert [line.count("1 passed") for line in done.outlines if "passed" in line] == [1, 1], done
    assert done.ret == 0


def test_a_forward_comes_and_goes_while_the_vm_runs(vm):
    before = vm.ports
    chosen = fixed_port()
    added = vm.expose(f"{chosen}:9090")
    assert added.external == chosen and vm[9090] == added
    assert ask_tcp(vm, 9090, b"by the new one") == b"by the new one"
    with pytest.raises(PortInUseError):  # ours as any other lease
        vm.expose(f"{chosen}:7070")
    vm.unexpose(9090)
    assert vm.ports == before
    # A gvproxy has its end of the connection for as long as the guest takes to close its own.
    until(lambda: not remains([], [("tcp", chosen)]), 30, lambda: remains([], [("tcp", chosen)]))
    assert ask_tcp(vm, 8080, b"by the old one") == b"by the old one"
    with pytest.raises(KeyError):
        vm.unexpose(8080)


def test_a_snapshot_brings_back_memory_files_and_processes(vm):
    vm.run("echo kept >/root/file; sleep 4321 >/dev/null &")
    vm.expose(9090)
    moment = vm.snapshot()
    vm.run("rm /root/file; killall sleep; touch /root/later")
    for _ in range(2):
        vm.restore(moment)
        assert vm.origin == "restored"
        assert vm.run("ls /root; ps | grep -c '[s]leep 4321'").stdout == "file\n1\n"
        assert abs(int(vm.run("date +%s").stdout) - time.time()) < 10
        assert ask_tcp(vm, 8080, b"there") == ask_tcp(vm, 9090, b"there") == b"there"
        vm.run("rm /root/file")


@pytest.mark.slow_as("gvproxy")
def test_a_reset_boots_with_the_same_forwards(vm):
    vm.run("touch /root/file")
    moment, ports, pids = vm.snapshot(), vm.ports, vm.pids
    vm.reset()
    assert vm.origin == "booted" and vm.ports == ports
    assert not any(alive(pid) for pid in pids.values())
    assert vm.run("ls /root").stdout == ""
    assert ask_tcp(vm, 8080, b"again") == b"again"
    assert vm.console.count("vmports: setup ended with 0") == 2
    vm.restore(moment)  # of a VM that had its memory elsewhere
    assert vm.run("ls /root").stdout == "file\n"


def test_a_paused_guest_answers_when_it_runs_on(vm):
    vm.pause()
    vm.pause()
    with pytest.raises(MachineError, match="paused"):
        vm.run("true")
    with vm.connect(8080, timeout=0.5) as connection:
        connection.sendall(b"awake")
        with pytest.raises(TimeoutError):
            connection.recv(5)
        vm.resume()
        vm.resume()
        connection.settimeout(60)
        assert connection.recv(5) == b"awake"
    vm.pause()
    vm.shutdown()


@pytest.mark.slow_as("gvproxy")
def test_a_guest_that_powered_off_is_no_failure(vm_factory, settings):
    with vm_factory(ports=[8080], **settings) as vm:
        pids = vm.pids
        vm.shutdown()
        assert not alive(pids["QEMU"])
        with pytest.raises(MachineDiedError, match="powered off"):
            vm.run("true")
        with pytest.raises(MachineDiedError, match="powered off"):
            vm.expose(9090)


def test_vms_of_one_test_are_apart(vm_factory, settings):
    with vm_factory(ports=[8080], **settings) as one:
        with vm_factory(ports=[8080], **settings) as other:
            one.run("echo one >/root/file")
            assert other.run("ls /root").stdout == ""
            assert len({one[8080].external, other[8080].external}) == 2
            gone = other.pids
        assert not any(alive(pid) for pid in gone.values())
        assert ask_tcp(one, 8080, b"lives") == b"lives"


@pytest.fixture(scope="module")
def shared(vm_factory):
    with vm_factory(ports=[8080], **SETTINGS) as vm:
        yield vm


@pytest.mark.parametrize("number", [1, 2])
def test_a_fixture_of_a_module_keeps_its_vm(shared, number):
    shared.run("echo x >>/root/tests")
    assert shared.run("grep -c x /root/tests").stdout.strip() in {"1", "2"}
    assert shared.origin in FROM_TEMPLATE


def test_a_port_that_cannot_come_later_is_refused_and_leaves_the_rest(vm_factory):
    with vm_factory(ports=[8080], **SETTINGS) as vm:
        with pytest.raises(MachineError, match="UDP port from its start"):
            vm.expose("53/udp")
        with pytest.raises(ValueError, match="70000"):
            vm.expose(70000)
        assert [port.internal for port in vm.ports] == [8080]


def test_a_wrong_keyword_of_the_factory_is_named(vm_factory):
    with pytest.raises(SettingError, match="did you mean memory"), vm_factory(memry=1):
        pass


def test_a_guest_with_an_init_of_its_own_says_what_would_run_commands(boot):
    kernel, initrd = find_images()
    own_init = boot(kernel=str(kernel), initrd=str(initrd), wait_for="none")
    with own_init as vm, pytest.raises(NoShellError, match=kernel.name):
        vm.run("true")

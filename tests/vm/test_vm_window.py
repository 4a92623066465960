"""The window: what is long goes to and from a prepared guest by memory that both have."""

from __future__ import annotations

import hashlib
import os
import subprocess

import psutil
import pytest
from vm_helpers import FROM_TEMPLATE, GUEST, fixed_port, listening

from pytest_vmports.errors import MachineError
from pytest_vmports.report.by_hand import script
from pytest_vmports.settings import options
from pytest_vmports.vm.argv import Hardware
from pytest_vmports.vm.inside import own_init
from pytest_vmports.vm.inside.control import LARGEST, Frames
from pytest_vmports.vm.inside.window import SLOT

MIB = 1 << 20
SETTINGS = {"setup": GUEST}


def window_of(vm):
    """Return the window that the guest's agent has shown to see, or None."""
    return vm._machine.kind._control.window


def both_ways(vm, size):
    """Whether so much goes in and comes out as it was."""
    data = os.urandom(size)
    return vm.run(["cat"], input=data).stdout_bytes == data


@pytest.fixture(scope="module")
def shared(request, qemu_binary, vmports_pool):
    """Return a VM that several tests use."""
    wanted = options.resolve(options.NoConfig(), {"expose": [8080], **SETTINGS}, "the tests")
    with vmports_pool.vm(wanted) as vm:
        yield vm


def test_a_clone_s_agent_sees_the_window_and_its_user_sees_no_port_of_it(shared):
    assert shared.origin in FROM_TEMPLATE
    assert window_of(shared) is not None
    told = shared.run("netstat -ltn | awk '/LISTEN/ { print $4 }'").stdout.split()
    assert {int(address.rpartition(":")[2]) for address in told} == {7777, 8080, 9090}
    ports = {port for pid in shared.pids.values() for _, _, port in listening(pid)}
    assert ports == {port.external for port in shared}


def test_nobody_on_the_host_finds_the_window_by_a_name(shared):
    qemu = psutil.Process(shared.pids["QEMU"])
    maps = [one.path for one in qemu.memory_maps(grouped=False) if "vmports-window" in one.path]
    assert maps == ["/memfd:vmports-window"]
    assert not [one for one in shared._machine.workdir.iterdir() if "window" in one.name]


def test_input_and_output_of_any_size_are_what_they_were(shared):
    for size in (0, 1, 255, 257, 65537, SLOT, SLOT + 1, 5 * SLOT - 1):
        assert both_ways(shared, size), size
    data = os.urandom(3 * MIB)
    done = shared.run("tee /proc/self/fd/2", input=data)
    assert (done.stdout_bytes, done.stderr_bytes) == (data, data)


def test_what_is_long_takes_few_frames_and_a_command_takes_one(shared, monkeypatch):
    said = []
    real = Frames.next

    def noted(frames):
        frame = real(frames)
        said.extend([] if frame is None else [frame[0]])
        return frame

    monkeypatch.setattr(Frames, "next", noted)
    shared.run("true")
    assert said == ["X"]
    said.clear()
    assert both_ways(shared, 8 * MIB)
    assert said.count("A") < 30 and len(said) * LARGEST < 8 * MIB


def test_a_command_that_reads_no_more_is_killed_or_floods_hurts_no_other(shared):
    assert shared.run("head -c 10 >/dev/null; echo enough", input=bytes(4 * MIB)).stdout
    for command in ("sleep 1000", "yes", "yes >&2", "cat /dev/zero | tee /proc/self/fd/2"):
        assert shared._shell.execute(command, timeout=1, input=bytes(MIB), most=None)[0] is None
        assert both_ways(shared, 2 * MIB), command


def test_an_agent_that_is_started_anew_is_seen_to_see_it_again(shared):
    for _ in range(2):
        with pytest.raises(MachineError, match="started anew"):
            shared.run("kill -9 $(pidof agent.x86_64); sleep 100")
        assert both_ways(shared, 2 * MIB)
        assert window_of(shared) is not None


def test_a_guest_that_scribbles_in_the_window_harms_only_itself(shared, tmp_path):
    device = "/sys/bus/pci/devices/0000:00:1e.0"
    # As one does who has taken over the guest: all of it, again and again.
    noise = (
        f"dd if=/dev/urandom of=/root/noise bs=1M count=1; cat >/root/scribble.sh <<'E'\n"
        f"while :; do dd if=/root/noise of={device}/resource2_wc bs=4096; done\nE\n"
        "sh /root/scribble.sh >/dev/null 2>&1 &"
    )
    shared.run(noise)
    for _ in range(3):
        # What comes is what the guest made of it, and never more than was said.
        done = shared.run(["cat"], input=bytes(MIB), check=False)
        assert len(done.stdout_bytes) <= MIB
    shared.run("pkill -f scribble.sh", check=False)


def test_files_of_100_mb_go_in_and_out_as_they_are(vm_factory, tmp_path):
    data = os.urandom(100_000_000)
    (tmp_path / "data").write_bytes(data)
    with vm_factory(ports=[8080], memory=512, **SETTINGS) as vm:
        vm.put(tmp_path / "data", "/root/", timeout=280)
        told = vm.run(["sha256sum", "/root/data"], timeout=120).stdout.split()[0]
        assert told == hashlib.sha256(data).hexdigest()
        got = vm.get("/root/data", tmp_path / "back", timeout=280)
        assert got.read_bytes() == data


def test_the_window_is_seen_again_after_whatever_happens_to_the_vm(vm_factory):
    with vm_factory(ports=[8080], **SETTINGS) as vm:
        vm.run("echo before >/root/when")
        moment = vm.snapshot()
        assert both_ways(vm, 2 * MIB)
        vm.pause()
        vm.resume()
        assert both_ways(vm, 2 * MIB)
        vm.run("rm /root/when")
        vm.restore(moment)
        assert vm.run("cat /root/when").stdout == "before\n"
        assert window_of(vm) is not None and both_ways(vm, 2 * MIB)
        vm.reset()
        assert window_of(vm) is not None and both_ways(vm, 2 * MIB)


def test_a_booted_vm_and_one_kept_ready_see_it_too(vm_factory, vmports_pool):
    with vm_factory(ports=[8080], fresh_boot=True, **SETTINGS) as vm:
        assert vm.origin == "booted"
        assert window_of(vm) is not None and both_ways(vm, 2 * MIB)
    wanted = options.resolve(options.NoConfig(), {"expose": [8080], **SETTINGS}, "the tests")
    for origin in ("cloned", "standby"):
        exposed = vmports_pool.lease(wanted.expose, wanted)
        machine = vmports_pool.start(
            wanted,
            vmports_pool.guest(wanted),
            exposed,
            following=[wanted] if origin == "cloned" else [],
        )
        try:
            assert str(machine.origin) == origin
            data = os.urandom(2 * MIB)
            assert machine.shell.execute("cat", timeout=60, input=data) == (0, data, b"")
            assert machine.kind._control.window is not None
        finally:
            machine.finish()
            exposed.release()
        vmports_pool.standby.join()
    vmports_pool.standby.drop()


def test_without_the_device_and_without_its_memory_the_serial_port_serves(vm_factory, monkeypatch):
    with monkeypatch.context() as patch:
        # The guest has the device, of which the host has nothing; its template is the same.
        patch.setattr(own_init, "open_window", lambda _: (None, None))
        with vm_factory(ports=[8080], **SETTINGS) as vm:
            assert vm.origin in FROM_TEMPLATE
            assert "memory-backend-ram,id=window" in vm.command_line
            assert window_of(vm) is None and both_ways(vm, 20_000)
    monkeypatch.setattr(Hardware, "has_window", False)
    with vm_factory(ports=[8080], fresh_boot=True, **SETTINGS) as vm:
        assert "ivshmem" not in vm.command_line
        assert window_of(vm) is None and both_ways(vm, 20_000)


def test_the_script_that_boots_a_vm_by_hand_does_so_by_itself(shared, tmp_path):
    machine = shared._machine
    _, initrd = machine.plan.guest.boot_files(
        machine.place.home, machine.place.root, machine.plan.hardware.qemu.architecture
    )
    text = script(machine, "a test", str(initrd), None)
    assert "memory-backend-ram,id=window" in text
    path = tmp_path / "boot.sh"
    # The VM that it starts again has its port still.
    path.write_text(text.replace(f":{shared[8080].external}-", f":{fixed_port()}-"))
    # To its monitor, by the console, and out.
    done = subprocess.run(
        ["sh", path], input=b"\x01cquit\n", capture_output=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")

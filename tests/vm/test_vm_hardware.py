"""Hardware that a test asks for, as a real guest sees it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from vm_helpers import FROM_TEMPLATE, GUEST, ask_tcp, echo, host_service, programs_of, until

from pytest_vmports import Guest
from pytest_vmports.errors import FirmwareNotFoundError, LaunchError, MachineError, SettingError
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.network import more_cards
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.firmware import find_firmware


def test_a_processor_that_was_asked_for_is_the_clones_too(vm_factory):
    wanted = {"ports": [8080], "setup": GUEST, "cpu": "qemu64,+avx"}
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        about = vm.run("cat /proc/cpuinfo").stdout
        (flags,) = [line.split() for line in about.splitlines() if line.startswith("flags")]
        assert "avx" in flags and "avx2" not in flags
        assert "QEMU Virtual CPU" in about


def test_a_processor_that_this_qemu_lacks_costs_no_boot_and_others_are_named(vm_factory):
    with (
        pytest.raises(SettingError, match=r"cpu = 'pentium9'.*unable to find CPU.*max, qemu64"),
        vm_factory(ports=[8080], setup=GUEST, accel="tcg", cpu="pentium9"),
    ):
        pass


def test_a_board_that_was_asked_for_has_all_that_ours_has(vm_factory, tmp_path):
    """A template, two cards, a disk, the window, and an end by the guest's own word."""
    wanted = {
        "ports": [8080], "guest": Guest.alpine_disk(setup=GUEST), "machine": "q35",
        "host_ports": {8000: 9},
    }  # fmt: skip
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        assert vm.run("ls /sys/class/net").stdout.split() == ["eth0", "eth1", "lo"]
        assert "Q35" in vm.run("cat /sys/class/dmi/id/product_name").stdout
        assert vm._machine.kind._link._control.window.seen
        (tmp_path / "f").write_text("here")
        vm.put(tmp_path / "f", "/root/f")
        assert vm.run("cat /root/f").stdout == "here"
        vm.shutdown()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"machine": "virt"}, r"guests for x86_64 are given pc, q35, microvm"),
        ({"machine": "microvm", "display": True}, r"it has no graphics card, and display = yes"),
        ({"machine": "microvm", "accel": "tcg"}, r"that is emulated.*use KVM or HVF, or pc"),
    ],
)
def test_a_board_that_cannot_be_had_costs_no_boot(vm_factory, wanted, why):
    with (
        pytest.raises(SettingError, match=f"machine = '{wanted['machine']}' is not .*{why}"),
        vm_factory(ports=[8080], setup=GUEST, **wanted),
    ):
        pass


def test_a_device_by_words_for_qemu_is_the_clones_too(vm_factory):
    """QEMU's own device for teaching, by the numbers in its docs/specs/edu.rst."""
    wanted = {"ports": [8080], "setup": GUEST, "qemu_args": "-device edu"}
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert "0x1234:0x11e8" in vm.run(
            "cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor):$(cat $d/device); done"
        ).stdout.replace("\n", " ")


# Memory that is a peer's, which no QEMU saves (nvme is saved from 11 on).
NO_STATE = [
    *("-object", "memory-backend-ram,id=peer,size=1M,share=on"),
    *("-device", "ivshmem-plain,memdev=peer,master=off"),
]


def test_a_device_whose_state_qemu_cannot_save_boots_from_cold_and_its_neighbours_are_cloned(
    vm_factory, vmports_pool
):
    with vm_factory(ports=[8080], setup=GUEST, qemu_args=NO_STATE) as vm:
        assert vm.origin == "booted"
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
    with vm_factory(ports=[8080], setup=GUEST) as vm:
        assert vm.origin in FROM_TEMPLATE
    said = " ".join(vmports_pool.launcher._templates._told)
    assert "every VM of alpine with qemu_args = -object" in said and "ivshmem" in said


def test_words_that_name_a_file_of_the_hosts_are_told_of_the_walls(vm_factory, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    with (
        pytest.raises(LaunchError, match=r"Permission denied[^$]*also from what qemu_args name"),
        vm_factory(
            ports=[8080], setup=GUEST, template=False,
            qemu_args=f"-drive if=virtio,format=raw,file={tmp_path}/disk",
        ),
    ):  # fmt: skip
        pass


SEEN = "cd /sys/block; for d in vd*; do echo $d $(cat $d/serial) $(cat $d/size); done"
WRITE = "for d in vda vdb; do printf own | dd of=/dev/$d conv=notrunc 2>/dev/null; done; sync"


def first_bytes(vm, disk):
    return vm.run(f"dd if=/dev/{disk} bs=8 count=1 2>/dev/null").stdout.rstrip("\0")


def test_further_disks_are_each_clones_own_and_their_images_stay_as_they_are(vm_factory, tmp_path):
    """What the setup wrote before the guest was saved is there in each."""
    image = tmp_path / "image.raw"
    image.write_bytes(b"an image".ljust(1 << 20, b"\0"))
    setup = f"{GUEST}printf saved | dd of=/dev/vda conv=notrunc; sync\n"
    wanted = {"ports": [8080], "setup": setup, "disks": ["64M", image]}
    for _ in range(2):
        with vm_factory(**wanted) as vm:
            assert vm.origin in FROM_TEMPLATE
            assert vm.run(SEEN).stdout == "vda disk1 131072\nvdb disk2 2048\n"
            assert (first_bytes(vm, "vda"), first_bytes(vm, "vdb")) == ("saved", "an image")
            before = vm.snapshot()
            vm.run(WRITE)
            assert (first_bytes(vm, "vda"), first_bytes(vm, "vdb")) == ("owned", "ownimage")
            vm.restore(before)
            assert (first_bytes(vm, "vda"), first_bytes(vm, "vdb")) == ("saved", "an image")
            vm.run(WRITE)
    assert image.read_bytes().rstrip(b"\0") == b"an image"


def test_a_root_stays_the_first_disk(vm_factory):
    wanted = {"ports": [8080], "guest": Guest.alpine_disk(setup=GUEST), "disks": "1G"}
    with vm_factory(**wanted) as vm:
        assert vm.origin in FROM_TEMPLATE
        assert "/dev/vda /" in vm.run("mount; cat /proc/mounts").stdout.replace(" on /", " /")
        assert vm.run("cat /sys/block/vdb/size").stdout == "2097152\n"
        vm.run("dd if=/dev/zero of=/dev/vdb bs=1M count=1 2>/dev/null && sync && sleep 0")
        vm.reset()
        assert vm.run("cat /sys/block/vdb/serial").stdout == "disk1"


def test_an_image_that_is_not_there_costs_no_boot(vm_factory):
    with (
        pytest.raises(SettingError, match=r"disks = .*absent.qcow2.*no such file.*like 512M"),
        vm_factory(ports=[8080], setup=GUEST, disks=["64M", "absent.qcow2"]),
    ):
        pass


CARDS = "cd /sys/class/net; for c in eth*; do echo $c $(cat $c/address); done"


@pytest.mark.parametrize("wiring", ["usernet", "gvproxy 0.8.9", "passt"])
def test_further_cards_are_behind_the_first_and_lead_nowhere(vm_factory, wiring, request):
    kind = wiring.partition(" ")[0]
    wanted = {"ports": [8080], "setup": GUEST, "nics": 3, **programs_of(wiring, request)}
    with vm_factory(**wanted, backend=kind, allow_network=kind != "usernet") as vm:
        assert vm.origin in FROM_TEMPLATE
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        rows = [line.split() for line in vm.run(CARDS).stdout.splitlines()]
        assert [name for name, _ in rows] == ["eth0", "eth1", "eth2"]
        assert [mac for _, mac in rows[1:]] == [more_cards.mac_of(1), more_cards.mac_of(2)]
        up = "ip addr add 10.127.1.20/24 dev eth1; ip link set eth1 up; ping -c 1 10.127.1.2"
        assert "1 packets received" in vm.run(up).stdout
        with host_service(echo) as port:  # QEMU's word for the host, where it is not restricted
            asked = vm.run(f"echo hello | nc -w 2 10.127.1.2 {port}", check=False, timeout=60)
        assert asked.stdout == ""
        assert ask_tcp(vm, 8080, b"still") == b"still"


def test_cards_alone_are_there_without_a_network(vm_factory):
    with vm_factory(setup=GUEST, nics=2, wait_for="none") as vm:
        assert vm.run(CARDS).stdout.count("\n") == 2


def gdb(vm, *commands):
    """Return what gdb writes that is attached to a VM for these commands."""
    words = [word for one in (vm.gdb, *commands) for word in ("-ex", one)]
    done = subprocess.run(
        ["gdb", "--batch", "-nx", "-ex", "set architecture i386:x86-64", *words],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_gdb_stops_a_guest_at_its_first_instruction_and_lets_it_run(vm_factory, gdb_binary):
    """A PC begins at ffff:fff0, where its BIOS jumps to f000:e05b."""
    with vm_factory(ports=[8080], setup=GUEST, paused=True) as vm:
        assert vm.origin == "booted" and vm.console == ""
        with pytest.raises(MachineError, match="paused"):
            vm.run("true")
        said = gdb(vm, "print/x $pc", "hbreak *0xfe05b", "continue", "print/x $pc", "detach")
        assert re.findall(r"^\$\d+ = (\w+)$", said, re.MULTILINE) == ["0xfff0", "0xe05b"]
        vm.wait_ready()
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        assert vm.run("echo here").stdout == "here\n"
        vm.reset()  # which waits, and begins as others do
        with pytest.raises(MachineError, match="set paused = yes"):
            _ = vm.gdb


def test_a_vm_that_began_paused_runs_when_it_is_let_and_is_ended_where_it_is_not(vm_factory):
    wanted = {"ports": [8080], "setup": GUEST, "paused": True}
    with vm_factory(**wanted), vm_factory(**wanted) as vm:
        assert vm._machine.monitor.run_state().running is False
        vm.resume()
        vm.wait_ready()
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        vm.wait_ready()


def test_only_a_vm_that_begins_paused_listens_for_gdb(vm_factory):
    with (
        vm_factory(ports=[8080], setup=GUEST) as vm,
        pytest.raises(MachineError, match="nothing of this VM listens for gdb: set paused = yes"),
    ):
        _ = vm.gdb


@pytest.fixture
def unsigned(tmp_path, missing):
    """Return an image whose loader, a kernel that nobody's key has signed, UEFI would boot."""
    if any(shutil.which(tool) is None for tool in ("mformat", "mmd", "mcopy")):
        missing("mtools")
    try:
        find_firmware(X86_64.on("q35"), secure=True)
    except FirmwareNotFoundError as error:
        missing("firmware with Secure Boot", str(error))
    image = tmp_path / "unsigned.raw"
    image.write_bytes(bytes(64 << 20))
    kernel, _ = find_images()
    for words in (
        ["mformat", "-i", image, "-T", "131072", "-h", "64", "-s", "32", "::"],
        ["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"],
        ["mcopy", "-i", image, kernel, "::/EFI/BOOT/BOOTX64.EFI"],
    ):
        subprocess.run(words, check=True)
    return image


@pytest.mark.parametrize(
    ("firmware", "words"), [("uefi-secure", "Access Denied"), ("uefi", "starting Boot0001")]
)
def test_secure_boot_refuses_a_loader_that_nobody_signed(vm_factory, unsigned, firmware, words):
    guest = Guest.disk(unsigned, firmware=firmware, format="raw")
    wanted = {"guest": guest, "machine": "q35", "wait_for": "none", "template": False}
    with vm_factory(**wanted, allow_crash=True, boot_timeout=200) as vm:
        until(lambda: words in vm.console, 120, lambda: vm.console[-3000:])
        assert ("Access Denied" in vm.console) is (firmware == "uefi-secure")


def test_secure_boot_needs_a_board_with_smm(vm_factory, unsigned):
    guest = Guest.disk(unsigned, firmware="uefi-secure", format="raw")
    with (
        pytest.raises(SettingError, match=r"firmware = 'uefi-secure' .*set machine = q35"),
        vm_factory(guest=guest, wait_for="none"),
    ):
        pass

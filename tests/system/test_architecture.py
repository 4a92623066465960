"""What differs between architectures is one answer, and it is that of the QEMU that was found."""

import contextlib
import os
import platform
import re
import socket
from pathlib import Path

import agent_program
import pytest
from newc import read_newc

from pytest_vmports import Guest
from pytest_vmports.system import firmware
from pytest_vmports.system.architecture import (
    X86_64,
    architecture_named,
    architecture_of,
    host_architecture,
)
from pytest_vmports.system.programs import Accelerator, Qemu
from pytest_vmports.vm.argv import Channels, Hardware, build_command
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.waiting import Place


@pytest.fixture(params=["x86_64", "aarch64", "arm64", "AMD64", "riscv64"])
def host(request, monkeypatch):
    """Faked: the host's architecture."""
    monkeypatch.setattr(platform, "machine", lambda: request.param)


@pytest.fixture(params=agent_program.MADE_FOR, ids=lambda one: one.name)
def qemu(request):
    return Qemu(f"/usr/bin/qemu-system-{request.param.name}", (7, 2, 0), "named")


@pytest.fixture
def guest(tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    return Guest.kernel(kernel, setup="true")


def argv(qemu, guest, initrd=None, *, display=False):
    hardware = Hardware(qemu, Accelerator("tcg", "a test"), 300, 1, display)
    return build_command(
        hardware, ["-nic", "none"], Channels(7, 9, Path("/console.log")), initrd=initrd,
        kernel=guest.kernel_path, kernel_words=guest.kernel_words(qemu.architecture, None),
    )  # fmt: skip


@pytest.mark.usefixtures("host")
def test_argv_kernel_words_and_inittab_agree_whatever_the_host_is(qemu, guest, tmp_path):
    _, initrd = guest.boot_files(tmp_path, tmp_path, qemu.architecture)
    inittab = read_newc(initrd.read_bytes())["etc/inittab"][1].decode()
    command = argv(qemu, guest, initrd, display=True)
    (console,) = re.findall(r"console=(\w+)", command[command.index("-append") + 1])
    shown = {
        "board": command[command.index("-machine") + 1],
        "serial ports": command.count("-serial"),
        "card of serial port": "pci-serial,chardev=control" in command,
        "console": console,
        "agent on": re.search(r"^(\w+)::respawn:/vmports/agent$", inittab, re.MULTILINE)[1],
        "shell on": re.search(r"^(\w+)::respawn:-/vmports/console$", inittab, re.MULTILINE)[1],
        "display": {"VGA", "virtio-gpu-pci"} & set(command),
        "vmgenid": "vmgenid,guid=auto" in command,
        "seeded by our agent": kind_of(guest, qemu.architecture).seeded,
        "no template because": kind_of(guest, qemu.architecture).why_no_template,
    }
    pc = {
        "board": "pc", "serial ports": 2, "card of serial port": False, "console": "ttyS0",
        "agent on": "ttyS1", "shell on": "ttyS0", "display": {"VGA"}, "vmgenid": True,
        "seeded by our agent": True, "no template because": None,
    }  # fmt: skip
    virt = {
        "board": "virt", "serial ports": 1, "card of serial port": True, "console": "ttyAMA0",
        "agent on": "ttyS0", "shell on": "ttyAMA0", "display": {"virtio-gpu-pci"},
        "vmgenid": False, "seeded by our agent": True, "no template because": None,
    }  # fmt: skip
    riscv = {**virt, "console": "ttyS0", "agent on": "ttyS1", "shell on": "ttyS0"}
    assert shown == {"x86_64": pc, "aarch64": virt, "riscv64": riscv}[qemu.architecture.name]


@pytest.mark.usefixtures("host")
def test_a_bios_is_expected_on_a_pc_alone(qemu, guest):
    hardware = Hardware(qemu, Accelerator("tcg", "a test"), 300, 1)
    command = build_command(
        hardware,
        ["-nic", "none"],
        Channels(7, 9, Path("/c")),
        kernel=None,
        initrd=None,
        kernel_words="",
    )
    graphics = command[command.index("-machine") + 1].partition(",")[2]
    assert (graphics == "graphics=off") is qemu.architecture.has_bios


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/bin/qemu-system-x86_64", "x86_64"),
        ("/usr/bin/qemu-system-x86_64-spice", "x86_64"),
        ("/usr/bin/qemu-system-i386", "i386"),
        ("C:/qemu/qemu-system-aarch64.exe", "aarch64"),
        ("/opt/my-qemu", "aarch64"),
        ("/opt/qemu-system-riscv64", "riscv64"),
    ],
)
def test_a_qemu_is_told_by_its_name_and_an_odd_name_is_taken_for_the_hosts(monkeypatch, path, name):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert architecture_of(path).name == Qemu(path, (7, 2, 0), "named").architecture.name == name


def test_without_an_agent_there_is_no_template_and_the_reason_names_the_architecture(guest):
    kind = kind_of(guest, architecture_named("loongarch64"))
    assert "not made for loongarch64" in kind.why_no_template


def test_a_guest_of_an_unknown_architecture_starts_without_a_card_that_its_board_may_lack(guest):
    command = argv(Qemu("qemu-system-loongarch64", (7, 2, 0), "named"), guest)
    assert command.count("-serial") == 2 and "pci-serial,chardev=control" not in command
    # QEMU 7.2 has no "max" of each.
    assert "-cpu" not in command and "console=ttyS0" in command[command.index("-append") + 1]


@pytest.mark.parametrize(
    ("here", "qemus"), [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64")]
)
def test_hosts_are_named_as_qemu_names_them(monkeypatch, here, qemus):
    monkeypatch.setattr(platform, "machine", lambda: here)
    assert host_architecture() == qemus


def test_firmware_is_looked_for_of_what_qemu_emulates(monkeypatch, tmp_path):
    monkeypatch.setattr(firmware, "PLACES", (tmp_path,))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(firmware.FirmwareNotFoundError, match="for aarch64 found"):
        firmware.find_firmware(architecture_of("qemu-system-aarch64"))
    with pytest.raises(firmware.FirmwareNotFoundError, match="qemu-efi-riscv64"):
        firmware.find_firmware(architecture_of("qemu-system-riscv64"))


@pytest.mark.parametrize("architecture", agent_program.MADE_FOR)
def test_a_restored_guest_of_ours_is_sent_the_time_and_a_seed_at_once(
    guest, tmp_path, architecture
):
    kind = kind_of(guest, architecture)
    with contextlib.ExitStack() as stack:
        stack.callback(kind.close)
        of_qemu, *_ = kind.connect(Place(tmp_path, tmp_path, tmp_path), (), stack)
        kind.restored(None)
        with socket.socket(fileno=os.dup(of_qemu)) as channel:
            assert len(channel.recv(1000)) == 4 + 16 + 32


@pytest.mark.parametrize("architecture", agent_program.MADE_FOR, ids=lambda one: one.name)
def test_the_default_board_is_the_first_of_an_architectures_machines(architecture):
    assert architecture.machines[0] == architecture.board
    assert architecture.on(None) is architecture.on(architecture.machines[0]) is architecture


def test_another_board_of_a_pc_says_what_it_lacks():
    q35, microvm = X86_64.on("q35"), X86_64.on("microvm")
    assert (q35.board, q35.boards, q35.hot_plugs, q35.boots_disks) == ("q35", "pc-q35", False, True)
    assert (microvm.boots_disks, microvm.display, microvm.emulated) == (False, None, False)
    assert Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "", machine="q35").architecture == q35

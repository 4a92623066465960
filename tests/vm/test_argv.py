"""QEMU's argv: what is on it, from values alone."""

import itertools
from pathlib import Path

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.network.choose import Network
from pytest_vmports.system.programs import Accelerator, Qemu
from pytest_vmports.vm import argv as command_module
from pytest_vmports.vm.argv import (
    Capture,
    Channels,
    Drives,
    Fitting,
    Hardware,
    Ram,
    build_command,
)

QEMU = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "from PATH")
CHANNELS = Channels(monitor_fd=7, control_fd=9, console=Path("/run/v/console.log"))


def build(
    *,
    qemu=QEMU,
    accel="tcg",
    display=False,
    reboots=False,
    cpu=None,
    words=(),
    network=("-nic", "none"),
    channels=CHANNELS,
    **keywords,
):
    hardware = Hardware(
        qemu, Accelerator(accel, "a test"), 300, 2, display, False, reboots, cpu, words
    )
    keywords = {"kernel": Path("/k"), "initrd": Path("/i"), "kernel_words": "a b", **keywords}
    return build_command(hardware, list(network), channels, **keywords)


def values(command, option):
    """Return what follows an option, each time it is there."""
    return [value for name, value in itertools.pairwise(command) if name == option]


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(command_module.sys, "platform", "linux")


def test_nothing_comes_from_defaults_or_from_a_users_files():
    command = build()
    assert command[0] == QEMU.path
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(command)
    assert values(command, "-display") == ["none"]


def test_a_machine_that_may_reboot_goes_on_with_it_and_has_its_kernel_when_it_was_restored():
    assert "-no-reboot" in build() and "-no-reboot" not in build(reboots=True)
    restored = build(reboots=True, restore=True)
    assert (values(restored, "-incoming"), values(restored, "-kernel")) == (["defer"], ["/k"])
    assert (values(restored, "-initrd"), values(restored, "-append")) == (["/i"], ["a b"])
    assert values(build(restore=True), "-kernel") == []


def test_the_same_values_give_the_same_argv():
    assert build() == build()


def test_a_processor_that_is_asked_for_is_the_one_whatever_the_accelerator():
    for accel in ("tcg", "kvm"):
        assert values(build(accel=accel, cpu="qemu64,+avx"), "-cpu") == ["qemu64,+avx"]


def test_words_for_qemu_come_last():
    assert build(words=("-device", "edu"))[-2:] == ["-device", "edu"]


def test_memory_and_processors_are_those_of_the_hardware():
    command = build()
    assert values(command, "-m") == ["300M"]
    assert values(command, "-smp") == ["2"]


@pytest.mark.parametrize(
    ("accel", "cpu"), [("tcg", "max,-erms,-fsrm"), ("kvm", "host"), ("hvf", "host")]
)
def test_the_processor_fits_the_accelerator(accel, cpu):
    command = build(accel=accel)
    assert values(command, "-accel") == [accel]
    assert values(command, "-cpu") == [cpu]


def test_kernel_initrd_and_words_are_single_arguments():
    command = build(kernel=Path("/with blank"), initrd=Path("/i"), kernel_words='x="1 2" y')
    assert values(command, "-kernel") == ["/with blank"]
    assert values(command, "-initrd") == ["/i"]
    assert values(command, "-append") == ['x="1 2" y']


def test_a_kernel_without_initrd_has_no_such_argument():
    assert "-initrd" not in build(initrd=None)


def test_a_restored_guest_waits_for_its_state_and_boots_nothing():
    command = build(restore=True)
    assert values(command, "-incoming") == ["defer"]
    assert "-S" in command
    assert not {"-kernel", "-initrd", "-append"} & set(command)


def test_a_restored_guest_has_the_devices_of_the_one_that_was_saved():
    def machine(command):
        return [part for part in command if part not in {"-incoming", "defer", "-S"}]

    saved, restored = build(), build(restore=True)
    boot = ["-kernel", "/k", "-initrd", "/i", "-append", "a b"]
    assert machine(restored) == [part for part in machine(saved) if part not in boot]


@pytest.mark.parametrize(("share", "word"), [(True, "on"), (False, "off")])
def test_memory_in_a_file_is_shared_or_private(share, word):
    command = build(ram=Ram(Path("/ram,file"), share=share))
    assert values(command, "-object") == [
        f"memory-backend-file,id=ram,size=300M,mem-path=/ram,,file,share={word}"
    ]
    assert values(command, "-machine") == ["pc,memory-backend=ram"]


def test_monitor_and_serial_ports_are_inherited_descriptors_and_a_file():
    command = build()
    assert values(command, "-chardev") == [
        "socket,id=monitor,fd=7",
        "file,id=console,path=/run/v/console.log",
        "socket,id=control,fd=9",
    ]
    assert values(command, "-mon") == ["chardev=monitor,mode=control"]
    assert values(command, "-serial") == ["chardev:console", "chardev:control"]


def test_a_qemu_that_has_monitors_as_objects_is_given_those():
    channels = Channels(7, 9, Path("/run/v/console.log"), sockets=Path("/run/v"))
    command = build(qemu=Qemu(QEMU.path, (11, 1, 0), "from PATH"), channels=channels)
    assert values(command, "-object") == [
        "monitor-qmp,id=monitor0,chardev=monitor",
        "monitor-hmp,id=people0,chardev=people",
    ]
    assert "-mon" not in command
    assert "-object" not in build(qemu=Qemu(QEMU.path, (11, 0, 9), "from PATH"))


def test_a_comma_in_a_path_does_not_end_it():
    channels = Channels(7, 9, Path("/run/a,b/console.log"))
    assert "file,id=console,path=/run/a,,b/console.log" in build(channels=channels)


def test_only_a_machine_with_a_display_has_a_graphics_card():
    assert "VGA" not in build()
    assert "VGA" in values(build(display=True), "-device")


def test_a_vm_that_may_be_kept_has_its_console_and_a_monitor_on_sockets_and_the_same_log():
    channels = Channels(7, 9, Path("/run/v/console.log"), sockets=Path("/run/a,b"))
    command = build(channels=channels)
    assert values(command, "-chardev") == [
        "socket,id=monitor,fd=7",
        "socket,id=console,path=/run/a,,b/console.sock,server=on,wait=off,logfile=/run/v/console.log",
        "socket,id=people,path=/run/a,,b/monitor.sock,server=on,wait=off",
        "socket,id=control,fd=9",
    ]
    assert values(command, "-mon") == [
        "chardev=monitor,mode=control",
        "chardev=people,mode=readline",
    ]


def test_nothing_listens_but_the_forwards():
    forward = ExposedPort(internal=80, external=20417)
    command = " ".join(build(network=Network("usernet").first_card_args([forward], [])))
    assert command.count("20417") == 1
    for word in ("tcp::", "server", "listen", "-gdb", "-s ", "-vnc", "-qmp"):
        assert word not in command


def test_the_network_is_the_one_given():
    assert values(build(), "-nic") == ["none"]
    joined = " ".join(build(network=["-netdev", "a", "-device", "b"]))
    assert " -netdev a -device b" in joined
    assert "-nic" not in joined


def test_packets_are_written_down_of_the_card_that_is_named_and_of_none_otherwise():
    assert "filter-dump" not in " ".join(build())
    captured = build(capture=Capture("h2", Path("/run/a,b/packets.pcap")))
    assert values(captured, "-object") == [
        "filter-dump,id=capture,netdev=h2,file=/run/a,,b/packets.pcap"
    ]


@pytest.mark.usefixtures("linux")
def test_qemu_runs_in_its_sandbox_and_may_start_nothing():
    (sandbox,) = values(build(), "-sandbox")
    assert sandbox.startswith("on,")
    assert {"spawn=deny", "elevateprivileges=deny", "obsolete=deny"} < set(sandbox.split(","))


@pytest.mark.usefixtures("linux")
def test_a_qemu_without_the_sandbox_is_not_asked_for_it():
    assert "-sandbox" not in build(qemu=Qemu(QEMU.path, (7, 2, 0), "from PATH", has_sandbox=False))


def test_the_sandbox_exists_on_linux_only(monkeypatch):
    monkeypatch.setattr(command_module.sys, "platform", "darwin")
    assert "-sandbox" not in build()


@pytest.mark.parametrize(
    ("path", "native", "machine"),
    [
        ("/usr/bin/qemu-system-x86_64", "aarch64", "pc"),
        ("/usr/bin/qemu-system-aarch64", "aarch64", "virt"),
        ("/usr/bin/qemu-system-aarch64", "x86_64", "virt"),
        ("/opt/my-qemu", "x86_64", "pc"),
    ],
)
def test_the_machine_fits_what_qemu_emulates(monkeypatch, path, native, machine):
    monkeypatch.setattr("platform.machine", lambda: native)
    command = build(qemu=Qemu(path, (8, 0, 0), "named"))
    assert values(command, "-machine") == [machine]
    assert ("vmgenid,guid=auto" in values(command, "-device")) == (machine == "pc")


def test_a_guest_that_our_agent_seeds_has_no_vmgenid():
    assert "vmgenid,guid=auto" in values(build(), "-device")
    assert "vmgenid,guid=auto" not in values(build(fitting=Fitting(seeded=True)), "-device")


# --- whole machines -----------------------------------------------------------------------------

WEB = ExposedPort(internal=80, external=20417)
NAME = ["-name", "vmports", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
CHANNELS_ARGV = [
    "-chardev", "socket,id=monitor,fd=7", "-mon", "chardev=monitor,mode=control",
    "-chardev", "file,id=console,path=/run/v/console.log", "-serial", "chardev:console",
    "-chardev", "socket,id=control,fd=9", "-serial", "chardev:control",
]  # fmt: skip
SANDBOX = [
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
]  # fmt: skip
USERNET = [
    "-netdev",
    (
        "user,id=n0,restrict=on,net=192.168.127.0/24,host=192.168.127.1,dns=192.168.127.3,"
        "dhcpstart=192.168.127.2,hostfwd=tcp:127.0.0.1:20417-192.168.127.2:80"
    ),
    "-device",
    "virtio-net-pci,netdev=n0,mac=5a:94:ef:e4:0c:ee,romfile=,guest_announce=off",
]
ROOT = [
    "-drive", "id=root,if=none,format=qcow2,cache=unsafe,file=/run/v/root.qcow2",
    "-device", "virtio-blk-pci,drive=root,bootindex=1", "-device", "virtio-rng-pci",
]  # fmt: skip
SEED = [
    "-drive", "id=seed,if=none,format=raw,readonly=on,file=/run/v/seed.iso",
    "-device", "virtio-blk-pci,drive=seed,serial=seed",
]  # fmt: skip
FIRMWARE = [
    "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/code.fd",
    "-drive", "if=pflash,unit=1,format=raw,file=/run/v/variables.fd",
]  # fmt: skip
AGENT = [
    "-chardev", "socket,id=agent,fd=11", "-device", "virtio-serial-pci",
    "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
]  # fmt: skip


@pytest.mark.usefixtures("linux")
def test_a_guest_of_ours_with_a_port_is_exactly_this():
    assert build(network=USERNET) == [
        QEMU.path, *NAME, "-machine", "pc", "-accel", "tcg", "-cpu", "max,-erms,-fsrm",
        "-m", "300M", "-smp", "2", "-kernel", "/k", "-initrd", "/i", "-append", "a b",
        "-device", "vmgenid,guid=auto", *CHANNELS_ARGV, *USERNET, *SANDBOX,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "backend"),
    [
        (None, "memory-backend-ram,id=window,size=4194304"),
        (
            13,
            "memory-backend-file,id=window,size=4194304,mem-path=/proc/self/fd/13,share=on",
        ),
    ],
)
def test_a_guest_with_a_window_has_its_device_whoever_shares_it(file, backend):
    channels = Channels(7, 9, Path("/run/v/console.log"), window_fd=file)
    command = build(channels=channels, fitting=Fitting(window=True))
    assert backend in values(command, "-object")
    assert "ivshmem-plain,memdev=window,master=on,addr=0x1e" in values(command, "-device")
    assert not [word for word in build(channels=channels) if "window" in word]


@pytest.mark.parametrize(
    ("program", "accelerator", "built_with", "has"),
    [
        ("qemu-system-x86_64", "tcg", True, True),
        ("qemu-system-x86_64", "kvm", True, True),
        ("qemu-system-x86_64", "tcg", False, False),
        ("qemu-system-aarch64", "tcg", True, True),
        ("qemu-system-aarch64", "kvm", True, False),  # its accesses pass by the cache
        ("qemu-system-riscv64", "tcg", True, True),
        ("qemu-system-loongarch64", "tcg", True, False),
    ],
)
def test_a_guest_can_share_memory_where_both_see_the_same(program, accelerator, built_with, has):
    qemu = Qemu(f"/usr/bin/{program}", (7, 2, 0), "from PATH", has_window=built_with)
    hardware = Hardware(qemu, Accelerator(accelerator, "asked for"), 256, 1)
    assert hardware.has_window == has


@pytest.mark.parametrize(
    ("program", "version", "accelerator", "lacking"),
    [
        ("qemu-system-riscv64", (7, 2, 0), "tcg", True),
        ("qemu-system-riscv64", (10, 1, 9), "tcg", True),
        ("qemu-system-riscv64", (10, 2, 0), "tcg", False),
        ("qemu-system-riscv64", (7, 2, 0), "kvm", False),
        ("qemu-system-x86_64", (7, 2, 0), "tcg", False),
    ],
)
def test_a_guest_whose_timers_qemu_does_not_save_is_told(program, version, accelerator, lacking):
    qemu = Qemu(f"/usr/bin/{program}", version, "from PATH")
    why = Hardware(qemu, Accelerator(accelerator, "asked for"), 256, 1).why_not_saved
    assert (why is not None) == lacking
    if why is not None:
        assert f"QEMU {'.'.join(map(str, version))} does not save" in why
        assert "as 10.2.0 does" in why


@pytest.mark.usefixtures("linux")
def test_a_clone_with_captured_packets_is_exactly_this():
    command = build(
        accel="kvm", network=USERNET, restore=True,
        ram=Ram(Path("/t/ram"), share=False), capture=Capture("n0", Path("/run/v/packets.pcap")),
    )  # fmt: skip
    assert command == [
        QEMU.path, *NAME,
        "-object", "memory-backend-file,id=ram,size=300M,mem-path=/t/ram,share=off",
        "-machine", "pc,memory-backend=ram", "-accel", "kvm", "-cpu", "host",
        "-m", "300M", "-smp", "2", "-incoming", "defer", "-S",
        "-device", "vmgenid,guid=auto", *CHANNELS_ARGV, *USERNET,
        "-object", "filter-dump,id=capture,netdev=n0,file=/run/v/packets.pcap", *SANDBOX,
    ]  # fmt: skip


@pytest.mark.usefixtures("linux")
def test_a_disk_that_a_bios_boots_is_exactly_this():
    command = build(
        channels=Channels(7, 9, Path("/run/v/console.log"), agent_fd=11), display=True,
        kernel=None, initrd=None, kernel_words="",
        drives=Drives(Path("/run/v/root.qcow2"), Path("/run/v/seed.iso")),
    )  # fmt: skip
    assert command == [
        QEMU.path, *NAME, "-machine", "pc,graphics=off", "-accel", "tcg", "-cpu", "max,-erms,-fsrm",
        "-m", "300M", "-smp", "2", "-device", "vmgenid,guid=auto", *CHANNELS_ARGV,
        "-device", "VGA", *ROOT, *SEED, *AGENT, "-nic", "none", *SANDBOX,
    ]  # fmt: skip


@pytest.mark.usefixtures("linux")
def test_an_arm64_disk_that_uefi_boots_is_exactly_this():
    qemu = Qemu("/usr/bin/qemu-system-aarch64", (7, 2, 0), "from PATH")
    command = build(
        qemu=qemu, display=True, kernel=None, initrd=None, kernel_words="",
        drives=Drives(
            Path("/run/v/root.qcow2"),
            firmware=(Path("/usr/share/code.fd"), Path("/run/v/variables.fd")),
        ),
    )  # fmt: skip
    assert command == [
        qemu.path, *NAME, "-machine", "virt", "-accel", "tcg", "-cpu", "max",
        "-m", "300M", "-smp", "2", *CHANNELS_ARGV[:-2],
        "-device", "pci-serial,chardev=control", "-device", "virtio-gpu-pci",
        *ROOT, *FIRMWARE, "-nic", "none", *SANDBOX,
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["root", "seed", "code", "variables"])
def test_a_comma_in_the_path_of_a_drive_does_not_end_it(which):
    paths = {name: Path("/d") for name in ("root", "seed", "code", "variables")}
    paths[which] = Path("/a,b")
    drives = Drives(paths["root"], paths["seed"], (paths["code"], paths["variables"]))
    drives_argv = values(build(drives=drives, kernel=None), "-drive")
    assert [value.endswith(",file=/a,,b") for value in drives_argv].count(True) == 1


def test_further_disks_come_between_the_root_and_the_seed():
    command = build(drives=Drives(Path("/r"), Path("/s")), more_disks=[Path("/a,b"), Path("/c")])
    disks = [one for one in values(command, "-device") if one.startswith("virtio-blk-pci")]
    assert disks == [
        "virtio-blk-pci,drive=root,bootindex=1",
        "virtio-blk-pci,drive=disk1,serial=disk1",
        "virtio-blk-pci,drive=disk2,serial=disk2",
        "virtio-blk-pci,drive=seed,serial=seed",
    ]
    assert "id=disk1,if=none,format=qcow2,cache=unsafe,file=/a,,b" in values(command, "-drive")
    alone = build(more_disks=[Path("/a")])
    assert values(alone, "-device").count("virtio-blk-pci,drive=disk1,serial=disk1") == 1


@pytest.mark.parametrize("secure", [False, True])
def test_only_the_firmware_writes_its_variables_where_it_checks_signatures(secure):
    qemu = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "", machine="q35")
    drives = Drives(Path("/r"), None, (Path("/code"), Path("/vars")), secure)
    command = build(qemu=qemu, drives=drives, kernel=None)
    assert ("smm=on" in values(command, "-machine")[0].split(",")) is secure
    assert ("driver=cfi.pflash01,property=secure,value=on" in command) is secure

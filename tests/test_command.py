"""QEMU's argv: what is on it, from values alone."""

import itertools
from pathlib import Path

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.host import Accelerator, Qemu
from pytest_vmports.network.usernet import NoNetwork, UsernetWiring
from pytest_vmports.vm import command as command_module
from pytest_vmports.vm.command import Channels, Hardware, Ram, build_command

QEMU = Qemu("/usr/bin/qemu-system-x86_64", (7, 2, 0), "from PATH")
CHANNELS = Channels(monitor_fd=7, control_fd=9, console=Path("/run/v/console.log"))


def build(*, qemu=QEMU, accel="tcg", display=False, wiring=None, channels=CHANNELS, **keywords):
    hardware = Hardware(qemu, Accelerator(accel, "a test"), 300, 2, display)
    keywords = {"kernel": Path("/k"), "initrd": Path("/i"), "kernel_words": "a b", **keywords}
    return build_command(hardware, wiring or NoNetwork(), channels, **keywords)


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


def test_the_same_values_give_the_same_argv():
    assert build() == build()


def test_memory_and_processors_are_those_of_the_hardware():
    command = build()
    assert values(command, "-m") == ["300M"]
    assert values(command, "-smp") == ["2"]


@pytest.mark.parametrize(("accel", "cpu"), [("tcg", "max"), ("kvm", "host"), ("hvf", "host")])
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
    wiring = UsernetWiring((ExposedPort(internal=80, external=20417),))
    command = " ".join(build(wiring=wiring))
    assert command.count("20417") == 1
    for word in ("tcp::", "server", "listen", "-gdb", "-s ", "-vnc", "-qmp"):
        assert word not in command


def test_the_network_is_the_wirings():
    assert values(build(), "-nic") == ["none"]
    wiring = UsernetWiring((ExposedPort(internal=80, external=20417),))
    joined = " ".join(build(wiring=wiring))
    assert " ".join(wiring.qemu_args()) in joined
    assert "-nic" not in joined


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

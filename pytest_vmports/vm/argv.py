"""QEMU's argv, from values alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.vm.inside.window import BUS_SLOT, SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.system.programs import Accelerator, Qemu

# Name of the file of captured packets in a VM's private folder.
CAPTURE = "packets.pcap"
# Likewise, that of what its display shows.
PICTURE = "screen.png"
# Names of the sockets that lead to a VM's console and to a monitor for people.
CONSOLE_SOCKET, MONITOR_SOCKET = "console.sock", "monitor.sock"
# By it a guest of ours finds that disk, whatever others it has.
SEED_SERIAL = "seed"
# QEMU's own seccomp filter; no part of it is needed by a guest that only computes and talks.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

# Nothing of a disk outlives its VM, so nothing has to reach the host's.
_UNSAFE = "cache=unsafe"

# This QEMU calls ``-mon`` deprecated (source: its document on deprecated features).
_FIRST_WITH_MONITOR_OBJECTS = (11, 1, 0)
_FIRST_TO_MAP_READ_ONLY = (8, 2, 0)


@dataclass(frozen=True)
class Hardware:
    """The machine that a guest sees.

    ``memory`` is in MiB; ``display``: it has a graphics card; ``crash_dump``: a crashed guest's
    memory is wanted; ``reboots``: it may reboot, which ends QEMU otherwise; ``cpu``: its processor,
    as ``-cpu`` takes it, or None for the one that is best here; ``qemu_args``: the test's own
    words for QEMU.
    """

    qemu: Qemu
    accelerator: Accelerator
    memory: int
    cpus: int
    display: bool = False
    crash_dump: bool = False
    reboots: bool = False
    cpu: str | None = None
    qemu_args: tuple[str, ...] = ()

    @property
    def processor(self) -> str | None:
        """QEMU's word for its processors: as asked, the host's own, or what can be emulated.

        None for those that its board has.
        """
        if self.cpu is not None:
            return self.cpu
        emulated = self.accelerator.name == "tcg"
        return self.qemu.architecture.emulated_cpu if emulated else "host"

    @property
    def has_window(self) -> bool:
        """Whether a guest can share memory with us by a device of QEMU's."""
        return self.qemu.has_window and self.accelerator.name in self.qemu.architecture.window

    @property
    def why_not_saved(self) -> str | None:
        """Why a saved state of it would lack something; None where it would not."""
        first = self.qemu.architecture.saved_from
        if self.accelerator.name != "tcg" or self.qemu.version >= first:
            return None
        return (
            f"QEMU {_dotted(self.qemu.version)} does not save the timers of a guest for "
            f"{self.qemu.architecture.name}, as {_dotted(first)} does: what sleeps in a restored "
            "one may never wake"
        )


@dataclass(frozen=True)
class Channels:
    """Where QEMU's monitor and serial ports lead: inherited descriptors, and the console's file.

    ``agent_fd`` leads to the QEMU guest agent, where the guest runs one. ``sockets`` is the folder
    of two sockets, for the console and for a monitor that people read, or None. ``window_fd`` is
    the memory that we share with a guest that has a window; None gives it one that nobody shares.
    ``tpm_fd`` leads to its TPM, where it has one.
    """

    monitor_fd: int
    control_fd: int
    console: Path
    agent_fd: int | None = None
    sockets: Path | None = None
    window_fd: int | None = None
    tpm_fd: int | None = None


@dataclass(frozen=True)
class Fitting:
    """What a machine has, or lacks, for what runs in it or beside it.

    Attributes:
        seeded: our agent seeds the random numbers of a guest that was restored, so it lacks what
            tells it so: a vmgenid's notification is interpreted code of ACPI's, a tenth of a
            clone's way to its first byte.
        window: it has memory that it shares with us, for our agent.
        shared: the name of memory that a process beside QEMU can be given; None: it cannot.
    """

    seeded: bool = False
    window: bool = False
    shared: str | None = None


_PLAIN = Fitting()


@dataclass(frozen=True)
class Drives:
    """The files that are a VM's disks.

    Attributes:
        root: a qcow2 that takes the guest's writes; the guest's first disk.
        seed: what cloud-init reads, or None; read only.
        firmware: UEFI's program and this VM's copy of its variables; None for a PC's BIOS.
        secure: that firmware checks who signed what it boots.
    """

    root: Path
    seed: Path | None = None
    firmware: tuple[Path, Path] | None = None
    secure: bool = False


@dataclass(frozen=True)
class Ram:
    """A file that is the guest's memory.

    Attributes:
        path: the file.
        share: what the guest writes goes into the file; False keeps it private to this QEMU,
            page by page as it writes (copy on write).
    """

    path: Path
    share: bool


@dataclass(frozen=True)
class Capture:
    """A card whose packets are written down. Source: QEMU's documentation of ``filter-dump``.

    Attributes:
        netdev: QEMU's id of what the card is connected to.
        file: where to, in pcap's format.
    """

    netdev: str
    file: Path


def build_command(
    hardware: Hardware,
    network: list[str],
    channels: Channels,
    *,
    kernel: Path | None,
    initrd: Path | None,
    kernel_words: str,
    drives: Drives | None = None,
    more_disks: Sequence[Path] = (),
    ram: Ram | None = None,
    capture: Capture | None = None,
    restore: bool = False,
    fitting: Fitting = _PLAIN,
) -> list[str]:
    """Return the argv that boots this guest with this network.

    The first serial port is the console, written to a file; a second one is the control channel of
    a guest we prepared. Nothing listens on a TCP port but the forwards.

    Args:
        hardware: the machine.
        network: the arguments that give it its cards; see `network_args`.
        channels: where its monitor and serial ports lead.
        kernel: the kernel to boot; None where firmware finds one on the disk. A restored machine
            is given it too where its guest may reboot, for then it is booted.
        initrd: the initrd, or None.
        kernel_words: the kernel's command line.
        drives: its root and what belongs to that, or None.
        more_disks: qcow2 files that are its next disks.
        ram: the file that is its memory; None for anonymous memory.
        capture: whose packets to write down; None for nobody's.
        restore: wait for a saved state on the monitor instead of booting.
        fitting: what the machine has, or lacks, for what runs in it or beside it.
    """
    command = [
        hardware.qemu.path,
        *("-name", "vmports", "-nodefaults", "-no-user-config", "-display", "none"),
        *(() if hardware.reboots else ("-no-reboot",)),
        *_board(hardware, ram, fitting, drives, by_firmware=kernel is None),
        *("-accel", hardware.accelerator.name),
        *(() if hardware.processor is None else ("-cpu", hardware.processor)),
        *("-m", f"{hardware.memory}M", "-smp", str(hardware.cpus)),
        *(_boot(kernel, initrd, kernel_words) if hardware.reboots or not restore else ()),
        *(("-incoming", "defer", "-S") if restore else ()),
        *(() if fitting.seeded else hardware.qemu.architecture.restored_args),
        *_channels(hardware.qemu, channels),
        *(_window(channels.window_fd) if fitting.window else ()),
        *_display(hardware),
        *_drives(drives, more_disks),
        *_agent(channels.agent_fd),
        *network,
        *_capture(capture),
        *_panic_device(hardware),
    ]
    linux = sys.platform.startswith("linux")
    sandbox = ("-sandbox", _SANDBOX) if linux and hardware.qemu.has_sandbox else ()
    return [*command, *sandbox, *hardware.qemu_args]


def _board(
    hardware: Hardware,
    ram: Ram | None,
    fitting: Fitting,
    drives: Drives | None,
    *,
    by_firmware: bool,
) -> tuple[str, ...]:
    machine = hardware.qemu.architecture.board
    if drives is not None and drives.secure:
        machine = hardware.qemu.architecture.secure_board or machine
    if by_firmware and hardware.qemu.architecture.has_bios:
        machine += ",graphics=off"  # the BIOS then writes to the console, "no bootable device" too
    if fitting.shared is not None:
        # Without a name among the host's files, and gone with the last who has it.
        backend = f"memory-backend-memfd,id={fitting.shared},size={hardware.memory}M,share=on"
        return ("-object", backend, "-machine", f"{machine},memory-backend={fitting.shared}")
    if ram is None:
        return ("-machine", machine)
    mapped = f"mem-path={escaped(ram.path)},share={'on' if ram.share else 'off'}"
    if maps_read_only(hardware.qemu, ram):
        mapped += ",readonly=on,rom=off"
    backend = f"memory-backend-file,id=ram,size={hardware.memory}M,{mapped}"
    return ("-object", backend, "-machine", f"{machine},memory-backend=ram")


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def maps_read_only(qemu: Qemu, ram: Ram) -> bool:
    """Whether QEMU opens the file of its memory to read only. Source: its manual, ``rom``."""
    return not ram.share and qemu.version >= _FIRST_TO_MAP_READ_ONLY


def _display(hardware: Hardware) -> tuple[str, ...]:
    display = hardware.qemu.architecture.display
    return ("-device", display) if hardware.display and display is not None else ()


def _panic_device(hardware: Hardware) -> tuple[str, ...]:
    """Return the device by which a guest that has the driver tells of its kernel's panic.

    The last of all, so that no card moves to another place for it. QEMU would end the VM by itself;
    it is told to do nothing, for a guest may have plans of its own (kdump, panic=-1), or to keep
    the guest as it is for a dump, in which ``vmcoreinfo`` tells readers where the kernel lies.
    """
    device = hardware.qemu.architecture.panic_device
    if device is None or not hardware.qemu.has_panic_device:
        return ()
    if hardware.crash_dump:
        return ("-device", device, "-device", "vmcoreinfo", "-action", "panic=pause")
    return ("-device", device, "-action", "panic=none")


def _monitor(qemu: Qemu, chardev: str, mode: str) -> list[str]:
    """Return a monitor: ``control`` speaks QMP, ``readline`` is for people."""
    if qemu.version < _FIRST_WITH_MONITOR_OBJECTS:
        return ["-mon", f"chardev={chardev},mode={mode}"]
    kind = "monitor-qmp" if mode == "control" else "monitor-hmp"
    return ["-object", f"{kind},id={chardev}0,chardev={chardev}"]


def _channels(qemu: Qemu, channels: Channels) -> list[str]:
    return [
        *("-chardev", f"socket,id=monitor,fd={channels.monitor_fd}"),
        *_monitor(qemu, "monitor", "control"),
        *_console(qemu, channels),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=control,fd={channels.control_fd}"),
        *qemu.architecture.control_args,
    ]


def _console(qemu: Qemu, channels: Channels) -> list[str]:
    log = escaped(channels.console)
    if channels.sockets is None:
        return ["-chardev", f"file,id=console,path={log}"]
    console, monitor = (
        f"path={escaped(channels.sockets / name)},server=on,wait=off"
        for name in (CONSOLE_SOCKET, MONITOR_SOCKET)
    )
    return [
        *("-chardev", f"socket,id=console,{console},logfile={log}"),
        *("-chardev", f"socket,id=people,{monitor}"),
        *_monitor(qemu, "people", "readline"),
    ]


def _boot(kernel: Path | None, initrd: Path | None, kernel_words: str) -> tuple[str, ...]:
    if kernel is None:
        return ()
    given = ("-initrd", str(initrd)) if initrd is not None else ()
    return ("-kernel", str(kernel), *given, "-append", kernel_words)


def _drives(drives: Drives | None, more_disks: Sequence[Path]) -> list[str]:
    """Return the disks, in the order in which a guest names them: root, others, seed."""
    more = []
    for number, file in enumerate(more_disks, 1):
        more += ["-drive", f"id=disk{number},if=none,format=qcow2,{_UNSAFE},file={escaped(file)}"]
        more += ["-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}"]
    if drives is None:
        return more
    # Boot index 0 is taken where a kernel is booted directly.
    command = ["-drive", f"id=root,if=none,format=qcow2,{_UNSAFE},file={escaped(drives.root)}"]
    command += ["-device", "virtio-blk-pci,drive=root,bootindex=1", "-device", "virtio-rng-pci"]
    command += more
    if drives.seed is not None:
        command += ["-drive", f"id=seed,if=none,format=raw,readonly=on,file={escaped(drives.seed)}"]
        command += ["-device", f"virtio-blk-pci,drive=seed,serial={SEED_SERIAL}"]
    # Only the firmware, which runs in SMM, writes its variables. Source: edk2's OvmfPkg/README.
    command += ["-global", "driver=cfi.pflash01,property=secure,value=on"] if drives.secure else []
    if drives.firmware is not None:
        code, variables = map(escaped, drives.firmware)
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
    return command


def _capture(capture: Capture | None) -> list[str]:
    if capture is None:
        return []
    dump = f"filter-dump,id=capture,netdev={capture.netdev},file={escaped(capture.file)}"
    return ["-object", dump]


def _window(descriptor: int | None) -> list[str]:
    """Return the device whose memory is the window; in a place of its own, which our agent knows.

    ``master``: else QEMU saves no guest that has it; its memory, being shared, is not saved.
    """
    backend = f"memory-backend-ram,id=window,size={SIZE}"
    if descriptor is not None:
        path = f"/proc/self/fd/{descriptor}"
        backend = f"memory-backend-file,id=window,size={SIZE},mem-path={path},share=on"
    device = f"ivshmem-plain,memdev=window,master=on,addr={BUS_SLOT:#x}"
    return ["-object", backend, "-device", device]


def _agent(descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    port = "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
    channel = f"socket,id=agent,fd={descriptor}"
    return ["-chardev", channel, "-device", "virtio-serial-pci", "-device", port]


def escaped(path: Path) -> str:
    """Return a path as QEMU's option syntax takes it."""
    # A comma ends a value in QEMU's option syntax unless doubled.
    return str(path).replace(",", ",,")

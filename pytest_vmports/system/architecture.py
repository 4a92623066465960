"""What differs from one processor architecture to another, as values of the QEMU that was found."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """The architecture that a QEMU emulates, and what its guests are given for it.

    Attributes:
        name: QEMU's word for it, ``x86_64``.
        distributions: the word of most distributions for it, ``amd64``.
        board: its machine type, as ``-machine`` takes it.
        boards: what names of machine types begin with in descriptions of firmware for it.
        has_bios: the board brings a BIOS, which boots a disk where no UEFI is asked for.
        console: the guest's name of its console's device.
        control: the guest's name of the control channel's device.
        control_args: what connects that device to the chardev ``control``.
        display: its graphics card; None where there is none.
        restored_args: what tells a guest that it was restored, so that no two clones draw the same
            random numbers; where there is no such device our agent seeds them.
        kernel_words: words for the kernel's command line.
        emulated_cpu: the processor where QEMU emulates one, as ``-cpu`` takes it; None for the
            one that its board has.
        window: the accelerators under which a guest's agent and we see the same in memory that we
            share.
        panic_device: by which a guest's kernel tells QEMU that it has panicked; None where there is
            none.
        hot_plugs: devices can be plugged into its board while it runs.
        tpm: the device by which a guest reaches its TPM; None where its board has none.
        boots_disks: firmware can boot a disk on its board; else a kernel has to be given.
        emulated: its guests boot for certain where QEMU emulates the processor.
        secure_board: likewise `board` with what keeps a guest from the keys of Secure Boot; None
            where there is nothing of that kind.
        uefi: what installs UEFI for it, as `install_hint` takes it.
        agent: the file of our agent among the package's guest files; None where there is none, and
            a guest that we prepared says that it is ready and no more.
        kernels: what kernels QEMU boots for it, by `file_kinds`; empty where that is not known.
        saved_from: the first QEMU whose saved states of an emulated guest hold all of it.
        bundled_memory: MiB with which the bundled guest comes up for certain.
        host_ticks: where QEMU emulates its processor, that one's counter is the host's.
    """

    name: str
    distributions: str
    board: str
    boards: str
    has_bios: bool
    console: str
    control: str
    control_args: tuple[str, ...]
    display: str | None
    restored_args: tuple[str, ...] = ()
    kernel_words: tuple[str, ...] = ()
    emulated_cpu: str | None = "max"
    window: frozenset[str] = frozenset()
    panic_device: str | None = None
    hot_plugs: bool = False
    tpm: str | None = None
    boots_disks: bool = True
    emulated: bool = True
    secure_board: str | None = None
    uefi: str = "uefi-arm"
    agent: str | None = None
    kernels: frozenset[str] = frozenset()
    saved_from: tuple[int, int, int] = (0, 0, 0)
    bundled_memory: int = 0
    host_ticks: bool = False

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types that a guest may be given, the one that it has by default first."""
        return tuple(_MACHINES.get(self.name, {self.board: {}}))

    def on(self, machine: str | None) -> Architecture:
        """Return this architecture on another of its machine types; None means its default.

        Args:
            machine: one of `machines`.
        """
        changes = {} if machine is None else _MACHINES.get(self.name, {}).get(machine, {})
        return replace(self, **changes) if changes else self


# What the machine types of an architecture differ in from the first, its default.
_OF_X86: dict[str, dict[str, Any]] = {
    "pc": {},
    # A device that is plugged into its first bus while it runs is refused there.
    "q35": {"board": "q35", "boards": "pc-q35", "hot_plugs": False, "secure_board": "q35,smm=on"},
    # With a bus of PCI, for it has no other place for a second card or for memory that is shared.
    # It has neither HPET nor a timer of ACPI's. An emulated guest on a busy host fails to calibrate
    # its processor's counter by the one timer that is left, and then hangs in two boots of three.
    "microvm": {
        "board": "microvm,pcie=on", "emulated": False, "boards": "microvm",
        "hot_plugs": False, "boots_disks": False, "display": None, "tpm": None,
        "restored_args": (),
        # It makes the first serial port alone by itself.
        "control_args": ("-device", "isa-serial,chardev=control,index=1"),
    },
}  # fmt: skip
_MACHINES: dict[str, dict[str, dict[str, Any]]] = {
    "x86_64": _OF_X86,
    "i386": _OF_X86,
    "aarch64": {"virt": {}},
    "arm": {"virt": {}},
    "riscv64": {"virt": {}},
}
X86_64 = Architecture(
    name="x86_64",
    distributions="amd64",
    board="pc",
    boards="pc-i440fx",
    has_bios=True,
    uefi="uefi",
    console="ttyS0",
    control="ttyS1",
    control_args=("-serial", "chardev:control"),
    display="VGA",
    restored_args=("-device", "vmgenid,guid=auto"),
    # On a busy host an emulated timer's ticks come late, and Linux panics with "IO-APIC + timer
    # doesn't work!" (source: the kernel's kernel-parameters.txt).
    kernel_words=("no_timer_check",),
    # Told that its processor copies fast byte by byte, a kernel does that, and QEMU emulates each
    # byte: it copies two to three times as much without.
    emulated_cpu="max,-erms,-fsrm",
    window=frozenset(("tcg", "kvm")),
    # Not pvpanic-pci, for which kernels before 5.14 have no driver.
    panic_device="pvpanic",
    hot_plugs=True,
    tpm="tpm-tis",
    agent="agent.x86_64",
    # An ELF that can be entered so (PVH); QEMU says where one cannot.
    kernels=frozenset(("bzImage", "ELF for x86", "ELF")),
    # Booted with a setup, in both wirings: 96 panics, 97 now and then, 98 came up.
    bundled_memory=104,
    host_ticks=True,
)
AARCH64 = Architecture(
    name="aarch64",
    distributions="arm64",
    board="virt",
    boards="virt",
    has_bios=False,
    console="ttyAMA0",
    # This board has one serial port. Debian's 6.1 and Alpine's 6.18 have the driver of this card
    # built in, and it is their first 8250.
    control="ttyS0",
    control_args=("-device", "pci-serial,chardev=control"),
    display="virtio-gpu-pci",
    # With KVM the guest's accesses pass by the processor's cache, in which ours lie.
    window=frozenset(("tcg",)),
    panic_device="pvpanic-pci",
    tpm="tpm-tis-device",
    agent="agent.aarch64",
    # Those below U-Boot's head and compressed ones QEMU takes apart; zboot from 8.0 on.
    kernels=frozenset(("arm64 Image", "zboot", "ELF for arm64", "ELF", "U-Boot", "gzip")),
    # Booted likewise, emulated: 80 panics, 88 came up.
    bundled_memory=96,
)
RISCV64 = Architecture(
    name="riscv64",
    distributions="riscv64",
    board="virt",
    boards="virt",
    has_bios=False,
    console="ttyS0",
    # This board has one serial port too. Debian's 6.12 has the driver of this card built in.
    control="ttyS1",
    control_args=("-device", "pci-serial,chardev=control"),
    display="virtio-gpu-pci",
    # QEMU 7.2 has no "max" for it; its board's has what Debian's kernel needs.
    emulated_cpu=None,
    window=frozenset(("tcg",)),
    panic_device="pvpanic-pci",
    uefi="uefi-riscv",
    agent="agent.riscv64",
    # What is compressed QEMU 7.2 takes as it is, and a guest of that says nothing.
    kernels=frozenset(("riscv Image", "ELF for RISC-V", "ELF", "U-Boot")),
    # Before, the timer that a guest has set is lost (source: QEMU's commit b0daaa17): in a restored
    # one ``sleep`` never ended, now and then.
    saved_from=(10, 2, 0),
)
_KNOWN = {
    one.name: one
    for one in (
        X86_64,
        replace(X86_64, name="i386", distributions="i386", agent=None, bundled_memory=0),
        AARCH64,
        replace(
            AARCH64,
            name="arm",
            distributions="armhf",
            agent=None,
            kernels=frozenset(("arm zImage", "ELF for arm", "ELF", "U-Boot")),
            bundled_memory=0,
        ),
        RISCV64,
    )
}


def host_architecture() -> str:
    """Return QEMU's name for this machine's architecture."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def architecture_of(qemu: str) -> Architecture:
    """Return what a QEMU emulates, by its program's name.

    Args:
        qemu: its path; a name that tells nothing is taken for the host's own.
    """
    _, told, target = Path(qemu).name.partition("qemu-system-")
    name = target.partition("-")[0].removesuffix(".exe") if told else host_architecture()
    return architecture_named(name)


def architecture_named(name: str) -> Architecture:
    """Return the architecture that QEMU calls so; one that we have not tried gets a guess."""
    # The board that most of them have, which need not have PCI.
    return _KNOWN.get(name) or replace(
        AARCH64, name=name, distributions=name, agent=None, panic_device=None, tpm=None,
        window=frozenset(), kernels=frozenset(), bundled_memory=0,
        console="ttyS0", control="ttyS1", control_args=("-serial", "chardev:control"),
        emulated_cpu=None,
    )  # fmt: skip

"""What one VM is, as one value: QEMU's arguments and the keys of what is saved derive from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.guests.booted import base_of
from pytest_vmports.guests.image import Disk
from pytest_vmports.guests.more_disks import name_of
from pytest_vmports.network.cards import masked_args, masked_words
from pytest_vmports.system import processors
from pytest_vmports.system.digests import content_digest
from pytest_vmports.system.stored import KEY_LENGTH
from pytest_vmports.vm import gdb, share, tpm
from pytest_vmports.vm.argv import Capture, Channels, Fitting, build_command
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.saved import OVERLAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.guests.more_disks import MoreDisk
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.choose import Network
    from pytest_vmports.system.passt import Passt
    from pytest_vmports.system.programs import Gvproxy
    from pytest_vmports.system.swtpm import Swtpm
    from pytest_vmports.vm.argv import Hardware, Ram
    from pytest_vmports.vm.inside.kind import GuestKind
    from pytest_vmports.vm.inside.waiting import BootFiles
    from pytest_vmports.vm.readiness import Condition
    from pytest_vmports.vm.share import Share

# Of the identity and of what lies in a template's folder: a change of either is another template.
FORMAT = 8


@dataclass(frozen=True)
class Ends:
    """Where one start of a VM leads: descriptors and files, of which the guest sees nothing.

    Attributes:
        channels: of QEMU's monitor and serial ports.
        boots: kernel, initrd and disks.
        network: QEMU's arguments for the network cards.
        network_words: what tells a prepared guest of them.
        ram: the file that is its memory; None for anonymous memory.
        capture: the file that the first card's packets go to; None for none.
        restore: wait for a saved state on the monitor instead of booting.
    """

    channels: Channels
    boots: BootFiles
    network: list[str]
    network_words: Sequence[str] = ()
    ram: Ram | None = None
    capture: Path | None = None
    restore: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that shapes one VM.

    Attributes:
        hardware: the machine that the guest sees, and the QEMU that makes it.
        network: how the guest is connected.
        guest: what it boots.
        wanted: the guest ports that the test asked for.
        wait_for: what has to answer before it is ready.
        boot_timeout: seconds until it has to be ready.
        root: what relative paths of the guest's files are relative to.
        gvproxy: the program that connects it, if one does.
        passt: likewise.
        swtpm: the program that is its TPM, if it has one.
        forwards: the test's forwards, once their host ports are leased.
        own_forwards: those that we need ourselves.
        capture: its packets are written to a file.
        reachable: console and monitor are on sockets too, for people.
        may_crash: its test allows the guest's kernel to panic.
        clockless: it is cloned also where nothing sets a restored guest's clock.
        console_limit: MiB that are kept of what it writes to its console.
        shares: folders of the host that can be plugged in; no template has any.
        shared_memory: what QEMU calls its memory, where other processes of ours see it.
        disks: those beside its root, in their order.
        paused: it stands before its first instruction until somebody lets it run.
        said: name, value and source of what was set by anybody, for reports.
    """

    hardware: Hardware
    network: Network
    guest: Guest
    wanted: tuple[PortMapping, ...]
    wait_for: Condition
    boot_timeout: float
    root: Path
    gvproxy: Gvproxy | None = None
    passt: Passt | None = None
    swtpm: Swtpm | None = None
    forwards: tuple[ExposedPort, ...] = ()
    own_forwards: tuple[ExposedPort, ...] = ()
    capture: bool = False
    reachable: bool = False
    may_crash: bool = False
    clockless: bool = False
    console_limit: int = 64
    shares: tuple[Share, ...] = ()
    shared_memory: str | None = None
    disks: tuple[MoreDisk, ...] = ()
    paused: bool = False
    said: tuple[tuple[str, Any, str], ...] = field(default=(), compare=False)

    @property
    def kind(self) -> GuestKind:
        """What kind of guest it is, for one VM: each call returns another."""
        return kind_of(self.guest, self.hardware.qemu.architecture)

    @property
    def why_cold(self) -> str | None:
        """Why no VM of it can be a clone, whatever the guest is; None where nothing forbids it."""
        if self.paused:
            return "paused = yes, and a clone is past its first instruction"
        return self.hardware.why_not_saved

    @property
    def family(self) -> str:
        """What VMs have in common that can be saved all, or none of them."""
        return repr((self.guest, self.hardware.qemu_args))

    @property
    def whose(self) -> str:
        """What to call VMs of its family."""
        words = " ".join(self.hardware.qemu_args)
        return f"{self.guest.name} with qemu_args = {words}" if words else self.guest.name

    def image_files(self) -> tuple[Path, ...]:
        """Return the files of the host that its disks lie on.

        Raises:
            ImageError: an image leads to what the guest may not have.
        """
        return (*self.kind.image_files(), *(file for disk in self.disks for file in disk.files))

    @property
    def bases(self) -> dict[str, tuple[Path, str]]:
        """The image that each of its disks lies on, and its format, by the name of the disk's file.

        One that was empty when its VM booted lies on none.

        Raises:
            OSError: an image cannot be read.
        """
        root = base_of(self.guest)
        found = {} if root is None else {OVERLAY: root}
        for number, disk in enumerate(self.disks, 1):
            if disk.image is not None:
                found[name_of(number)] = Disk(disk.image).base
        return found

    def disk_files(self, folder: Path) -> list[Path]:
        """Return the files that its disks beside the root are in its private folder."""
        return [folder / name_of(number) for number in range(1, len(self.disks) + 1)]

    @property
    def own_ports(self) -> list[PortMapping]:
        """The guest ports that we need ourselves."""
        return self.kind.own_ports(self.wanted)

    @property
    def all_forwards(self) -> tuple[ExposedPort, ...]:
        """The test's forwards, and ours behind them."""
        return (*self.forwards, *self.own_forwards)

    def with_forwards(
        self, forwards: Sequence[ExposedPort], own_forwards: Sequence[ExposedPort] = ()
    ) -> Plan:
        """Return the same with these host ports."""
        return replace(self, forwards=tuple(forwards), own_forwards=tuple(own_forwards))

    def argv(self, ends: Ends) -> list[str]:
        """Return QEMU's argv for one start of this VM."""
        boots, architecture = ends.boots, self.hardware.qemu.architecture
        card, capture = self.network.card_netdev, None
        if card is not None and ends.capture is not None:
            capture = Capture(card, ends.capture)
        told = [*ends.network_words, *(["vmports.disks"] if self.disks else [])]
        told += ["vmports.nics"] if self.network.more_cards else []
        words = self.guest.kernel_words(
            architecture, self.network.dns, told, stays=self.hardware.crash_dump
        )
        kind = self.kind
        command = build_command(
            self.hardware, ends.network, ends.channels,
            kernel=boots.kernel, initrd=boots.initrd, drives=boots.drives, kernel_words=words,
            more_disks=self.disk_files(ends.channels.console.parent),
            ram=ends.ram, restore=ends.restore, capture=capture,
            fitting=Fitting(
                kind.seeded, self.hardware.has_window and kind.window, self.shared_memory
            ),
        )  # fmt: skip
        debugged = gdb.arguments(ends.channels.console.parent) if self.paused else []
        device, fd = architecture.tpm, ends.channels.tpm_fd
        chip = [] if device is None or fd is None else tpm.arguments(fd, device)
        return [*command, *chip, *share.arguments(self.shares), *debugged]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What QEMU and the guest get to see, which a template has to be made anew for.

        It is content alone, so that a template can be used in another checkout, by another user,
        and on another machine. Paths, descriptors and host ports are masked in it; of the forwards,
        which the guest does not see, those remain that it has to answer on before it is saved.

        Raises:
            VmPortsError: a file of the guest or its firmware is missing.
        """
        qemu = self.hardware.qemu
        ports = [*self.wanted, *self.own_ports]
        asked = sorted({port.internal for port in self.wait_for.candidates(ports)})
        return {
            "name": self.guest.name,
            "qemu": [qemu.build, content_digest(Path(qemu.path))],
            "processors": processors.seen_by_guest(
                qemu, self.hardware.accelerator, self.hardware.cpu
            ),
            "wiring": self.network.kind,
            # Its setup may have been refused what another's is given.
            "reach": self.network.reach,
            "memory": self.hardware.memory,
            "argv": self._masked(replace(self.network, relayed=False), ())[1:],
            "guest": self.guest.digest(self.root, qemu.architecture),
            "disks": [disk.identity(qemu.architecture) for disk in self.disks],
            "ready": f"{self.wait_for}: {asked}",
        }

    @cached_property
    def key(self) -> str:
        """The name of the template that its VMs are cloned from."""
        return key_of(self.identity)

    @cached_property
    def standby_key(self) -> str:
        """What a VM that is kept ready has to have been made for, host ports apart."""
        blank = [port.model_copy(update={"external": 0}) for port in self.forwards]
        return key_of(
            {
                "template": self.key,
                "wiring": self.network.kind,
                "lan": self.network.lan,
                "memory": self.hardware.memory,
                "argv": self._masked(self.network, blank),
                "gvproxy": str(self.gvproxy),
                "passt": str(self.passt),
                "swtpm": str(self.swtpm),
                "services": sorted(self.network.host_ports),
                "capture": self.capture,
                "reachable": self.reachable,
            }
        )

    def _masked(self, network: Network, forwards: Sequence[ExposedPort]) -> list[str]:
        """Return the argv with this network and these forwards, and names for all that differs."""
        kind = self.kind
        agent = 0 if kind.has_agent else None
        ends = Ends(
            Channels(
                0, 0, Path("console"), agent, window_fd=0, tpm_fd=None if self.swtpm is None else 0
            ),
            kind.shape(), masked_args(network, forwards), masked_words(network),
        )  # fmt: skip
        return self.argv(ends)


def key_of(facts: Mapping[str, Any]) -> str:
    """Return a name for these facts, and for no others."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

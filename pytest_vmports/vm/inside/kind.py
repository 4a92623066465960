"""What differs between kinds of guests, and which kind a guest is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_vmports.vm.inside.disk import DiskGuest
from pytest_vmports.vm.inside.own_init import OwnInit
from pytest_vmports.vm.inside.prepared import Prepared
from pytest_vmports.vm.inside.rooted import Rooted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.moving import Move
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.vm.argv import Drives
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.ssh import SshShell
    from pytest_vmports.vm.inside.waiting import BootFiles, Place, Waiting
    from pytest_vmports.vm.last_words import LastWords


class GuestKind(Protocol):
    """A guest in one VM: how it is booted, entered and saved.

    Attributes:
        rest_seconds: how long a guest that is ready may take to come to rest before it is saved.
        stands_by: whether one may be kept ready for the next test.
        moves: whether a clone can be given the address of its own place on a shared network.
        ends: what its console may end with when its boot has failed for good.
        has_agent: whether it runs the QEMU guest agent, on a channel of its own.
        ssh: runs commands by ssh, and knows how others do; None where we are not let in so.
    """

    rest_seconds: float
    stands_by: bool
    moves: bool
    ends: Sequence[LastWords]
    has_agent: bool
    ssh: SshShell | None

    @property
    def by_bios(self) -> bool:
        """Whether a PC's BIOS begins its boot."""

    @property
    def seeded(self) -> bool:
        """Whether our agent seeds a restored one's random numbers, and nothing else need."""

    @property
    def window(self) -> bool:
        """Whether it may share memory with us, where its machine can; see `window.Window`."""

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold; None where they can be cloned."""

    @property
    def remark(self) -> str | None:
        """What there is to say of one that is ready, once for each guest; None for nothing."""

    def own_ports(self, wanted: Sequence[PortMapping]) -> list[PortMapping]:
        """Return the forwards that we need of it and the test did not ask for."""

    def shape(self) -> BootFiles:
        """Return what it boots, with names in the place of its files, for a key.

        Raises:
            HostError: its firmware is not installed.
        """

    def files(self, place: Place, *, restored: bool) -> BootFiles:
        """Return what it boots, made where it has to be.

        Raises:
            VmPortsError: a file or a program is missing, or an image cannot be booted.
        """

    def image_files(self) -> tuple[Path, ...]:
        """Return the files of the host that its disk lies on.

        Raises:
            ImageError: its image leads to what the guest may not have.
        """

    def connect(
        self, place: Place, forwards: Sequence[ExposedPort], until_spawned: ExitStack
    ) -> tuple[int, int | None, int | None]:
        """Open its channels for a QEMU that is about to start.

        Args:
            place: of its VM's files.
            forwards: all forwards of the VM.
            until_spawned: closes QEMU's ends, which it has inherited by then.

        Returns:
            QEMU's ends of the control channel and, where there is one, of the QEMU guest agent's;
            the file of the window, if any.
        """

    def restored(self, move: Move | None) -> None:
        """Do what has to be done when its state was loaded and before it runs.

        Args:
            move: how it gets its own address on a shared network, which it has when `set_clock`
                returns; None where it has that.
        """

    def rebooted(self) -> None:
        """Forget what it has said: it boots anew, and is waited for again."""

    def await_setup(self, waiting: Waiting) -> None:
        """Return when a guest that was booted has done what it was told to.

        Raises:
            MachineError: it has failed, or not ended in time, or its VM has ended.
        """

    def await_shell(self, waiting: Waiting) -> None:
        """Return when it can be entered, if it can at all.

        Raises:
            MachineError: it does not answer, or its VM has ended.
        """

    def warm(self, deadline: float, check: Callable[[], None]) -> None:
        """Have it do what its first test will have it do, so that an emulator knows the code.

        Args:
            deadline: `clock.now` value at which to give up.
            check: raises when a process of its VM has ended.

        Raises:
            MachineError: its VM has ended.
        """

    def handed_over(self, place: Place, forwards: Sequence[ExposedPort]) -> None:
        """Take note that it is another test's now, with other forwards.

        Args:
            place: of its VM's files.
            forwards: all forwards of the VM.

        Raises:
            OSError: a file of the VM's cannot be replaced.
        """

    def set_clock(self, waiting: Waiting) -> None:
        """Give it the host's time, where we can; return when it has that and its address.

        Raises:
            MachineError: it refuses or does not answer, or its VM has ended.
        """

    def shell(self, check: Callable[[], None]) -> Shell | None:
        """Return the way by which commands are run in it; None where there is none.

        Args:
            check: raises when a process of its VM has ended.
        """

    def save_key(self, place: Place, folder: Path) -> None:
        """Put what lets us into it, where that is ours, into another folder.

        Raises:
            OSError: it cannot be copied.
        """

    def by_hand(self, seed: Path | None) -> tuple[list[list[str]], Drives | None]:
        """Return the commands that make its disks' files in a folder, and those disks.

        Args:
            seed: of cloud-init's data there, or None.

        Raises:
            HostError: a program or the firmware is missing.
            ImageError: its image cannot be read.
        """

    def close(self) -> None:
        """Hang up. Safe to call again."""


def kind_of(guest: Guest, architecture: Architecture) -> GuestKind:
    """Return what kind of guest this is, for one VM."""
    if guest.root_disk is not None and guest.prepared:
        return Rooted(guest, guest.root_disk, architecture)
    if guest.root_disk is not None:
        return DiskGuest(guest, guest.root_disk, architecture)
    if guest.prepared:
        return Prepared(guest, architecture)
    return OwnInit(guest, architecture)

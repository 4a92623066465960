"""A guest that boots an init of its own, of which we know nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.system import sockets
from pytest_vmports.vm.inside.control import Control
from pytest_vmports.vm.inside.waiting import BootFiles
from pytest_vmports.vm.inside.window import open_window
from pytest_vmports.vm.last_words import AFTER_LOADER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.moving import Move
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.vm.argv import Drives
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.ssh import SshShell
    from pytest_vmports.vm.inside.waiting import Place, Waiting
    from pytest_vmports.vm.last_words import LastWords


class OwnInit:
    """The kind of guest that we can only start and ask by its ports; see `kind.GuestKind`.

    Args:
        guest: what is booted.
        architecture: of its VM.
    """

    rest_seconds: float = 3.0
    stands_by = True
    moves = False
    has_agent = False
    ends: Sequence[LastWords] = AFTER_LOADER
    ssh: SshShell | None = None

    def __init__(self, guest: Guest, architecture: Architecture) -> None:
        self.guest = guest
        self.architecture = architecture
        self._control: Control | None = None

    @property
    def by_bios(self) -> bool:
        """Whether a PC's BIOS begins its boot, which leads to the kernel that QEMU was given."""
        return self.architecture.has_bios

    @property
    def seeded(self) -> bool:
        """Whether our agent alone seeds its random numbers: others in it may ask for a vmgenid."""
        return False

    @property
    def window(self) -> bool:
        """Whether it may share memory with us: nobody in it would look there."""
        return False

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold; None where they can be cloned."""
        return "its init is not ours, so nothing would set a restored clock"

    @property
    def remark(self) -> str | None:
        """What there is to say of one that is ready: nothing."""
        return None

    def own_ports(self, wanted: Sequence[PortMapping]) -> list[PortMapping]:  # noqa: ARG002
        """Return none."""
        return []

    def shape(self) -> BootFiles:
        """Return names in the place of its files, for a key."""
        initrd = Path("initrd") if self.guest.initrd_path else None
        return BootFiles(Path("kernel"), initrd)

    def image_files(self) -> tuple[Path, ...]:
        """Return none."""
        return ()

    def files(self, place: Place, *, restored: bool) -> BootFiles:
        """Return what it boots, made where it has to be; a restored guest boots nothing.

        Raises:
            GuestNotFoundError: a file of it is missing.
            StateDirError: its initrd cannot be written.
        """
        if restored:
            return BootFiles(self.guest.kernel_path)
        kernel, initrd = self.guest.boot_files(place.home, place.root, self.architecture)
        return BootFiles(kernel, initrd)

    def connect(
        self,
        place: Place,  # noqa: ARG002 - protocol
        forwards: Sequence[ExposedPort],  # noqa: ARG002
        until_spawned: ExitStack,
    ) -> tuple[int, int | None, int | None]:
        """Open its channels; return QEMU's ends of them and of the window."""
        ours, of_qemu = sockets.pair()
        window, file = open_window(until_spawned) if self.window else (None, None)
        self._control = Control(ours, window)
        return until_spawned.enter_context(of_qemu).fileno(), None, file

    def restored(self, move: Move | None) -> None:
        """Prepare a guest whose state was loaded, and that runs next: nothing to do."""

    def rebooted(self) -> None:
        """Forget what it has said before it rebooted: nothing."""

    def await_setup(self, waiting: Waiting) -> None:
        """Return at once: what it does when it boots is not known."""

    def await_shell(self, waiting: Waiting) -> None:
        """Return at once: there is none."""

    def warm(self, deadline: float, check: Callable[[], None]) -> None:
        """Do nothing: nobody in it listens."""

    def handed_over(self, place: Place, forwards: Sequence[ExposedPort]) -> None:
        """Do nothing: no forward is ours."""

    def set_clock(self, waiting: Waiting) -> None:
        """Do nothing: nobody in it listens."""

    def shell(self, check: Callable[[], None]) -> Shell | None:  # noqa: ARG002 - protocol
        """Return the way by which commands are run in it: none."""
        return None

    def save_key(self, place: Place, folder: Path) -> None:
        """Put what lets us into it beside its saved state: nothing."""

    def by_hand(self, seed: Path | None) -> tuple[list[list[str]], Drives | None]:  # noqa: ARG002
        """Return commands that make its disks' files, and those disks: none."""
        return [], None

    def close(self) -> None:
        """Hang up. Safe to call again."""
        if self._control is not None:
            self._control.close()

"""A guest that boots from a disk image: its drives, cloud-init, ssh and the QEMU guest agent."""

from __future__ import annotations

import shutil
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import CloudInitError, CloudInitWarning, MachineError
from pytest_vmports.guests import cloud_init
from pytest_vmports.guests import image as image_file
from pytest_vmports.models import PortMapping
from pytest_vmports.network.exposed import find_port
from pytest_vmports.system import clock, sockets
from pytest_vmports.system.firmware import find_firmware
from pytest_vmports.system.mishaps import printable
from pytest_vmports.vm.argv import Drives
from pytest_vmports.vm.inside.own_init import OwnInit
from pytest_vmports.vm.inside.shell import RunnerShell
from pytest_vmports.vm.inside.ssh import SshShell, copy_key, public_half, session_key
from pytest_vmports.vm.inside.waiting import BootFiles
from pytest_vmports.vm.last_words import TABLE
from pytest_vmports.vm.saved import OVERLAY, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.guests.image import Disk
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.system.firmware import Firmware
    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.inside.qemu_agent import GuestAgent
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.waiting import Place, Waiting

SSH_PORT = 22
SEED = "seed.iso"
"""Name of what cloud-init reads, in a VM's private folder."""
KEY = "ssh_key"
_LOOK_SECONDS = 0.05
# A stage that could not run is told within moments by cloud-init too, and in more detail.
_GRACE_SECONDS = 15.0
_LONGEST_COMPLAINT = 2000


class DiskGuest(OwnInit):
    """The kind of guest that boots a disk image; see `kind.GuestKind`.

    Args:
        guest: what is booted.
        image: its disk.
        architecture: of its VM.
    """

    # A distribution goes on starting things after its ports answer.
    rest_seconds = 30.0
    # Its own forwards, as that of ssh, are not handed over.
    stands_by = False

    def __init__(self, guest: Guest, image: Disk, architecture: Architecture) -> None:
        super().__init__(guest, architecture)
        self._image = image
        self.has_agent = image.agent
        self._direct = guest.kernel_path is not None
        if not self._direct:
            self.ends = TABLE
        self._agent: GuestAgent | None = None
        self._ssh_port: ExposedPort | None = None

    @property
    def by_bios(self) -> bool:
        """Whether a PC's BIOS begins its boot, and not UEFI."""
        return super().by_bios and (self._direct or self._image.firmware == "bios")

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold: nothing in it could be told the time."""
        if self._image.ssh or self._image.agent:
            return None
        return "nothing would set the clock of a restored one: give its Guest.disk ssh or agent"

    def own_ports(self, wanted: Sequence[PortMapping]) -> list[PortMapping]:
        """Return the forward to its ssh, unless the test has asked for that itself."""
        asked = any(m.internal == SSH_PORT and m.protocol == "tcp" for m in wanted)
        return [PortMapping(internal=SSH_PORT)] if self._image.ssh and not asked else []

    def shape(self) -> BootFiles:
        """Return names in the place of its files.

        Raises:
            HostError: its firmware is not installed.
        """
        firmware = (Path("firmware"), Path(VARIABLES)) if self._firmware else None
        seed = Path(SEED) if self._image.seed is not None else None
        kernel = Path("kernel") if self._direct else None
        initrd = Path("initrd") if self.guest.initrd_path else None
        return BootFiles(kernel, initrd, Drives(Path(OVERLAY), seed, firmware))

    def files(self, place: Place, *, restored: bool) -> BootFiles:
        """Return what it boots: kernel, if any, overlay, seed and the firmware's variables.

        Raises:
            ImageError: the image cannot be booted.
            HostError: a program, a package or the firmware is missing.
        """
        boots = super().files(place, restored=restored)
        return BootFiles(boots.kernel, boots.initrd, self._drives(place))

    def image_files(self) -> tuple[Path, ...]:
        """Return the image and the files behind it.

        Raises:
            ImageError: it leads to what the guest may not have.
        """
        return self._image.chain()

    def connect(
        self, place: Place, forwards: Sequence[ExposedPort], until_spawned: ExitStack
    ) -> tuple[int, int | None]:
        """Open its channels; see `OwnInit.connect`."""
        control, _ = super().connect(place, forwards, until_spawned)
        if self._image.ssh:
            self._ssh_port = find_port(forwards, f"{SSH_PORT}/tcp")
            self.ssh = SshShell(self._ssh_port, _key(place), place.workdir)
        if not self._image.agent:
            return control, None
        from pytest_vmports.vm.inside.qemu_agent import GuestAgent  # noqa: PLC0415 - few need it

        ours, of_qemu = sockets.pair()
        self._agent = GuestAgent(ours)
        return control, until_spawned.enter_context(of_qemu).fileno()

    def await_setup(self, waiting: Waiting) -> None:
        """Return when cloud-init, if it is given anything, has finished well.

        Raises:
            CloudInitError: it reported errors and the settings are strict, or could not run.
            BootTimeoutError: it has not finished.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if self._image.seed is None:
            return
        give_up: float | None = None
        reports, new = cloud_init.Reports(), waiting.console.follower()
        reports.feed(waiting.console.before)
        while True:
            reports.feed(new.read().text)
            found = reports.verdict
            if found is not None and (self._image.tolerant or not found.errors):
                break
            if found is not None:
                raise _failed(waiting, "\n".join(f"  {error}" for error in found.errors))
            failed = reports.failure
            if failed is not None and give_up is None:
                # For one module's sake too: whoever tolerates that waits for the rest.
                grace = _GRACE_SECONDS if not self._image.tolerant else float("inf")
                give_up = clock.now() + grace
            if failed is not None and (waiting.over or clock.now() >= (give_up or 0.0)):
                raise _failed(waiting, f"  {failed}")
            if waiting.over:
                raise waiting.timed_out("cloud-init has not said that it finished")
            waiting.check()
            clock.sleep(_LOOK_SECONDS)  # a file that grows raises no event

        # Its reboot raises here, and what comes after that is waited for.
        while self._image.seed.reboots and not (waiting.rebooted or waiting.console.before):
            if waiting.over:
                raise waiting.timed_out("cloud-init has finished; its power_state has no reboot")
            waiting.check()
            clock.sleep(_LOOK_SECONDS)

    def await_shell(self, waiting: Waiting) -> None:
        """Return when ssh and the QEMU guest agent, as far as it has them, answer.

        Raises:
            BootTimeoutError: one does not.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if self._image.seed is not None:
            _warn_of_complaints(waiting.console)
        if self._ssh_port is not None:
            assert waiting.probe is not None
            probe = waiting.probe([self._ssh_port])
            while not probe.done:
                if waiting.over:
                    said = probe.answers[SSH_PORT]
                    raise waiting.timed_out(f"ssh: {said}; ssh=False if the image runs no sshd")
                probe.step(waiting.deadline, waiting.check)
        if self._agent is not None and not self._agent.answers(waiting.deadline, waiting.check):
            raise waiting.timed_out("the QEMU guest agent does not answer; does it run?")

    def set_clock(self, waiting: Waiting) -> None:
        """Give it the host's time, where we can run commands in it.

        Raises:
            MachineError: it refuses.
            CommandTimeoutError: it does not answer.
        """
        runner = self._agent or self.ssh
        if runner is None:
            return
        # busybox takes no fraction.
        now = clock.wall()
        script = f"date -u -s @{now:.3f} || date -u -s @{now:.0f}"
        code, _, said = runner.run(script, timeout=waiting.timeout)
        if code:
            detail = printable(said[:_LONGEST_COMPLAINT].decode(errors="replace").strip())
            raise MachineError(f"the guest refused to have its clock set: {detail or code}")

    def shell(self, check: Callable[[], None]) -> Shell | None:  # noqa: ARG002 - protocol
        """Return ssh or the QEMU guest agent as a shell; None where it has neither."""
        runner = self.ssh or self._agent
        return None if runner is None else RunnerShell(runner)

    def save_key(self, place: Place, folder: Path) -> None:
        """Put the key that it lets in into another folder, unless it is there.

        Raises:
            OSError: it cannot be copied.
        """
        if self.ssh is not None and not (folder / KEY).exists():
            copy_key(_key(place), folder / KEY)

    def by_hand(self, seed: Path | None) -> tuple[list[list[str]], Drives | None]:
        """Return the commands that make its overlay and variables in a folder, and its drives.

        Raises:
            HostError: ``qemu-img`` or the firmware is missing.
            ImageError: the image has become unreadable.
        """
        kind = self._checked()
        overlay = image_file.overlay_arguments(self._image.path, kind, Path(OVERLAY))
        commands = [["qemu-img", *overlay]]
        if self._firmware is None:
            return commands, Drives(Path(OVERLAY), seed)
        commands.append(["cp", str(self._firmware.variables), VARIABLES])
        return commands, Drives(Path(OVERLAY), seed, (self._firmware.code, Path(VARIABLES)))

    def close(self) -> None:
        """Hang up. Safe to call again."""
        super().close()
        if self._agent is not None:
            self._agent.close()

    def _checked(self) -> str:
        bios = self.architecture.has_bios
        return image_file.check(self._image, direct=self._direct, has_bios=bios)

    @cached_property
    def _firmware(self) -> Firmware | None:
        """The UEFI firmware that boots the image; None where a BIOS or a kernel does."""
        return None if self._direct or self.by_bios else find_firmware(self.architecture)

    def _drives(self, place: Place) -> Drives:
        root = place.workdir / OVERLAY
        if not root.exists():  # a VM that is reset keeps its disk
            kind = self._checked()
            image_file.make_overlay(self._image.path, kind, root, self.image_files())
        seed = None
        if self._image.seed is not None:
            key = public_half(_key(place)).read_text() if self._image.ssh else ""
            seed = place.workdir / SEED
            cloud_init.write_seed(self._image.seed.files(key), seed)
        if self._firmware is None:
            return Drives(root, seed)
        variables = place.workdir / VARIABLES
        if not variables.exists():
            shutil.copyfile(self._firmware.variables, variables)
        return Drives(root, seed, (self._firmware.code, variables))


def lay_disks(folder: Path, workdir: Path, behind: Sequence[Path]) -> tuple[Path, ...]:
    """Give a VM that will start from a template disks of its own, on top of the template's.

    A template without disks has none to lay.

    Args:
        folder: the template's.
        workdir: the VM's private folder.
        behind: the image's files, which stand behind the template's disk.

    Returns:
        the template's files that its disks lie on.

    Raises:
        ImageError: no overlay can be made.
        OSError: a file cannot be copied.
    """
    below = tuple(file for file in (folder / OVERLAY,) if file.exists())
    for file in below:
        image_file.make_overlay(file, "qcow2", workdir / OVERLAY, behind)
    if (folder / VARIABLES).exists():
        shutil.copyfile(folder / VARIABLES, workdir / VARIABLES)
    if (folder / KEY).exists():
        copy_key(folder / KEY, workdir / KEY)
    return below


def _key(place: Place) -> Path:
    """Return the private key that this VM lets in: its template's, else this process's."""
    own = place.workdir / KEY
    return own if own.exists() else session_key(place.home)


def _warn_of_complaints(console: Console) -> None:
    """Warn of what was tolerated in this guest, or in the one that its template was made of."""
    reports, new = cloud_init.Reports(), console.follower()
    reports.feed(console.before)
    reports.feed(new.read().text)
    found = reports.verdict
    if found is not None and found.errors:
        said = printable("; ".join(found.errors))[:_LONGEST_COMPLAINT]
        warnings.warn(
            f"cloud-init complained, which cloud_init = tolerant lets pass: {said}",
            CloudInitWarning,
            stacklevel=2,
        )


def _failed(waiting: Waiting, errors: str) -> CloudInitError:
    return CloudInitError(errors=errors, console=waiting.console.tail(40))

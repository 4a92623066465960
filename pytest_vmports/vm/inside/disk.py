"""A guest that boots from a disk image: its drives, cloud-init, and the ways into it.

Our agent comes first, where cloud-init brings it and it comes up; then ssh, then QEMU's agent.
"""

from __future__ import annotations

import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError, SettingError
from pytest_vmports.guests import cloud_init, disk_agent
from pytest_vmports.guests import image as image_file
from pytest_vmports.models import PortMapping
from pytest_vmports.network.exposed import find_port
from pytest_vmports.system import clock, sockets
from pytest_vmports.system.digests import content_digest
from pytest_vmports.system.firmware import find_firmware
from pytest_vmports.system.mishaps import printable
from pytest_vmports.vm.argv import Drives
from pytest_vmports.vm.inside.agent_link import AgentLink
from pytest_vmports.vm.inside.by_weight import ByWeight
from pytest_vmports.vm.inside.first_boot import await_cloud_init, warn_of_complaints
from pytest_vmports.vm.inside.lay_disks import KEY, NOTE
from pytest_vmports.vm.inside.own_init import OwnInit
from pytest_vmports.vm.inside.shell import RunnerShell
from pytest_vmports.vm.inside.ssh import CONFIG, SshShell, copy_key, public_half, session_key
from pytest_vmports.vm.inside.waiting import BootFiles
from pytest_vmports.vm.last_words import TABLE, LastWords
from pytest_vmports.vm.saved import OVERLAY, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.guests.image import Disk
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.moving import Move
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.system.firmware import Firmware
    from pytest_vmports.vm.inside.qemu_agent import GuestAgent
    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.inside.waiting import Place, Waiting

SSH_PORT = 22
SEED = "seed.iso"
"""Name of what cloud-init reads, in a VM's private folder."""
_LOOK_SECONDS = 0.05
# It is started before cloud-init has finished, and most of the system with it.
_AGENT_SECONDS = 10.0
_LANG = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_LONGEST_COMPLAINT = 2000


class DiskGuest(OwnInit):
    """The kind of guest that boots a disk image; see `kind.GuestKind`.

    Args:
        guest: what is booted.
        image: its disk.
        architecture: of its VM.
    """

    # A distribution goes on starting things after its ports answer.
    rest_seconds: float = 30.0

    def __init__(self, guest: Guest, image: Disk, architecture: Architecture) -> None:
        super().__init__(guest, architecture)
        self._image = image
        self.has_agent: bool = image.agent
        self.moves: bool = image.ssh or image.agent or image.brings_agent(architecture)
        self._direct = guest.kernel_path is not None
        if not self._direct:
            self.ends: Sequence[LastWords] = TABLE
        self._agent: GuestAgent | None = None
        self._move: Move | None = None
        self._ssh_port: ExposedPort | None = None
        # Our own; None also in a guest in which it has not come up.
        self._link: AgentLink | None = None
        self._why_no_agent = "" if image.brings_agent(architecture) else "it brings no agent"
        self._restored = False

    @property
    def by_bios(self) -> bool:
        """Whether a PC's BIOS begins its boot, and not UEFI."""
        return super().by_bios and (self._direct or self._image.firmware == "bios")

    @property
    def window(self) -> bool:
        """Whether it may share memory with us: where our agent comes along, it looks there."""
        return self._image.brings_agent(self.architecture)

    @property
    def why_no_template(self) -> str | None:
        """Why its VMs boot from cold: nothing in it could be told the time."""
        if self._image.ssh or self._image.agent or not self._why_no_agent:
            return None
        return "nothing would set the clock of a restored one: give its Guest.disk ssh or agent"

    @property
    def remark(self) -> str | None:
        """What there is to say of one that is ready: its agent has not come up."""
        if not self._image.brings_agent(self.architecture) or not self._why_no_agent:
            return None
        instead = "ssh" if self._image.ssh else "QEMU's guest agent" if self._image.agent else ""
        then = f"commands go by {instead}" if instead else "nothing in it runs commands"
        return (
            f"vmports: our agent did not come up in {self.guest.name}: {self._why_no_agent}; "
            f"so {then}; agent = no does not wait for it"
        )

    def own_ports(self, wanted: Sequence[PortMapping]) -> list[PortMapping]:
        """Return the forward to its ssh, unless the test has asked for that itself."""
        asked = any(m.internal == SSH_PORT and m.protocol == "tcp" for m in wanted)
        return [PortMapping(internal=SSH_PORT)] if self._image.ssh and not asked else []

    def shape(self) -> BootFiles:
        """Return names in the place of its files.

        Raises:
            HostError: its firmware is not installed.
        """
        firmware = None
        if self._firmware is not None:
            files = self._firmware.code, self._firmware.variables
            code, variables = (Path(content_digest(file)) for file in files)
            firmware = code, variables
        seed = Path(SEED) if self._image.seed is not None else None
        kernel = Path("kernel") if self._direct else None
        initrd = Path("initrd") if self.guest.initrd_path else None
        return BootFiles(kernel, initrd, Drives(Path(OVERLAY), seed, firmware, self._secure))

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
    ) -> tuple[int, int | None, int | None]:
        """Open its channels; see `OwnInit.connect`."""
        control, _, window = super().connect(place, forwards, until_spawned)
        self._note = place.workdir / NOTE
        if self._image.brings_agent(self.architecture):
            assert self._control is not None
            self._link = AgentLink(
                self._control, folder=disk_agent.HOME, variables=disk_agent.VARIABLES
            )
        if self._image.ssh:
            self._ssh_port = find_port(forwards, f"{SSH_PORT}/tcp")
            self.ssh: SshShell | None = SshShell(self._ssh_port, _key(place), place.workdir)
        if not self._image.agent:
            return control, None, window
        from pytest_vmports.vm.inside.qemu_agent import GuestAgent  # noqa: PLC0415 - few need it

        ours, of_qemu = sockets.pair()
        self._agent = GuestAgent(ours)
        return control, until_spawned.enter_context(of_qemu).fileno(), window

    def restored(self, move: Move | None) -> None:
        """Send the host's time ahead, where the guest that was saved had the agent.

        Its address on a shared network comes after that, by a command: it has it from others.
        """
        self._restored, self._move = True, move
        if self._link is not None and self._note.exists():
            self._link.variables |= _with_lang(self._note.read_bytes())
            self._link.send_ahead()
        elif self._link is not None:
            self._link, self._why_no_agent = None, "nor did it in the guest that was saved"

    def handed_over(self, place: Place, forwards: Sequence[ExposedPort]) -> None:
        """Reach its ssh by the test's forward from now on."""
        if self.ssh is not None:
            self._ssh_port = find_port(forwards, f"{SSH_PORT}/tcp")
            self.ssh.redirect(self._ssh_port)
            self.ssh.write_config(place.workdir / CONFIG)

    def rebooted(self) -> None:
        """Forget what its agent has said, and the login by ssh: both begin anew."""
        self._restored = False
        if self._link is not None:
            self._link.begin_anew()
        if self.ssh is not None:
            self.ssh.begin_anew()

    def await_setup(self, waiting: Waiting) -> None:
        """Return when cloud-init, if it is given anything, has finished well.

        Raises:
            CloudInitError: it reported errors and the settings are strict, or could not run.
            BootTimeoutError: it has not finished.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if self._image.seed is None:
            return
        await_cloud_init(waiting, self._pause, tolerant=self._image.tolerant)

        # Its reboot raises here, and what comes after that is waited for.
        while self._image.seed.reboots and not (waiting.rebooted or waiting.console.before):
            if waiting.over:
                raise waiting.timed_out("cloud-init has finished; its power_state has no reboot")
            waiting.check()
            clock.sleep(_LOOK_SECONDS)

    def await_shell(self, waiting: Waiting) -> None:
        """Return when the ways into it, as far as it has them, answer.

        A restored guest is not asked: the one that was saved had answered.

        Raises:
            BootTimeoutError: one does not.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if self._image.seed is not None:
            warn_of_complaints(waiting.console)
        if self._restored:
            return
        if self._link is not None:
            self._find_agent(self._link, waiting)
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
        """Give it the host's time and its address, where we can run commands in it.

        Raises:
            MachineError: it refuses.
            BootTimeoutError, CommandTimeoutError: it does not answer.
            MachineDiedError: QEMU or gvproxy ended.
        """
        move, self._move = self._move, None
        steps = [] if move is None else [move.script()]
        if self._link is not None:
            self._link.set_clock(waiting)
        elif self._agent is not None or self.ssh is not None:
            # busybox takes no fraction.
            now = clock.wall()
            steps.append(f"date -u -s @{now:.3f} || date -u -s @{now:.0f}")
        shell = self.shell(waiting.check)
        if not steps:
            return
        if shell is None:
            raise MachineError("nothing in the guest takes an address of its own")
        code, _, said = shell.execute("\n".join(steps), timeout=waiting.timeout, input=b"")
        if code is None:
            raise waiting.timed_out("its clock is not set")
        if code:
            what = "to have its clock" if move is None else "to have its address and its clock"
            detail = printable(said[:_LONGEST_COMPLAINT].decode(errors="replace").strip())
            raise MachineError(f"the guest refused {what} set: {detail or code}")

    def warm(self, deadline: float, check: Callable[[], None]) -> None:
        """Have our agent, where it is there, do once what a test does first."""
        if self._link is not None and self._link.there:
            self._link.warm(deadline, check)

    def shell(self, check: Callable[[], None]) -> Shell | None:
        """Return our agent, ssh or the QEMU guest agent as a shell; None where it has none.

        Args:
            check: raises when a process of the VM has ended.
        """
        runner = self.ssh or self._agent
        if self._link is not None and self._link.there:
            ours = self._link.shell(check)
            if self.ssh is None:
                return ours
            return ByWeight(ours, RunnerShell(self.ssh), self._link.narrow)
        return None if runner is None else RunnerShell(runner)

    def save_key(self, place: Place, folder: Path) -> None:
        """Put the key that it lets in into another folder, unless it is there, and our note.

        Raises:
            OSError: it cannot be copied.
        """
        if (place.workdir / NOTE).exists() and not (folder / NOTE).exists():
            shutil.copyfile(place.workdir / NOTE, folder / NOTE)
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
        firmware = (self._firmware.code, Path(VARIABLES))
        return commands, Drives(Path(OVERLAY), seed, firmware, self._secure)

    def close(self) -> None:
        """Hang up. Safe to call again."""
        super().close()
        if self.ssh is not None:
            self.ssh.close()
        if self._agent is not None:
            self._agent.close()

    def _pause(self, waiting: Waiting) -> None:
        """Let a guest that boots get on: a file that grows, as its console, raises no event."""
        if self._link is None:
            clock.sleep(_LOOK_SECONDS)
        else:
            self._link.look(disk_agent.EXIT_CODE, _LOOK_SECONDS, waiting)

    def _find_agent(self, link: AgentLink, waiting: Waiting) -> None:
        """Find out whether our agent is in it, and note that for its clones."""
        until = min(waiting.deadline, clock.now() + _AGENT_SECONDS)
        missing = link.missing(disk_agent.EXIT_CODE, until, waiting)
        if missing is None:
            said = link.ask(disk_agent.ASK_LANG, waiting)
            link.variables |= _with_lang(said)
            self._note.write_bytes(said)
            return
        self._link, self._why_no_agent = None, missing
        self._note.unlink(missing_ok=True)

    def _checked(self) -> str:
        bios = self.architecture.has_bios
        return image_file.check(self._image, direct=self._direct, has_bios=bios)

    @cached_property
    def _firmware(self) -> Firmware | None:
        """The UEFI firmware that boots the image; None where a BIOS or a kernel does."""
        if self._direct or self.by_bios:
            return None
        if self._secure and self.architecture.secure_board is None:
            raise SettingError(
                source=f"guest {self.guest.name}", name="firmware", value=self._image.firmware,
                allowed="Secure Boot needs a board that keeps its keys from the guest: set "
                "machine = q35, or write uefi",
            )  # fmt: skip
        return find_firmware(self.architecture, secure=self._secure)

    @property
    def _secure(self) -> bool:
        return self._image.firmware == "uefi-secure" and not self._direct

    def _drives(self, place: Place) -> Drives:
        root = place.workdir / OVERLAY
        if not root.exists():  # a VM that is reset keeps its disk
            kind = self._checked()
            image_file.make_overlay(self._image.path, kind, root, self.image_files())
        seed = None
        if self._image.seed is not None:
            key = public_half(_key(place)).read_text() if self._image.ssh else ""
            seed = place.workdir / SEED
            cloud_init.write_seed(self._image.seed_files(self.architecture, key), seed)
        if self._firmware is None:
            return Drives(root, seed)
        variables = place.workdir / VARIABLES
        if not variables.exists():
            shutil.copyfile(self._firmware.variables, variables)
        return Drives(root, seed, (self._firmware.code, variables), self._secure)


def _key(place: Place) -> Path:
    """Return the private key that this VM lets in: its template's, else this process's."""
    own = place.workdir / KEY
    return own if own.exists() else session_key(place.home)


def _with_lang(said: bytes) -> dict[str, str]:
    """Return a variable for what the guest says of its language, where that could be one's name."""
    return {"LANG": said.decode()} if _LANG.fullmatch(said) else {}

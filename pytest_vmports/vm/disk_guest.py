"""What a VM that boots a disk image has beside QEMU: its drives, ssh and the guest agent."""

from __future__ import annotations

import shutil
import socket
import time
from typing import TYPE_CHECKING

from pytest_vmports.errors import BootTimeoutError, CloudInitError, MachineError
from pytest_vmports.guests import cloud_init, disk
from pytest_vmports.guests.firmware import find_firmware
from pytest_vmports.host import machine as host_architecture
from pytest_vmports.models import PortMapping
from pytest_vmports.network.exposed import find_port
from pytest_vmports.vm.command import Drives
from pytest_vmports.vm.guest_agent import GuestAgent
from pytest_vmports.vm.readiness import Probe
from pytest_vmports.vm.ssh import CONFIG, SshShell, public_half, session_key

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.guests.disk import Disk
    from pytest_vmports.guests.firmware import Firmware
    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.host import Qemu
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.machine import Machine

SSH_PORT = 22
_KEY = "ssh_key"
OVERLAY, VARIABLES, SEED = "root.qcow2", "efi-variables.fd", "seed.iso"
"""Names of a VM's own files in its private folder."""
_LOOK_SECONDS = 0.05
# A stage that could not run is told within moments by cloud-init too, and in more detail.
_GRACE_SECONDS = 15.0


class _SshAnswers:
    """Waits for the port of ssh, whether or not the test asked for it."""

    mode, path = "ports", ""

    def candidates(self, exposed: Sequence[ExposedPort]) -> list[ExposedPort]:
        """Return its forward."""
        return [p for p in exposed if p.internal == SSH_PORT and p.protocol == "tcp"]


def hidden_mappings(guest: Guest, wanted: Sequence[PortMapping]) -> list[PortMapping]:
    """Return the forwards that we need of this guest and the test did not ask for."""
    asked = any(m.internal == SSH_PORT and m.protocol == "tcp" for m in wanted)
    needs_ssh = guest.image is not None and guest.image.ssh and not asked
    return [PortMapping(internal=SSH_PORT)] if needs_ssh else []


def make_drives(image: Disk, workdir: Path, qemu: Qemu, *, direct: bool) -> Drives:
    """Return the VM's own files: overlay, seed, firmware's variables.

    Args:
        image: what to boot.
        workdir: the VM's private folder; its parent is the process's, where the ssh key is.
        qemu: what will boot it.
        direct: a kernel is booted directly.

    Raises:
        ImageError: the image cannot be booted.
        HostError: a program, a package or the firmware is missing.
    """
    root = workdir / OVERLAY
    if not root.exists():  # a VM that is reset keeps its disk
        disk.make_overlay(image.path, disk.check(image, direct=direct), root)
    seed = None
    if image.seed is not None:
        key = public_half(_key(workdir)).read_text() if image.ssh else ""
        seed = workdir / SEED
        cloud_init.write_seed(image.seed.files(key), seed)
    firmware = firmware_of(image, qemu, direct=direct)
    if firmware is None:
        return Drives(root, seed)
    variables = workdir / VARIABLES
    if not variables.exists():
        shutil.copyfile(firmware.variables, variables)
    return Drives(root, seed, (firmware.code, variables))


def firmware_of(image: Disk, qemu: Qemu, *, direct: bool) -> Firmware | None:
    """Return the UEFI firmware that boots an image; None where a BIOS or a kernel does.

    Raises:
        HostError: it is not installed.
    """
    # QEMU's machine for arm64 has no other firmware.
    if direct or (image.firmware == "bios" and qemu.is_x86):
        return None
    return find_firmware("x86_64" if qemu.is_x86 else host_architecture())


def attach(
    machine: Machine, workdir: Path, open_until_spawned: contextlib.ExitStack
) -> tuple[Drives | None, list[int]]:
    """Give a machine that is about to start its ``ssh`` and ``agent``, as its guest has them.

    Args:
        machine: the machine.
        workdir: its private folder.
        open_until_spawned: closes QEMU's end of the agent's channel.

    Returns:
        its drives, and the descriptor of QEMU's end, if any.

    Raises:
        ImageError: the image cannot be booted.
        HostError: a program, a package or the firmware is missing.
    """
    image = machine.guest.image
    if image is None:
        return None, []
    direct = machine.guest.kernel_path is not None
    drives = make_drives(image, workdir, machine.hardware.qemu, direct=direct)
    if image.ssh:
        port = find_port(machine.wiring.ports, f"{SSH_PORT}/tcp")
        machine.ssh = SshShell(port, _key(workdir), workdir)
    if not image.agent:
        return drives, []
    ours, of_qemu = socket.socketpair()
    machine.agent = GuestAgent(ours)
    return drives, [open_until_spawned.enter_context(of_qemu).fileno()]


def remove_overlay(machine: Machine) -> None:
    """Remove what a machine that has stopped wrote to its disk. Safe to call again.

    A failed VM's folder stays until its report was made, and an overlay may be large.
    """
    (machine.workdir / OVERLAY).unlink(missing_ok=True)


def disk_files(machine: Machine) -> list[Path]:
    """Return the files that this VM writes as its disks."""
    files = (machine.workdir / name for name in (OVERLAY, VARIABLES))
    return [file for file in files if file.exists()]


def save_disks(machine: Machine, folder: Path) -> None:
    """Put beside a machine's saved state what its guest has written, and the key that it lets in.

    Raises:
        OSError: it cannot be copied.
    """
    for file in disk_files(machine):
        shutil.copyfile(file, folder / file.name)
    if machine.ssh is not None:
        _copy_key(_key(machine.workdir), folder / _KEY)


def lay_disks(folder: Path, workdir: Path) -> None:
    """Give a machine that will start from a template disks of its own, on top of the template's.

    Args:
        folder: the template's.
        workdir: the VM's private folder.

    Raises:
        ImageError: no overlay can be made.
        OSError: a file cannot be copied.
    """
    disk.make_overlay(folder / OVERLAY, "qcow2", workdir / OVERLAY)
    if (folder / VARIABLES).exists():
        shutil.copyfile(folder / VARIABLES, workdir / VARIABLES)
    if (folder / _KEY).exists():
        _copy_key(folder / _KEY, workdir / _KEY)


def move_ssh(machine: Machine) -> None:
    """Put key and configuration for ssh, if it has that, into the folder of a machine let go.

    Raises:
        OSError: they cannot be written.
    """
    if machine.ssh is None:
        return
    key = machine.workdir / _KEY
    if not key.exists():
        _copy_key(session_key(machine.home), key)
    port = find_port(machine.wiring.ports, f"{SSH_PORT}/tcp")
    SshShell(port, key, machine.workdir).write_config(machine.workdir / CONFIG)


def set_clock(machine: Machine, timeout: float) -> None:
    """Give a guest the host's time, where we can run commands in it.

    Args:
        machine: runs, and its ssh or agent answers.
        timeout: seconds.

    Raises:
        MachineError: it refuses.
        CommandTimeoutError: it does not answer.
    """
    means = machine.agent or machine.ssh
    if means is None:
        return
    # busybox takes no fraction.
    now = time.time()
    script = f"date -u -s @{now:.3f} || date -u -s @{now:.0f}"
    code, _, said = means.run(script, timeout=timeout)
    if code:
        detail = said.decode(errors="replace").strip()
        raise MachineError(f"the guest refused to have its clock set: {detail or code}")


def _key(workdir: Path) -> Path:
    """Return the private key that this VM lets in: its template's, else this process's."""
    own = workdir / _KEY
    return own if own.exists() else session_key(workdir.parent)


def _copy_key(key: Path, target: Path) -> None:
    for source, copy in ((key, target), (public_half(key), public_half(target))):
        copy.touch(mode=0o600)
        shutil.copyfile(source, copy)


def wait_for_cloud_init(machine: Machine, deadline: float, timeout: float) -> None:
    """Return when cloud-init has finished well.

    Args:
        machine: a started machine.
        deadline: `time.monotonic` value.
        timeout: the seconds that led to it, for the error.

    Raises:
        CloudInitError: it reported errors, or could not run.
        BootTimeoutError: it has not finished.
        MachineDiedError: QEMU or gvproxy ended.
    """
    if machine.guest.image is None or machine.guest.image.seed is None:
        return
    given_up = False
    while True:
        console = machine.console.text()
        found = cloud_init.verdict(console)
        if found is not None and not found.errors:
            return
        if found is not None:
            raise _failed(machine, "\n".join(f"  {error}" for error in found.errors))
        failed = cloud_init.failure(console)
        if failed is not None and not given_up:
            given_up = True
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        if time.monotonic() >= deadline:
            if failed is not None:
                raise _failed(machine, f"  {failed}")
            raise _timeout(machine, timeout, "cloud-init has not said that it finished")
        machine.check_alive()
        time.sleep(_LOOK_SECONDS)  # a file that grows raises no event


def wait_for_shells(machine: Machine, deadline: float, timeout: float) -> None:
    """Return when ssh and the agent, as far as the guest has them, answer.

    Raises:
        BootTimeoutError: one does not.
        MachineDiedError: QEMU or gvproxy ended.
    """
    if machine.ssh is not None:
        probe = Probe(_SshAnswers(), machine.wiring, machine.monitor)
        while not probe.done:
            if time.monotonic() >= deadline:
                raise _timeout(
                    machine, timeout,
                    f"ssh: {probe.answers[SSH_PORT]}; ssh=False if the image runs no sshd",
                )  # fmt: skip
            probe.step(deadline, machine.check_alive)
    if machine.agent is not None and not machine.agent.answers(deadline, machine.check_alive):
        raise _timeout(machine, timeout, "the QEMU guest agent does not answer; does it run?")


def _failed(machine: Machine, errors: str) -> CloudInitError:
    return CloudInitError(errors=errors, console=machine.console.tail(40))


def _timeout(machine: Machine, timeout: float, what: str) -> BootTimeoutError:
    return BootTimeoutError(
        timeout=timeout, waited_for=what, console=machine.console.tail(),
        ports="  no port was asked yet",
    )  # fmt: skip

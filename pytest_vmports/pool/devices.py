"""What of the hardware that a test asks for can be had: asked before anything boots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.guests.more_disks import MoreDisk
from pytest_vmports.system import processors

if TYPE_CHECKING:
    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.settings.options import Settings
    from pytest_vmports.system.programs import Accelerator, Qemu
    from pytest_vmports.system.swtpm import Swtpm


def on_machine(settings: Settings, guest: Guest, qemu: Qemu, accelerator: Accelerator) -> Qemu:
    """Return this QEMU, as one that makes the machine type that was asked for.

    Raises:
        SettingError: there is none of this name for its architecture, or it does not boot the
            guest, or lacks what else was asked for.
    """
    machine = settings.machine
    if machine is None:
        return qemu
    architecture, why = qemu.architecture, None
    if machine not in architecture.machines:
        why = f"guests for {architecture.name} are given {', '.join(architecture.machines)}"
    else:
        other = architecture.on(machine)
        if guest.kernel_path is None and not other.boots_disks:
            why = (
                f"no firmware boots a disk on it, and {guest.name} brings no kernel: give its "
                f"Guest.disk a kernel, or use {architecture.machines[0]}"
            )
        elif settings.display and other.display is None:
            why = f"it has no graphics card, and display = yes ({settings.sources['display']})"
        elif accelerator.name == "tcg" and not other.emulated:
            why = (
                "a guest that is emulated, as here, finds no clock on it that a busy host cannot "
                f"spoil, and then hangs while it boots: use KVM or HVF, or "
                f"{architecture.machines[0]}"
            )
    if why is not None:
        raise SettingError(
            source=settings.sources["machine"], name="machine", value=machine, allowed=why
        )
    return replace(qemu, machine=machine)


def disks(settings: Settings) -> tuple[MoreDisk, ...]:
    """Return the disks beside the root that were asked for.

    Raises:
        SettingError: an image is not there.
    """
    found = []
    for one in settings.disks:
        if isinstance(one, int):
            found.append(MoreDisk(size=one))
        elif not Path(one).is_file():
            raise SettingError(
                source=settings.sources["disks"], name="disks", value=one,
                allowed="there is no such file; write an image's path, or a size like 512M or 1G",
            )  # fmt: skip
        else:
            found.append(MoreDisk(image=Path(one)))
    return tuple(found)


def swtpm(settings: Settings, qemu: Qemu) -> Swtpm | None:
    """Return what is the guest's TPM; None where it is to have none.

    Raises:
        SettingError: its board has no place for one.
        SwtpmNotFoundError: there is none that runs.
    """
    if not settings.tpm:
        return None
    if qemu.architecture.tpm is None:
        raise SettingError(
            source=settings.sources["tpm"], name="tpm", value=True,
            allowed=f"the board {qemu.architecture.board} of a guest for {qemu.architecture.name} "
            "has no TPM",
        )  # fmt: skip
    from pytest_vmports.system.swtpm import find_swtpm  # noqa: PLC0415 - few need it

    return find_swtpm()


def check_cpu(settings: Settings, qemu: Qemu, accelerator: Accelerator) -> None:
    """Raise where this QEMU makes no such processor.

    Raises:
        SettingError: it does not; says why in QEMU's words, and names some that it has.
        ProgramStoppedError: the host keeps QEMU from running.
    """
    if settings.cpu is None:
        return
    why = processors.problem(qemu, accelerator, settings.cpu)
    if why is None:
        return
    raise SettingError(
        source=settings.sources["cpu"], name="cpu", value=settings.cpu,
        allowed=f"{why} (with {accelerator.name}); it has {', '.join(processors.some(qemu))} and "
        f"more, which {qemu.path} -cpu help lists",
    )  # fmt: skip

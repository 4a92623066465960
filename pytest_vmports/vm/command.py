"""QEMU's argv, from values alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.host import Accelerator, Qemu
    from pytest_vmports.network.wiring import Wiring

# QEMU's own seccomp filter; no part of it is needed by a guest that only computes and talks.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Hardware:
    """The machine that a guest sees. ``memory`` is in MiB."""

    qemu: Qemu
    accelerator: Accelerator
    memory: int
    cpus: int


@dataclass(frozen=True)
class Channels:
    """Where QEMU's monitor and serial ports lead: inherited descriptors, and the console's file."""

    monitor_fd: int
    control_fd: int
    console: Path


def build_command(
    hardware: Hardware,
    wiring: Wiring,
    channels: Channels,
    *,
    kernel: Path,
    initrd: Path | None,
    kernel_words: str,
) -> list[str]:
    """Return the argv that boots this guest with this network.

    Serial port 1 is the console, written to a file; serial port 2 is the control channel of a
    guest we prepared. Nothing listens on a TCP port but the forwards.
    """
    command = [
        hardware.qemu.path,
        *("-name", "vmports", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "pc" if hardware.qemu.is_x86 else "virt"),
        *("-accel", hardware.accelerator.name),
        *("-cpu", "max" if hardware.accelerator.name == "tcg" else "host"),
        *("-m", f"{hardware.memory}M", "-smp", str(hardware.cpus)),
        *("-kernel", str(kernel)),
        *(("-initrd", str(initrd)) if initrd is not None else ()),
        *("-append", kernel_words),
        *("-chardev", f"socket,id=monitor,fd={channels.monitor_fd}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"file,id=console,path={_comma(channels.console)}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=control,fd={channels.control_fd}"),
        *("-serial", "chardev:control"),
        *wiring.qemu_args(),
    ]
    if sys.platform.startswith("linux") and hardware.qemu.has_sandbox:
        command += ["-sandbox", _SANDBOX]
    return command


def _comma(path: Path) -> str:
    # A comma ends a value in QEMU's option syntax unless doubled.
    return str(path).replace(",", ",,")

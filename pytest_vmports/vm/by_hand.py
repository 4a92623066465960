"""A shell script that starts a test's VM again, for whoever wants to look at it by hand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.guests import disk
from pytest_vmports.mishaps import printable
from pytest_vmports.network.second_card import SecondCardWiring
from pytest_vmports.network.usernet import NoNetwork, UsernetWiring
from pytest_vmports.vm.command import Channels, Drives, build_command
from pytest_vmports.vm.disk_guest import OVERLAY, VARIABLES, firmware_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.vm.machine import Machine

_HEAD = """\
#!/bin/sh
# Boots the VM of {title}
# from cold, with the console on this terminal. Ctrl-A X ends it, Ctrl-A C leads to QEMU's monitor
# and back.
set -e
cd "$(dirname "$0")"
"""
_BY_GVPROXY = """\
# The test's VM was wired by gvproxy; here QEMU's user network makes the same forwards.
"""
_NO_UDP = """\
# Without {ports}: a guest without network gets UDP from the test's process only.
"""
_NO_SECOND_CARD = """\
# Without the second card, for host_ports and network: it leads to the test's process.
"""


def script(machine: Machine, title: str, initrd: str | None, seed: str | None) -> str:
    """Return the script's text; it is run in the folder that it lies in.

    Args:
        machine: the VM.
        title: whose it was.
        initrd: path of the initrd, relative to the script; None for none.
        seed: of cloud-init's seed, likewise.

    Raises:
        HostError: ``qemu-img`` or the firmware is missing.
        ImageError: the disk image has become unreadable.
    """
    lines = [_HEAD.format(title=printable(title.replace("\n", " ")))]
    wiring = _wiring(machine, lines)
    drives = _drives(machine, seed, lines)
    command = build_command(
        machine.hardware, wiring, Channels(0, 0, Path("console.log")),
        kernel=machine.guest.kernel_path, initrd=Path(initrd) if initrd else None,
        drives=drives,
        kernel_words=machine.guest.kernel_words(machine.hardware.qemu.architecture, wiring.dns),
    )  # fmt: skip
    words = [shlex.quote(word) for word in _on_a_terminal(command)]
    lines.append("exec " + " \\\n  ".join(_pairs(words)) + "\n")
    return "".join(lines)


def _wiring(machine: Machine, lines: list[str]) -> NoNetwork | UsernetWiring:
    """Return a network that QEMU makes by itself; add to the script what it lacks.

    The VM's own wiring is asked for its kind and its forwards only, which it knows in any state;
    what it leads to, a descriptor or a program's socket, is there as long as it runs.
    """
    own = machine.wiring
    if isinstance(own, SecondCardWiring):
        lines.append(_NO_SECOND_CARD)
    if own.kind == "none":
        return NoNetwork()
    if own.kind == "gvproxy":
        lines.append(_BY_GVPROXY)
    network = own.kind == "gvproxy" or bool(machine.settings and machine.settings.allow_network)
    udp = [port for port in own.ports if port.protocol == "udp" and not network]
    if udp:
        lines.append(_NO_UDP.format(ports=", ".join(map(str, udp))))
    ports = tuple(port for port in own.ports if port not in udp)
    return UsernetWiring(ports, restrict=not network)


def _drives(machine: Machine, seed: str | None, lines: list[str]) -> Drives | None:
    """Return the disks; add what makes their files to the script."""
    image = machine.guest.image
    if image is None:
        return None
    direct = machine.guest.kernel_path is not None
    root, variables = Path(OVERLAY), Path(VARIABLES)
    make = disk.overlay_arguments(image.path, disk.check(image, direct=direct), root)
    lines.append(f"[ -e {root} ] || qemu-img {shlex.join(make)}\n")
    firmware = firmware_of(image, machine.hardware.qemu, direct=direct)
    if firmware is not None:
        copy = shlex.join(["cp", str(firmware.variables), str(variables)])
        lines.append(f"[ -e {variables} ] || {copy}\n")
    files = (firmware.code, variables) if firmware else None
    return Drives(root, Path(seed) if seed else None, files)


def _on_a_terminal(command: Sequence[str]) -> list[str]:
    """Return QEMU's argv with console and monitor on standard input and output.

    The channels of a test are descriptors that only its process has.
    """
    instead = {
        "socket,id=monitor,fd=0": "stdio,id=console,mux=on,signal=off",
        "chardev=monitor,mode=control": "chardev=console,mode=readline",
        "monitor-qmp,id=monitor0,chardev=monitor": "monitor-hmp,id=monitor0,chardev=console",
        "socket,id=control,fd=0": "null,id=control",
    }
    changed = [instead.get(word, word) for word in command]
    at = next(i for i, word in enumerate(changed) if word.startswith("file,id=console,"))
    del changed[at - 1 : at + 1]
    return changed


def _pairs(words: Sequence[str]) -> list[str]:
    """Return options with their values, a line each."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("-"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

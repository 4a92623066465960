"""A shell script that starts a test's VM again, for whoever wants to look at it by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.network.cards import network_args
from pytest_vmports.network.choose import Network
from pytest_vmports.system.mishaps import printable
from pytest_vmports.vm.argv import Channels
from pytest_vmports.vm.inside.waiting import BootFiles
from pytest_vmports.vm.plan import Ends

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.machine import Machine

_HEAD = """\
#!/bin/sh
# Boots the VM of {title}
# from cold, with the console on this terminal. Ctrl-A X ends it, Ctrl-A C leads to QEMU's monitor
# and back.
set -e
case $0 in */*) CDPATH= cd -- "${{0%/*}}/" ;; esac
"""
_BY_ANOTHER = """\
# The test's VM was wired by {wiring}; here QEMU's user network makes the same forwards.
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
    plan = machine.plan
    network, forwards = _network(machine, lines)
    commands, drives = plan.kind.by_hand(Path(seed) if seed else None)
    own = plan.disk_files(Path())
    commands += [one.by_hand(file) for one, file in zip(plan.disks, own, strict=True)]
    lines += [f"[ -e {command[-1]} ] || {shlex.join(command)}\n" for command in commands]
    boots = BootFiles(plan.guest.kernel_path, Path(initrd) if initrd else None, drives)
    cards = network_args(network, forwards, (), None)
    alone = replace(plan, network=network, paused=False)
    ends = Ends(Channels(0, 0, Path("console.log")), boots, cards)
    words = [shlex.quote(word) for word in _on_a_terminal(alone.argv(ends))]
    lines.append("exec " + " \\\n  ".join(_pairs(words)) + "\n")
    return "".join(lines)


def _network(machine: Machine, lines: list[str]) -> tuple[Network, Sequence[ExposedPort]]:
    """Return a network that QEMU makes by itself; add to the script what it lacks.

    Of the VM's own only the shape and the forwards are asked for, which are known in any state;
    what it leads to, a descriptor or a program's socket, is there as long as it runs.
    """
    own, ports = machine.cards.network, machine.cards.first.ports
    if own.second_card:
        lines.append(_NO_SECOND_CARD)
    if own.kind == "none":
        return Network(more_cards=own.more_cards), ()
    if own.kind != "usernet":
        lines.append(_BY_ANOTHER.format(wiring=own.kind))
    udp = [port for port in ports if port.protocol == "udp" and own.restrict]
    if udp:
        lines.append(_NO_UDP.format(ports=", ".join(map(str, udp))))
    alone = Network("usernet", own.restrict, more_cards=own.more_cards)
    return alone, [port for port in ports if port not in udp]


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

"""The walls around gvproxy, and which of them this host has.

1. A filter before the socket that takes the guest's frames (`seal`): the guest never reaches the
   API, nor an address that leads to the host's own services.
2. Landlock (`system.landlock`): gvproxy reads what it needs to run, and writes, makes and removes
   no file at all.
3. The gate (`system.gate`): it listens on what was asked for, and connects to nothing of the
   host's loopback.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.system import gate, landlock
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.gate import Gate
from pytest_vmports.system.landlock import Walls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.network.doorman import Doorman

# Programs and libraries, which are nobody's secrets, and what tells of names and addresses.
_PROGRAMS = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/nix/store", "/opt/homebrew")
_NAMES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf",
    "/etc/services", "/etc/protocols", "/etc/localtime", "/run/systemd/resolve",
)  # fmt: skip
_LOADER = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
_MACHINE = ("/sys/kernel/mm", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/proc/sys/net/core")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def around_gvproxy(program: str, read: Iterable[Path], doorman: Doorman) -> Confinement:
    """Return how gvproxy is confined, as far as this host can.

    Args:
        program: gvproxy.
        read: files of ours that it needs.
        doorman: decides what its sockets may do.
    """
    walls = None
    if landlock.problem() is None:
        given = [*_PROGRAMS, *_NAMES, *_LOADER, *_MACHINE, os.path.realpath(program)]
        devices = tuple(map(Path, _DEVICES))
        walls = Walls(read=(*map(Path, given), *read), change=devices)
    return Confinement(walls, Gate(doorman) if gate.problem() is None else None)

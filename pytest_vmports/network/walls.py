"""The walls around gvproxy, and which of them this host has; and passt's.

1. A filter before the socket that takes the guest's frames (`seal`): the guest never reaches the
   API, nor an address that leads to the host's own services.
2. The gate (`system.gate`): gvproxy listens on what was asked for, and connects to nothing of the
   host's loopback.
3. Landlock (`system.landlock`): gvproxy reads what it needs to run, and writes, makes and removes
   no file at all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_vmports.network import seal
from pytest_vmports.system import gate, landlock, seccomp
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.gate import Gate
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.program_files import LOADER, PROGRAMS, is_script, launcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.network.doorman import Doorman

# What tells of names and addresses.
_NAMES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf",
    "/etc/services", "/etc/protocols", "/etc/localtime", "/usr/share/zoneinfo",
    "/run/systemd/resolve",
)  # fmt: skip
_MACHINE = (
    "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu", "/proc/sys/net/core",
    "/proc/sys/vm/overcommit_memory",
)  # fmt: skip
_OF_THE_HOST = tuple(map(Path, (*PROGRAMS, *_NAMES, *LOADER, *_MACHINE)))
_DEVICES = tuple(map(Path, ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")))
_FETCH_REMEDY = (
    "use a Linux host that allows pidfd_getfd(2) and filters of its own (SO_ATTACH_FILTER, "
    "seccomp); in a container that takes --cap-add SYS_PTRACE"
)
_LANDLOCK_REMEDY = (
    "use Linux 5.13 or later with landlock in /sys/kernel/security/lsm, and a container whose "
    "seccomp profile lets it through"
)


class Wall(NamedTuple):
    """One wall.

    Attributes:
        name: what it is called.
        holds: what it does.
        without: what there is without it.
        problem: why this host has none; None where it has.
        remedy: what to do then.
    """

    name: str
    holds: str
    without: str
    problem: str | None
    remedy: str


def of_this_host() -> tuple[Wall, ...]:
    """Return all walls, each found by trying it once in a process."""
    return (
        Wall(
            "filter", "guests reach neither gvproxy's API nor, by it, the host's loopback",
            "guests reach gvproxy's API at http://192.168.127.1", seal.problem(), _FETCH_REMEDY,
        ),
        Wall(
            "gate", "gvproxy listens on the asked ports alone and connects to none of this host's",
            "gvproxy may listen on any port, and connect to services on the host's 127.0.0.1",
            gate.problem(), _FETCH_REMEDY,
        ),
        Wall(
            "Landlock", "gvproxy reads no file of yours, and changes none at all",
            "gvproxy may read, make and delete files of yours", landlock.problem(),
            _LANDLOCK_REMEDY,
        ),
    )  # fmt: skip


def missing() -> dict[str, str] | None:
    """Return which walls this host has not; None when it has all.

    Its fields are those of `MissingWallError`.
    """
    gone = [wall for wall in of_this_host() if wall.problem is not None]
    if not gone:
        return None
    return {
        "missing": "; ".join(f"no {one.name} ({one.problem}): {one.without}" for one in gone),
        "remedy": "; ".join(dict.fromkeys(one.remedy for one in gone)),
    }


def folder_for_sockets(workdir: Path) -> Path:
    """Return where gvproxy's sockets are to lie.

    Where we bind them for it, in a VM's private folder, in which it can make and remove nothing.
    Without the gate it has to, and does so in a folder of its own, whose name no guest guesses.
    """
    if gate.problem() is None or landlock.problem() is not None:
        return workdir
    return Path(tempfile.mkdtemp(prefix="g", dir=workdir))


def around_gvproxy(
    program: str,
    read: Iterable[Path],
    doorman: Doorman,
    sockets: Path,
    *,
    connects: bool = False,
    answers: bool = False,
) -> Confinement:
    """Return how gvproxy is confined, as far as this host can.

    Args:
        program: gvproxy.
        read: files of ours that it needs.
        doorman: decides what its sockets may do.
        sockets: the folder for its Unix sockets; see `folder_for_sockets`.
        connects: it connects without asking, as it will when we are gone.
        answers: it sends datagrams without asking, as it has to many for forwards of UDP. That is
            to any address: who sent it some, to be answered, is nobody's to know but its own.
    """
    walls = None
    if landlock.problem() is None:
        own = () if gate.problem() is None else (sockets,)
        given = *_OF_THE_HOST, Path(os.path.realpath(program)), *launcher(), *read
        walls = Walls(given, write=own, change=_DEVICES)
    held = ["bind", "listen"]
    if not connects:
        held += ["connect"] if answers else ["connect", "sendto"]
    refused: tuple[str, ...] = (seccomp.ATTRIBUTES,) if seccomp.problem() is None else ()
    if not is_script(Path(program)) and seccomp.forks_problem() is None:
        refused += (seccomp.FORKS,)  # or one would be left when it has ended
    ours = Gate(doorman, tuple(held)) if gate.problem() is None else None
    return Confinement(walls, ours, refused=refused)


def around_passt(doorman: Doorman) -> Confinement:
    """Return how passt is confined: by the gate, and by the sandbox that it makes for itself.

    In that it has no file and no rights (source: passt(1)), and Landlock would keep it from making
    it. Where we are root it becomes nobody, which takes back that the kernel ends it with us: it
    ends when both of what holds QEMU's end are gone, QEMU and we.
    """
    return Confinement(None, Gate(doorman, sandboxes=True))

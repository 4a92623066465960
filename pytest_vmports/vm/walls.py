"""The walls around one QEMU: of the host's files it has those of its VM, and no others.

A guest that has taken over its QEMU is where QEMU is. It reads what it boots, its image and what
stands behind that; it writes its disk's overlay, its console, what we have it write down (packets,
pictures), and the memory that a template becomes. Each is a file that we have made: in its VM's
private folder QEMU makes and removes nothing, for there lies what our own programs go by, as ssh's
configuration, and a link in a file's place would have us read or write for it anywhere. Whatever
else we have it write (saved states, dumps) it is given as an open descriptor. So is the window that
its guest shares with us: a file without a name, whose size stays. It inherits the ends
of its own monitor and channels, the locked files of the ports that it binds, which are empty of
secrets, and its ends of the wires to its neighbours on a network.

The memory of a saved guest, which all clones map, is a case of its own. QEMU from 8.2 on opens it
to read only, and these walls let it do no more. Older ones open it to write, whatever they map: so
there `template` looks before each clone whether it is still what was saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.network.handshake import FILE as HANDSHAKE
from pytest_vmports.system import landlock, program_files, seccomp
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.vm.argv import CONSOLE_SOCKET, MONITOR_SOCKET, PICTURE, maps_read_only
from pytest_vmports.vm.gdb import SOCKET as GDB_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vmports.system.programs import Accelerator, Qemu
    from pytest_vmports.vm.inside.waiting import Place
    from pytest_vmports.vm.plan import Ends, Plan

# Where the user network finds the name server that it passes the guest's questions on to.
_NAMES = tuple(map(Path, ("/etc/resolv.conf", "/run/systemd/resolve")))
_KVM = Path("/dev/kvm")


def around_qemu(plan: Plan, ends: Ends, place: Place) -> Confinement | None:
    """Return how the QEMU of a VM is confined; None where it cannot be.

    See `problem`.

    Args:
        plan: what the VM is.
        ends: of this start.
        place: of its files.
    """
    qemu, accelerator = plan.hardware.qemu, plan.hardware.accelerator
    needed = None if landlock.problem() is not None else _needed(qemu, accelerator)
    if needed is None:
        return None
    change = [*program_files.DEVICES, *_devices(accelerator), *_written(ends, place)]
    change += plan.disk_files(place.workdir)
    read = [*needed, *plan.image_files(), *place.below, *_boots(ends)]
    if ends.ram is not None:
        (read if maps_read_only(qemu, ends.ram) else change).append(ends.ram.path)
    by_qemu = plan.network.kind == "usernet"
    outwards = by_qemu and not plan.network.restrict
    # Services of the host that were asked for are QEMU's own user network's to reach.
    connects = outwards or bool(plan.network.host_ports)
    if outwards:
        read += _NAMES
    listens = plan.reachable or plan.paused
    sockets = (place.workdir,) if listens else ()
    read += [share.folder for share in plan.shares if share.readonly]
    write = tuple(share.folder for share in plan.shares if not share.readonly)
    walls = Walls(tuple(read), write, tuple(change), sockets)
    refused: tuple[str, ...] = ()
    if seccomp.problem() is None:
        # Landlock keeps nobody from Unix sockets, as that of a Docker, nor from MPTCP, nor from
        # other files' modes.
        refused = (seccomp.ATTRIBUTES,)
        refused += () if connects else ("connect",)
        refused += () if by_qemu or listens else ("bind", "listen")
        # By a socket of UDP it would send to any address, and no connect is seen; by one in a
        # folder it would ask a Docker, a D-Bus or an agent of ssh's.
        refused += () if by_qemu or connects else (seccomp.TCP,)
        refused += () if outwards else (seccomp.UDP,)
        refused += () if listens else (seccomp.UNIX,)
        refused += (seccomp.RIGHTS,) if write else ()
    return Confinement(walls, binds=by_qemu, connects=connects, refused=refused)


def problem(qemu: Qemu, accelerator: Accelerator) -> str | None:
    """Return why there are no walls around a QEMU; None where there are."""
    why = landlock.problem()
    if why is None and _needed(qemu, accelerator) is None:
        return "it is a script, or needs more of the host's files than can be found out"
    return why


def _needed(qemu: Qemu, accelerator: Accelerator) -> tuple[Path, ...] | None:
    trial = ("-machine", qemu.architecture.board, "-accel", accelerator.name,
             "-nodefaults", "-display", "none", "-S", "-monitor", "stdio")  # fmt: skip
    return program_files.needed_by(qemu.path, asks=True, trial=trial, change=_devices(accelerator))


def _devices(accelerator: Accelerator) -> tuple[Path, ...]:
    return (_KVM,) if accelerator.name == "kvm" else ()


def _boots(ends: Ends) -> Iterator[Path]:
    boots = ends.boots
    yield from (one for one in (boots.kernel, boots.initrd) if one is not None)
    if boots.drives is not None:
        yield from () if boots.drives.seed is None else (boots.drives.seed,)
        yield from () if boots.drives.firmware is None else boots.drives.firmware[:1]


def _written(ends: Ends, place: Place) -> Iterator[Path]:
    """Yield what QEMU writes in its VM's private folder, made where it is not there yet."""
    names = (place.workdir / PICTURE, place.workdir / HANDSHAKE)
    for file in (*names, ends.channels.console, *([ends.capture] if ends.capture else [])):
        file.touch()
        yield file
    if ends.boots.drives is not None:
        yield ends.boots.drives.root
        yield from () if ends.boots.drives.firmware is None else ends.boots.drives.firmware[1:]
    for name in (CONSOLE_SOCKET, MONITOR_SOCKET, GDB_SOCKET):
        # Of the QEMU before, in whose place this one comes: it could not remove them.
        (place.workdir / name).unlink(missing_ok=True)

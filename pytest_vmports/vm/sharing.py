"""Folders of the host plugged into a VM that runs.

QEMU stands behind walls that nothing opens again, and there is no folder in them that nobody had
named when it was started. So another QEMU takes its place for that, with what the guest was in the
middle of, and with the folder in its walls. What a state was saved with cannot be left out when it
is restored: nothing is plugged in while it is saved.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import MonitorError, ShareError
from pytest_vmports.system import clock, patience, seccomp
from pytest_vmports.system.said import shaped
from pytest_vmports.system.surroundings import restored
from pytest_vmports.vm import share, snapshots, walls
from pytest_vmports.vm.qmp_answers import WHO, Named
from pytest_vmports.vm.saved import Snapshot
from pytest_vmports.vm.share import NINE_P

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_vmports.vm.inside.mounting import Mounting
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.share import Share

# The file of a guest that moves from one QEMU to the next, in its VM's private folder.
_STATE: Final = "sharing"
# How long a guest has to let go of a device.
_UNPLUG_SECONDS, _LOOK_SECONDS = 30.0, 0.02


def way(machine: Machine, mounting: Mounting) -> str | None:
    """Return by what a folder is shared with this guest; None where it can only have a copy."""
    qemu = machine.plan.hardware.qemu
    offered = [NINE_P] if share.DEVICES[NINE_P] in qemu.shares_by else []
    if not offered or not qemu.architecture.hot_plugs:
        return None
    return next(iter(mounting.known(offered)), None)


def refuse_to_write(machine: Machine) -> None:
    """See that a guest which may write to a folder is kept from all else of the host's.

    Raises:
        ShareError: this host has no walls for that.
    """
    hardware = machine.plan.hardware
    why = walls.problem(hardware.qemu, hardware.accelerator) or seccomp.problem()
    if why is not None:
        what = f"readonly=False needs walls around QEMU, and there are none: {why}"
        remedy = "share it with readonly=True, and fetch what the guest makes by vm.get"
        raise ShareError(what=what, remedy=remedy)


def refuse(machine: Machine, wanted: Share) -> None:
    """See that the guest may be given a folder; see `share.refuse`."""
    place, ram = machine.place, machine.ram
    plan = machine.plan
    used = [place.home, *place.below, *plan.kind.image_files()]
    used += [one for one in (plan.guest.kernel_path, plan.guest.initrd_path) if one is not None]
    used += [] if ram is None else [ram.path]
    share.refuse(wanted.folder, [place.home], readonly=wanted.readonly, used=used)


@restored()
def begin(
    machine: Machine,
    lease_fds: Collection[int],
    mounting: Mounting,
    shared: Sequence[Share],
    wanted: Share,
) -> Share:
    """Return what the guest sees from now on: one more folder.

    Args:
        machine: runs.
        lease_fds: as for `Machine.start`.
        mounting: leads into the guest.
        shared: what it sees already.
        wanted: what it is to see.

    Raises:
        MachineError: it cannot; where its state was lost with that, its VM has ended.
        OSError: its state cannot be written.
    """
    used = [one.tag for one in shared]
    for one in machine.plan.shares:
        if one.tag not in used and one.serves(wanted):  # given back; this QEMU can serve it still
            again = replace(wanted, tag=one.tag)
            _plug(machine, mounting, [*shared, again], again)
            return again
    free = next(tag for n in count() if (tag := f"share{n}") not in used)
    whole = [*shared, replace(wanted, tag=free)]
    for one in reversed(shared):
        end(machine, mounting, one)
    path = machine.workdir / _STATE
    try:
        try:
            snapshots.save(machine, path)
        except BaseException:
            machine.monitor.execute("cont")
            _plug_all(machine, mounting, shared)
            raise
        moment = Snapshot(path, machine.console.recent(), machine.ram)
        snapshots.restart(machine, lease_fds, moment, tuple(whole))
    finally:
        path.unlink(missing_ok=True)
    machine.wait_ready()
    mounting.through(machine.shell)
    _plug_all(machine, mounting, whole)
    return whole[-1]


def end(machine: Machine, mounting: Mounting, shared: Share) -> None:
    """Return when the guest sees a folder no more.

    Raises:
        ShareError: it uses it, or does not let go of its device.
    """
    mounting.unmount(shared)
    _unplug(machine, shared)


def _plug_all(machine: Machine, mounting: Mounting, shares: Sequence[Share]) -> None:
    for number, one in enumerate(shares, 1):
        _plug(machine, mounting, shares[:number], one)


def _plug(machine: Machine, mounting: Mounting, plugged: Sequence[Share], wanted: Share) -> None:
    machine.monitor.execute("device_add", **wanted.device)
    try:
        mounting.mount(wanted, sum(one.by == wanted.by for one in plugged))
    except ShareError:
        _unplug(machine, wanted)
        raise


def _unplug(machine: Machine, shared: Share) -> None:
    """Take a device away, which the guest has to let go of.

    QEMU tells by an event that it has gone, which a guest could make it tell without end; so it is
    asked.
    """
    if shared.tag not in _plugged(machine):
        return
    machine.monitor.execute("device_del", id=shared.tag)
    deadline = clock.now() + patience.left(_UNPLUG_SECONDS)
    while shared.tag in _plugged(machine):
        machine.check_alive()
        if clock.now() >= deadline:
            what = f"the guest does not let go of the device of {shared.folder}"
            raise ShareError(what=what, remedy="its kernel needs hot-plugging of PCI (acpiphp)")
        clock.sleep(_LOOK_SECONDS)


def _plugged(machine: Machine) -> set[str]:
    """Return the names of the devices that were plugged in."""
    try:
        told = machine.monitor.execute("qom-list", path="/machine/peripheral")
    except MonitorError as error:
        raise ShareError(what=str(error), remedy="see what QEMU says") from error
    return {one.name for one in shaped(WHO, told, list[Named])}

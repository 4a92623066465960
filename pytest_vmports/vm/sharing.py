"""Folders of the host plugged into a VM that runs.

QEMU stands behind walls that nothing opens again, and there is no folder in them that nobody had
named when it was started; nor can the memory of a clone be another process's too. So another QEMU
takes its place for that, with what the guest was in the middle of. What a state was saved with
cannot be left out when it is restored: nothing is plugged in while it is saved.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import MachineDiedError, MonitorError, ShareError
from pytest_vmports.system import clock, patience, seccomp
from pytest_vmports.system.said import shaped
from pytest_vmports.system.surroundings import restored
from pytest_vmports.vm import share, snapshots, virtiofs, walls
from pytest_vmports.vm.failures import status_of
from pytest_vmports.vm.qmp_answers import WHO, Named
from pytest_vmports.vm.saved import Snapshot
from pytest_vmports.vm.share import COPY, NINE_P, VIRTIOFS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_vmports.system.process import Process
    from pytest_vmports.vm.inside.mounting import Mounting
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.monitor import Monitor
    from pytest_vmports.vm.share import Share

# The file of a guest that moves from one QEMU to the next, in its VM's private folder.
_STATE: Final = "sharing"
# How long a guest has to let go of a device.
_UNPLUG_SECONDS, _LOOK_SECONDS = 30.0, 0.02
# What QEMU calls a memory that is a file, and one that is nothing else (of the board ``pc``): what
# was saved fits no other name.
_IN_A_FILE, _ANONYMOUS = "ram", "pc.ram"


class Sharing:
    """What one VM sees of the host.

    Args:
        machine: the VM.

    Attributes:
        shared: the folders, copies included, in the order in which they were shared.
    """

    def __init__(self, machine: Machine) -> None:
        self.shared: list[Share] = []
        self._machine = machine
        # Of a clone its template's, which others are cloned from; it may have another later.
        self._first_ram = machine.ram
        self._serving: dict[str, Process] = {}
        self._numbers = count()

    @property
    def served(self) -> list[Share]:
        """Those that are no copies."""
        return [one for one in self.shared if one.by != COPY]

    def way(self, mounting: Mounting) -> str | None:
        """Return by what a folder is shared with this guest; None where it can only have a copy."""
        qemu = self._machine.plan.hardware.qemu
        if not qemu.architecture.hot_plugs:
            return None
        offered = [by for by in (VIRTIOFS, NINE_P) if share.DEVICES[by] in qemu.shares_by]
        if VIRTIOFS in offered and virtiofs.find() is None:
            offered.remove(VIRTIOFS)
        return next(iter(mounting.known(offered)), None) if offered else None

    def refuse(self, wanted: Share) -> None:
        """See that the guest may be given a folder; see `share.refuse`."""
        place, ram = self._machine.place, self._first_ram
        plan = self._machine.plan
        guest = plan.guest
        used = [place.home, *place.below, *plan.image_files()]
        used += [one for one in (guest.kernel_path, guest.initrd_path) if one is not None]
        used += [] if ram is None else [ram.path]
        share.refuse(wanted.folder, [place.home], readonly=wanted.readonly, used=used)

    @restored()
    def begin(self, lease_fds: Collection[int], mounting: Mounting, wanted: Share) -> None:
        """Return when the guest sees one more folder.

        Args:
            lease_fds: as for `Machine.start`.
            mounting: leads into the guest.
            wanted: what it is to see.

        Raises:
            MachineError: it cannot; where its state was lost with that, its VM has ended.
            OSError: virtiofsd cannot be started.
        """
        used, plan = [one.tag for one in self.served], self._machine.plan
        spare = [one for one in plan.shares if one.tag not in used and one.serves(wanted)]
        # What was given back can be served still; what is not QEMU's to open it need not know.
        if spare and wanted.by == NINE_P:
            self._plug(mounting, replace(wanted, tag=spare[0].tag))
            return
        wanted = self._tagged(wanted)
        if wanted.by == NINE_P or plan.shared_memory is None:
            self._move(lease_fds, mounting, wanted)
        self._plug(mounting, wanted)

    def end(self, mounting: Mounting, one: Share) -> None:
        """Return when the guest sees a folder no more.

        Raises:
            ShareError: it uses it, or does not let go of its device.
        """
        mounting.unmount(one)
        self._unplug(one)
        self.shared.remove(one)

    def check_alive(self) -> None:
        """See that whoever serves the folders does.

        Raises:
            MachineDiedError: it has ended.
        """
        for tag, process in self._serving.items():
            if not process.running:
                folder = next((one.folder for one in self.served if one.tag == tag), tag)
                raise MachineDiedError(
                    program=f"virtiofsd, which serves {folder},", returncode=status_of(process),
                    stderr=process.output, console=self._machine.console.tail(),
                )  # fmt: skip

    def forget(self, *, lives_on: bool = False) -> None:
        """End what is shared, the VM's QEMU with it. Safe to call again.

        Args:
            lives_on: but for a VM that was let go.
        """
        self.shared.clear()
        with ExitStack() as ending:
            while self._serving:
                process = self._serving.popitem()[1]
                ending.callback(process.let_go if lives_on else process.kill)

    def _move(self, lease_fds: Collection[int], mounting: Mounting, wanted: Share) -> None:
        """Have another QEMU go on from where this one is, that can serve one folder more."""
        machine, before = self._machine, self.served
        for one in reversed(before):
            self.end(mounting, one)
        memory = machine.plan.shared_memory
        if memory is None and wanted.by == VIRTIOFS:
            memory = _ANONYMOUS if machine.ram is None else _IN_A_FILE
        path = machine.workdir / _STATE
        try:
            try:
                snapshots.save(machine, path, whole=memory is not None)
            except BaseException as error:
                machine.monitor.execute("cont")
                # The same QEMU may hold what it has served by a name for a moment more.
                self._plug_all(mounting, [self._renamed(one) for one in before])
                if not isinstance(error, OSError):
                    raise
                what = f"the guest's memory cannot be written to {machine.workdir}: {error}"
                remedy = "make room there, or set TMPDIR to a folder on another file system"
                raise ShareError(what=what, remedy=remedy) from error
            ram = machine.ram if memory is None else None
            moment = Snapshot(path, machine.console.recent(), ram, shared_memory=memory)
            to_open = [one for one in (*before, wanted) if one.by == NINE_P]
            snapshots.restart(machine, lease_fds, moment, tuple(to_open))
        finally:
            path.unlink(missing_ok=True)
        machine.wait_ready()
        mounting.through(machine.shell)
        self._plug_all(mounting, before)

    def _renamed(self, one: Share) -> Share:
        """Return it with a name of its own, where QEMU was not started with one."""
        return one if one.by == NINE_P else self._tagged(one)

    def _tagged(self, one: Share) -> Share:
        """Return it with a name that none has had."""
        return replace(one, tag=f"share{next(self._numbers)}")

    def _plug_all(self, mounting: Mounting, shares: Sequence[Share]) -> None:
        for one in shares:
            self._plug(mounting, one)

    def _plug(self, mounting: Mounting, wanted: Share) -> None:
        monitor = self._machine.monitor
        try:
            if wanted.by == VIRTIOFS:
                self._serve(wanted)
            monitor.execute("device_add", **wanted.device)
            number = sum(one.by == wanted.by for one in self.served) + 1
            mounting.mount(wanted, number)
        except (ShareError, MonitorError):
            with ExitStack() as ending:
                ending.callback(self._unplug, wanted)
                self.check_alive()  # which is why
            raise
        self.shared.append(wanted)

    def _serve(self, wanted: Share) -> None:
        program = virtiofs.find()
        assert program is not None, "see `way`"
        process, wire = virtiofs.serve(program, wanted, self._machine.workdir)
        self._serving[wanted.tag] = process
        with wire:
            self._machine.monitor.give(wire.fileno(), wanted.tag)
        address = {"type": "fd", "data": {"str": wanted.tag}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        self._machine.monitor.execute("chardev-add", id=wanted.tag, backend=backend)

    def _unplug(self, shared: Share) -> None:
        """Take a device away, which the guest has to let go of.

        QEMU tells by an event that it has gone, which a guest could make it tell without end; so it
        is asked.
        """
        machine = self._machine
        if shared.tag in plugged(machine.monitor):
            machine.monitor.execute("device_del", id=shared.tag)
        deadline = clock.now() + patience.left(_UNPLUG_SECONDS)
        while shared.tag in plugged(machine.monitor):
            machine.check_alive()
            if clock.now() >= deadline:
                what = f"the guest does not let go of the device of {shared.folder}"
                raise ShareError(what=what, remedy="its kernel needs hot-plugging of PCI (acpiphp)")
            clock.sleep(_LOOK_SECONDS)
        process = self._serving.pop(shared.tag, None)
        if process is not None:
            process.kill()
            # It may not have come to be, or QEMU 10 holds it a moment longer than the device. Its
            # name is used no more.
            with suppress(MonitorError):
                machine.monitor.execute("chardev-remove", id=shared.tag)


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


def plugged(monitor: Monitor) -> set[str]:
    """Return the names of the devices that were plugged in.

    Raises:
        GuestSaidError: QEMU's answer is none.
        MonitorError: it gives none.
    """
    told = monitor.execute("qom-list", path="/machine/peripheral")
    return {one.name for one in shaped(WHO, told, list[Named])}

"""One QEMU: started, proved ready, stopped."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from pytest_vmports.constants import GVPROXY_CONFIG
from pytest_vmports.errors import MachineDiedError, NoShellError
from pytest_vmports.system import clock, patience, surroundings
from pytest_vmports.system.process import Process, spawn
from pytest_vmports.system.sockets import pair
from pytest_vmports.vm import failures, moves, owner, reboots, stillness, walls
from pytest_vmports.vm.argv import CAPTURE, Channels, Ram
from pytest_vmports.vm.console import MIB, Console
from pytest_vmports.vm.crash_dump import VMCORE, CrashDump
from pytest_vmports.vm.failures import Vitals
from pytest_vmports.vm.files import Files, keep_all
from pytest_vmports.vm.inside.disk import SEED
from pytest_vmports.vm.inside.waiting import Place, Waiting
from pytest_vmports.vm.milestones import Milestones, Origin, State
from pytest_vmports.vm.monitor import Monitor
from pytest_vmports.vm.plan import Ends, Plan
from pytest_vmports.vm.readiness import ALL, Probe
from pytest_vmports.vm.saved import SavedState, remove_overlay
from pytest_vmports.vm.tpm import Tpm

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.cards import Cards
    from pytest_vmports.vm.inside.kind import GuestKind
    from pytest_vmports.vm.inside.shell import Shell

_GREETING_SECONDS = 30.0


class Machine:
    """A QEMU process with its network. Its attributes are changed by its own methods only.

    Args:
        plan: what it is.
        cards: its network cards, and what they lead to.
        place: where its files are; its private folder is made already.
        saved: restore this instead of booting.
        ram: the file that becomes its memory, for a machine that will be saved as a template.
        leased: when its host ports were leased, a `clock.now` value.

    Attributes:
        plan: what it is; that of the test it was handed over to.
        state: see `State`.
        origin: where it came from.
        milestones: when what happened to it.
        command: QEMU's argv, empty before the start.
        console: what the guest wrote.
        files: others of its files that a report may want.
        crash_dump: what writes the guest's memory, if that is wanted.
        kind: its guest, from the host's side.
        monitor: the QMP connection; usable from the start to the stop.
        reboots: those of its guest, within this QEMU.
        clock_behind: by how many seconds its guest's clock is behind, as far as that is known.
        ram: the file that is its memory, if any.
        tpm: its TPM, or none.
        place: where its files are.
        probe: asks the ports that it is waited for by.
        failing: whether a test that used it has failed.
    """

    monitor: Monitor

    def __init__(
        self,
        plan: Plan,
        cards: Cards,
        place: Place,
        *,
        saved: SavedState | None = None,
        ram: Ram | None = None,
        leased: float | None = None,
    ) -> None:
        self.owner: owner.Owner = owner.Owner()
        self.plan: Plan = plan
        self.state: State = State.NEW
        self.cards: Cards = cards
        self.kind: GuestKind = plan.kind
        self.origin = Origin.BOOTED if saved is None else Origin.CLONED
        self.milestones: Milestones = Milestones(leased=leased)
        self.command: list[str] = []
        self.place: Place = place
        self.failing: bool = False
        self.console: Console = Console(place.workdir / "console.log", plan.console_limit * MIB)
        self.files: Files = Files((GVPROXY_CONFIG, SEED, CAPTURE, VMCORE))
        self.crash_dump: CrashDump = CrashDump(None)
        self.reboots: reboots.Reboots = reboots.Reboots()
        self.clock_behind: float = 0.0
        self._qemu: Process | None = None
        self.tpm: Tpm = Tpm()
        self.probe: Probe | None = None
        self._saved, self.ram = saved, ram if saved is None else saved.memory

    @property
    def workdir(self) -> Path:
        """Its private folder."""
        return self.place.workdir

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The test's forwards, in the order they were asked for."""
        own = self.plan.own_forwards
        return tuple(port for port in self.cards.first.ports if port not in own)

    @property
    def running(self) -> bool:
        """Whether it has been started, by this very process, and not been ended by us."""
        return self.owner.here and self.state in {State.STARTED, State.READY}

    @property
    def lives(self) -> bool:
        """Whether it runs, and all of its processes do."""
        return self.running and all(one.running for one in self.processes())

    @property
    def makes_template(self) -> bool:
        """Whether it was booted only to be saved."""
        return self.ram is not None and self.ram.share

    @property
    def vitals(self) -> Vitals:
        """What tells whether it lives; of a machine that was started."""
        assert self._qemu is not None
        helpers = [*self.cards.first.processes(), *self.tpm.processes]
        return Vitals(self._qemu, helpers, self.console, self.monitor, self.plan.may_crash)

    def how_ended(self, process: Process) -> str:
        """Return in words how one of its processes ended, and why."""
        if process is self._qemu:
            return failures.why_qemu_ended(self.vitals)
        return failures.status_of(process)

    def failure_at_the_end(self) -> MachineDiedError | None:
        """Return why the test fails whose VM ends now, or begins anew, and not by us; or None."""
        return failures.at_the_end(self.vitals) if self.running else None

    def processes(self) -> list[Process]:
        """Return QEMU, the network's processes and the TPM's, those that were started."""
        helpers = *self.cards.first.processes(), *self.tpm.processes
        return [p for p in (self._qemu, *helpers) if p is not None]

    def start(self, lease_fds: Collection[int] = ()) -> None:
        """Start the network and QEMU; return when QEMU runs and every forward is bound.

        The descriptors of port leases, ``lease_fds``, are inherited by whoever binds the ports, so
        that the leases live as long as that process.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: QEMU or gvproxy ended.
        """
        self.milestones.start = clock.now()
        wanted = self.plan.hardware.crash_dump
        self.crash_dump = CrashDump(self.workdir / VMCORE if wanted else None)
        try:
            self._start_qemu(self.cards.start(lease_fds))
            if self._saved is not None:
                self._restore(self._saved)
        except BaseException:
            self.stop()
            raise
        self.state = State.STARTED

    def start_again(self, plan: Plan, fds: Collection[int], saved: SavedState | None) -> None:
        """Start another QEMU, of this plan, in the place of one that has ended; see `start`."""
        self.clock_behind, self.ram = 0.0, None if saved is None else saved.memory
        self.plan, self._saved, self.kind = plan, saved, plan.kind
        self.origin = Origin.BOOTED if saved is None else Origin.RESTORED
        self.start(fds)

    def wait_ready(self) -> None:
        """Return when the guest's setup has ended well and it has answered what is waited for.

        Raises:
            SetupError: the setup failed.
            BootTimeoutError, GuestStuckError: not ready in time, or known never to be.
            MachineDiedError: QEMU or gvproxy ended.
        """
        started = None if self.plan.paused else self.milestones.start
        self._wait_up((started or clock.now()) + self.plan.boot_timeout)
        self.milestones.ready, self.state = clock.now(), State.READY

    def await_back(self, timeout: float | None = None) -> None:
        """Return when a guest that has rebooted is ready again, within seconds; see `wait_ready`.

        At once where it has not rebooted since it was waited for.
        """
        if self.state is State.READY and self.reboots.new:
            limit = self.plan.boot_timeout if timeout is None else timeout
            self._wait_up(clock.now() + patience.left(limit))
            self.milestones.rebooted = clock.now()

    def _wait_up(self, deadline: float) -> None:
        with failures.cause_first(self.vitals):
            self.reboots.wait_out(partial(self._come_up, deadline), self.kind.rebooted)

    def _come_up(self, deadline: float) -> None:
        plan, restored = self.plan, self._saved is not None and not self.reboots.count
        probe = self.probe = Probe(plan.wait_for, self.cards.first, self.monitor, self.ports)
        waiting = self._waiting(deadline, probe)
        # A booted guest answers after its setup, a restored one at once: its clock is set
        # while it answers.
        if not restored:
            self.kind.await_setup(waiting)
        if self.state is State.STARTED:
            self.milestones.setup = clock.now()
        while not probe.done:
            if waiting.over:
                way = partial(self.kind.shell, self.check_alive)
                raise waiting.timed_out(f"waited for {plan.wait_for}", way)
            probe.step(deadline, waiting.check)
        self.kind.await_shell(waiting)
        if restored and self.state is State.STARTED:
            self.kind.set_clock(waiting)

    def hand_over(self, plan: Plan, lease_fds: Sequence[int], leased: float) -> None:
        """Become the VM of a test that needs one like it: forward its ports instead of none.

        The guest has answered once and is not asked again: a third connection would overrun a
        backlog of one, and the forwarder repeats a first packet only after six seconds.

        Args:
            plan: the test's.
            lease_fds: its leases' descriptors, in the order of its forwards, ours the last.
            leased: when they were leased, a `clock.now` value.

        Raises:
            ForwardError: a host port could not be bound.
            MachineDiedError: QEMU or gvproxy has ended meanwhile, or the guest's kernel panicked.
            MachineError: QEMU refused, or the shared network is full.
        """
        self.plan, self.origin = plan, Origin.STANDBY
        self.milestones.leased, self.milestones.start = leased, clock.now()
        self._check_boot()
        with failures.cause_first(self.vitals):
            for port, lease in zip(plan.all_forwards, lease_fds, strict=True):
                self.cards.first.add_forward(port, lease, self.monitor)
            self.kind.handed_over(self.place, plan.all_forwards)
            moves.make(self.kind, self.cards.take_place(), self.set_clock)
        self.check_alive()
        self.milestones.ready = clock.now()

    def set_clock(self, timeout: float) -> None:
        """Give the guest the host's time within seconds, or raise a `MachineError`."""
        self.await_back(timeout)
        self.kind.set_clock(self._waiting(clock.now() + timeout, None, timeout))

    @surroundings.restored()
    def check_alive(self) -> None:
        """Raise `MachineDiedError` when a process of this VM has ended, or its kernel failed."""
        self.owner.check()
        self.cards.check()
        if self.milestones.console is None and self.console.begun:
            self.milestones.console = clock.now()
        if (died := failures.found(self.vitals)) is not None:
            self.crash_dump.take(self.vitals)
            raise died

    def _check_boot(self) -> None:
        self.check_alive()
        if self.reboots.new and self.state is State.READY:
            raise failures.rebooted(self.vitals)

    @property
    def shell(self) -> Shell:
        """The way by which commands are run in the guest, once it is back from a reboot.

        Raises:
            MachineError: as for `await_back`; `NoShellError`: there is none.
        """
        self.check_alive()
        self.await_back()
        shell = self.kind.shell(self._check_boot)
        if shell is None:
            raise NoShellError(guest=self.plan.guest.name)
        return shell

    def note_refused(self) -> None:
        """Note that a host port was somebody else's."""
        self.milestones.refused = clock.now()

    def note_failing(self) -> None:
        """Note that a test that used it has failed."""
        self.failing = True

    def stop(self, *, keep_disks: bool = False) -> None:
        """Kill QEMU, then its network; of value are its disks at most. Safe to call again."""
        if self.state is State.KEPT or not self.owner.here:
            return
        try:
            with ExitStack() as ending:  # the last first; each, whatever becomes of the others
                if not keep_disks:
                    ending.callback(remove_overlay, self.workdir)
                ending.callback(self.cards.stop)
                ending.callback(self.tpm.stop)
                ending.callback(self._hang_up)
                if self._qemu is not None:
                    ending.callback(self._qemu.kill)
                    if self.running:
                        self.crash_dump.take(self.vitals)
        finally:
            self.milestones.stopped = self.milestones.stopped or clock.now()
            self.state = State.STOPPED

    def finish(self) -> None:
        """Stop, keep in memory what a report may need, and remove the private folder.

        Raises:
            GuestForwardError: the guest had host ports opened that nobody asked for.
            MachineDiedError: see `failures.at_the_end`.
        """
        lost: list[str] = []
        with ExitStack() as ending:  # as in `stop`
            ending.callback(self.discard)
            whole = self.console, self.processes(), self.files, self.workdir
            ending.callback(keep_all, *whole, lost)
            ending.callback(self.stop)
            died = self.failure_at_the_end()
            if died is None and self.running:
                self.cards.first.look_for_opened()
        failures.warn_of_lost(lost)
        if died is not None:
            raise died

    def let_go(self, folder: Path) -> None:
        """Let the VM live on, its files in ``folder``, or raise OSError; see `pool.keeper`."""
        self.console.keep()
        self.workdir.rename(folder)
        self.place = Place(folder, self.place.home, self.place.root)
        for process in self.processes():
            process.let_go()
        self._hang_up()
        self.state = State.KEPT

    def discard(self) -> None:
        """Remove the private folder of a machine that does not run; remains go with the run's."""
        if self.owner.here:
            shutil.rmtree(self.workdir, ignore_errors=True)

    def _waiting(self, deadline: float, asked: Probe | None, timeout: float = 0.0) -> Waiting:
        deaths = [p.death for p in self.processes() if p.death is not None]
        return Waiting(
            self.console, self.check_alive, deadline,
            timeout or self.plan.boot_timeout, deaths, asked, self.kind.ends,
            lambda ports: Probe(ALL, self.cards.first, self.monitor, ports),
            stillness.Stillness(self.monitor, by_bios=self.kind.by_bios),
            self.reboots if asked else None,
        )  # fmt: skip

    def _hang_up(self) -> None:
        with ExitStack() as ending:
            ending.callback(self.kind.close)
            ending.callback(self.console.let_grow)
            if hasattr(self, "monitor"):
                self.monitor.close()

    def _start_qemu(self, network_fds: Collection[int]) -> None:
        plan, workdir, restored = self.plan, self.workdir, self._saved is not None
        ours, monitor = pair()
        self.monitor = Monitor(ours)
        self.reboots = reboots.Reboots(self.monitor, self.console)
        with monitor, ExitStack() as until_spawned:
            own = self.kind.connect(self.place, self.cards.first.ports, until_spawned)
            tpm = self.tpm.start(plan.swtpm, workdir, until_spawned)
            sockets = workdir if plan.reachable else None
            ends = Ends(
                Channels(monitor.fileno(), own[0], self.console.path, own[1], sockets, own[2], tpm),
                self.kind.files(self.place, restored=restored and not plan.hardware.reboots),
                self.cards.qemu_args(), self.cards.kernel_words(), self.ram,
                workdir / CAPTURE if plan.capture else None, restored,
            )  # fmt: skip
            self.command = plan.argv(ends)
            self.console.keep_in_bounds()
            fds = [fd for fd in (monitor.fileno(), *own, tpm, *network_fds) if fd is not None]
            around = walls.around_qemu(plan, ends, self.place)
            log = workdir / "qemu.log"
            self._qemu = spawn("QEMU", self.command, log=log, pass_fds=fds, confinement=around)
        if not self.monitor.connect(_GREETING_SECONDS):
            self._qemu.wait(_GREETING_SECONDS)
            raise failures.not_started(self.vitals, self.cards.first.refused(self._qemu.output))

    def _restore(self, saved: SavedState) -> None:
        self.console.begin_with(saved.console)
        with failures.cause_first(self.vitals), saved.open_state() as file:
            self.monitor.load(file.fileno(), whole=self.plan.shared_memory is not None)
        self.kind.restored(self.cards.move(cloned=self.origin is Origin.CLONED))
        if self.kind.why_no_template is not None:  # nothing sets it
            self.clock_behind = saved.clock_behind + clock.wall() - saved.saved_at
        self.monitor.execute("cont")

"""From a plan and leased ports to a machine that is ready, with new ports where one was taken."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    ForwardError,
    LaunchError,
    MachineDiedError,
    MachineError,
    MonitorError,
)
from pytest_vmports.guests.more_disks import make_all
from pytest_vmports.leases.record import PASSING
from pytest_vmports.network.cards import Cards
from pytest_vmports.network.choose import make_wiring
from pytest_vmports.network.exposed import lease_when_free
from pytest_vmports.network.lan import Lan
from pytest_vmports.pool.apart import ApartError, found_out
from pytest_vmports.pool.blame import state_may_be
from pytest_vmports.pool.standby import Order
from pytest_vmports.port_forward import lease_ports
from pytest_vmports.system import clock
from pytest_vmports.system.progress import for_whom, slowly
from pytest_vmports.vm import failures, moves
from pytest_vmports.vm.inside.lay_disks import lay_disks
from pytest_vmports.vm.inside.waiting import Place
from pytest_vmports.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.leases import PortAllocator, PortLease
    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.failed_starts import FailedStarts
    from pytest_vmports.pool.keeper import Keeper
    from pytest_vmports.pool.standby import Standby
    from pytest_vmports.pool.template import Template
    from pytest_vmports.pool.templates import Templates
    from pytest_vmports.vm.argv import Ram
    from pytest_vmports.vm.plan import Plan

    Observe = Callable[[Machine], None]

_TRIES = 5
# Under emulation it takes a twentieth of a second; nobody waits for it.
_WARM_SECONDS = 10.0


class Launcher:
    """Starts the VMs of one process.

    Args:
        allocator: grants host ports.
        run_dir: private folder of this process.
        templates: the saved states to start from.
        standby: the VMs that wait for the next tests.
        failed: what has failed to start in this run.
        tell: writes a line to the terminal.
        keeper: keeps VMs beyond the run; None where none is to be kept.
    """

    def __init__(
        self,
        allocator: PortAllocator,
        run_dir: Path,
        templates: Templates,
        standby: Standby,
        *,
        failed: FailedStarts,
        tell: Callable[[str], None],
        keeper: Keeper | None = None,
    ) -> None:
        self._allocator = allocator
        self._run_dir = run_dir
        self._templates = templates
        self._standby = standby
        self._failed = failed
        self._tell = tell
        self._keeper = keeper
        self._lans: dict[str, Lan] = {}

    def launch(
        self,
        plan: Plan,
        exposed: ExposedPorts,
        observe: Observe,
        *,
        cloned: bool,
    ) -> tuple[Machine, Order | None]:
        """Return a machine that is ready, and how the next one like it can be made ready ahead.

        A forward that cannot be bound, although we hold its lease, was taken by a program that
        sets ``SO_REUSEADDR`` and listens in our range. Where the port was ours to choose,
        ``exposed`` gets others and the start is tried again.

        Args:
            plan: what it is.
            exposed: the ports that were granted to the test; those that we need join them.
            observe: told of every machine before it starts, for the evidence.
            cloned: start it from a template, where its guest can have one.

        Raises:
            MachineError: see `Machine.start` and `Machine.wait_ready`; at once where a VM like it
                has failed in another test, see `FailedStarts.check`.
            PortError: a port that we need ourselves cannot be had.
        """
        host = exposed.host
        for left in reversed(range(_TRIES)):
            exposed.add_own(self._lease(plan.own_ports, host))
            plan = plan.with_forwards(exposed.ports, exposed.own)
            try:
                with self._failed.minded(plan, cloned=cloned):
                    return self._once(plan, exposed, observe, cloned)
            except ForwardError as error:
                if not left or _is_fixed(error, plan.wanted):
                    raise
                exposed.replace(self._lease(plan.wanted, host))
        raise AssertionError("unreachable: the last try raises")

    def _lease(
        self, wanted: Sequence[PortMapping], host: str
    ) -> list[tuple[ExposedPort, PortLease]]:
        return lease_when_free(
            partial(lease_ports, wanted, self._allocator, host=host), self._allocator
        )

    def end_failed(self, machine: Machine, error: BaseException) -> None:
        """End a machine that did not get ready, or have it kept for whoever looks into it."""
        if self._keeper is None or not self._keeper.keep_failed_start(machine, error):
            machine.stop()

    def machine(
        self,
        plan: Plan,
        *,
        template: Template | None = None,
        ram: Ram | None = None,
        leased: float | None = None,
        waits: bool = False,
    ) -> Machine:
        """Return the machine of a plan with forwards, not started.

        Args:
            plan: what it is.
            template: what it is cloned from; None boots.
            ram: the file that becomes its memory, if it is to be saved.
            leased: when its host ports were leased, a `clock.now` value.
            waits: it is for a test that has not begun.

        Raises:
            OSError: its folder cannot be made.
            ImageError: likewise one of its further disks.
        """
        workdir = Path(tempfile.mkdtemp(prefix="v", dir=self._run_dir))
        below: tuple[Path, ...] = ()
        if template is not None:
            below = lay_disks(template.folder, workdir, plan.image_files(), plan.bases)
        else:
            make_all(plan.disks, workdir)
        network = plan.network
        wiring = make_wiring(
            network, plan.all_forwards, gvproxy=plan.gvproxy, passt=plan.passt, workdir=workdir,
            allocator=self._allocator, outlives=self._keeper is not None,
        )  # fmt: skip
        lan = None if network.lan is None else self._lans.setdefault(network.lan, Lan(network.lan))
        cards = Cards(network, wiring, lan, template=ram is not None, waits=waits)
        place = Place(workdir, self._run_dir, plan.root, below)
        return Machine(plan, cards, place, saved=template, ram=ram, leased=leased)

    def _once(
        self,
        plan: Plan,
        exposed: ExposedPorts,
        observe: Observe,
        cloned: bool,
    ) -> tuple[Machine, Order | None]:
        for _ in range(_TRIES):
            template = self._template(plan, exposed, observe) if cloned else None
            if template is None:
                break
            ready = self._from_standby(plan, exposed, observe)
            if ready is None:
                try:
                    ready = self._start(plan, exposed, observe, template)
                except ForwardError:
                    raise
                except MachineError as error:
                    if not self._to_blame(template, error):
                        raise
                    self._templates.discard(template, plan, error)
                    continue
                self._templates.worked(template)
            return ready, self._order(plan, template, exposed.host)
        return self._start(plan, exposed, observe, None), None

    def _to_blame(self, template: Template, error: MachineError) -> bool:
        """Whether a machine did not get ready for what it was cloned from."""
        if self._templates.on_trial(template):
            return True
        if not isinstance(error, (LaunchError, MonitorError, MachineDiedError)):
            return False
        # A host that is short of something says nothing about the template. Else it was found
        # sound, and is still not to be restored, or was restored and dead at once.
        return state_may_be(error) or not template.sound(template.folder.name)

    def _order(self, plan: Plan, template: Template, host: str) -> Order | None:
        if not plan.kind.stands_by or not plan.network.forwards_later:
            return None
        make = partial(self._make_standby, plan, template, host)
        return Order(plan.standby_key, plan.hardware.memory, make, _warm)

    def _template(self, plan: Plan, exposed: ExposedPorts, observe: Observe) -> Template | None:
        """Return what the machine is cloned from; None means: boot."""

        def build(ram: Ram, save: Observe) -> None:
            # Whoever built it until now, while we waited, may have failed.
            self._failed.check(plan, cloned=True)
            # On the test's own ports, whose guards stay: the test's VM binds them next.
            machine = self.machine(plan, ram=ram, leased=exposed.since)
            observe(machine)
            what = f"making a template of {plan.guest.name}"
            try:
                with slowly(self._tell, for_whom(what), partial(_how_far, machine)):
                    machine.start(exposed.pass_fds)
                    with found_out(machine):
                        machine.wait_ready()
                    save(machine)
            except (ForwardError, MonitorError, ApartError) as error:
                # Not the end of the test, whose VM wants these ports: so this one is not kept.
                if isinstance(error, ForwardError):
                    machine.note_refused()
                machine.stop()
                raise
            except BaseException as error:
                self.end_failed(machine, error)
                raise
            machine.stop()

        if self._templates.boots_from_cold(plan):
            return None
        try:
            return self._templates.find(plan, build)
        except MonitorError as error:
            self._templates.cannot_be_saved(plan, error)
        except ApartError as error:
            self._templates.cannot_be_shared(plan, error)
        return None

    def _from_standby(self, plan: Plan, exposed: ExposedPorts, observe: Observe) -> Machine | None:
        """Return the machine that was kept ready, with this test's forwards; or None."""
        machine = self._standby.take(plan.standby_key)
        if machine is None:
            return None
        try:
            machine.hand_over(plan, exposed.pass_fds, exposed.since)
        except (MachineError, OSError):
            # A fresh clone tries other ports, and tells what is wrong when that is in vain too.
            machine.stop()
            machine.discard()
            return None
        exposed.release_guards()
        observe(machine)
        return machine

    def _make_standby(self, plan: Plan, template: Template, host: str) -> Machine | None:
        # It was found sound when the last one was made of it; meanwhile it may have been given up.
        if not template.sound(template.folder.name):
            return None
        wanted = [port.model_copy(update={"external": None}) for port in plan.wanted]
        granted = lease_ports([*wanted, *plan.own_ports], self._allocator, host=host, label=PASSING)
        try:
            ports = [port for port, _ in granted]
            passing = plan.with_forwards(ports[: len(wanted)], ports[len(wanted) :])
            machine = self.machine(passing, template=template, waits=True)
            # QEMU does not inherit these leases: it is to hold none while it waits.
            machine.start()
            try:
                machine.wait_ready()
                with failures.cause_first(machine.vitals):
                    for port in machine.cards.first.ports:
                        machine.cards.first.remove_forward(port, None, machine.monitor)
            except BaseException:
                machine.stop()
                raise
        finally:
            for _, lease in granted:
                lease.release()
        return machine

    def _start(
        self, plan: Plan, exposed: ExposedPorts, observe: Observe, template: Template | None
    ) -> Machine:
        """Return a machine that is ready, cloned or booted."""
        machine = self.machine(plan, template=template, leased=exposed.since)
        observe(machine)
        try:
            what = "booting" if template is None else "cloning"
            doing = for_whom(f"{what} {plan.guest.name}")
            with slowly(self._tell, doing, partial(_how_far, machine)):
                machine.start(exposed.pass_fds)
                exposed.release_guards()
                if not plan.paused:
                    machine.wait_ready()
        except ForwardError:
            machine.note_refused()
            raise
        except (LaunchError, MonitorError, MachineDiedError):
            machine.stop()
            raise
        except BaseException as error:
            self.end_failed(machine, error)
            raise
        return machine


def _warm(machine: Machine) -> None:
    """Take a machine that waits through what its test would wait for otherwise."""
    with failures.cause_first(machine.vitals):
        machine.kind.warm(clock.now() + _WARM_SECONDS, machine.check_alive)
        moves.make(machine.kind, machine.cards.rehearsal(), machine.set_clock)


def _how_far(machine: Machine) -> str:
    """Return what a VM that is not ready waits for now, or else its console's last line."""
    probe, ended = machine.probe, machine.milestones.setup is not None
    said = probe.waited_for if probe is not None and ended else ""
    return said or machine.console.last_line()


def _is_fixed(error: ForwardError, mappings: Sequence[PortMapping]) -> bool:
    return any(m.external == error.port and m.protocol == error.protocol for m in mappings)

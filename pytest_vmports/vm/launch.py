"""From settings and leased ports to a machine that is ready, with new ports where one was taken."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    ForwardError,
    LaunchError,
    MachineDiedError,
    MonitorError,
    OpenHostError,
)
from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu
from pytest_vmports.network.cards import Cards
from pytest_vmports.network.choose import choose_network, make_wiring, open_host
from pytest_vmports.network.exposed import ExposedPorts
from pytest_vmports.network.lan import Lan
from pytest_vmports.port_forward import lease_ports
from pytest_vmports.progress import slowly
from pytest_vmports.vm import failures, forwards
from pytest_vmports.vm.chosen_guest import chosen_guest
from pytest_vmports.vm.command import Hardware
from pytest_vmports.vm.disk_guest import hidden_mappings, lay_disks
from pytest_vmports.vm.handle import VM
from pytest_vmports.vm.machine import Machine
from pytest_vmports.vm.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.host import Gvproxy, Qemu
    from pytest_vmports.leases import LeaseInfo, PortAllocator
    from pytest_vmports.models import PortMapping
    from pytest_vmports.options import Settings
    from pytest_vmports.vm.clone import Templates
    from pytest_vmports.vm.command import Ram
    from pytest_vmports.vm.keep import Keeper
    from pytest_vmports.vm.template import Template

_TRIES = 5


class Launcher:
    """Everything that VMs of one process share.

    Args:
        allocator: grants host ports.
        run_dir: private folder of this process.
        root: what relative paths in settings are relative to.
        templates: the saved states to start from.
        keeper: keeps VMs beyond the run; None where none is to be kept.
    """

    def __init__(
        self,
        allocator: PortAllocator,
        run_dir: Path,
        root: Path,
        templates: Templates,
        keeper: Keeper | None = None,
    ) -> None:
        self.allocator = allocator
        self.root = root
        self._run_dir = run_dir
        self._templates = templates
        self._keeper = keeper
        self._standby = Standby(templates.tell)
        self._lans: dict[str, Lan] = {}
        self._told: set[str] = set()

    def expose(
        self,
        mappings: Sequence[PortMapping],
        settings: Settings,
        on_wait: Callable[[LeaseInfo], None] | None = None,
    ) -> ExposedPorts:
        """Lease a host port for every mapping, and say so when a fixed one is waited for.

        Args:
            mappings: what is wanted.
            settings: on which host address, and how long to wait.
            on_wait: told the holder when there is one to wait for.

        Raises:
            PortError: one cannot be had.
        """
        tell = self._templates.tell
        with contextlib.ExitStack() as waiting:

            def waits(holder: LeaseInfo) -> None:
                if on_wait is not None:
                    on_wait(holder)
                what = f"waiting for port {holder.port}"
                tell(f"vmports: {what}, held by {holder.describe()}")
                waiting.enter_context(slowly(tell, what))

            granted = lease_ports(
                mappings, self.allocator, host=settings.bind_host, wait=settings.port_wait,
                on_wait=waits,
            )  # fmt: skip
        return ExposedPorts(granted, allow_network=settings.allow_network)

    def launch(
        self,
        exposed: ExposedPorts,
        settings: Settings,
        guest: Guest,
        observe: Callable[[Machine], None],
        *,
        following: Settings | None = None,
    ) -> Machine:
        """Return a machine that is ready, and begin to make the next one where it is of the kind.

        Args:
            exposed: the ports that were granted.
            settings: what was asked for.
            guest: what to boot.
            observe: told of every machine before it starts, for the evidence.
            following: the settings of the next test, when that is known.

        Raises:
            HostError: QEMU or gvproxy is missing.
            MachineError: see `Machine.start` and `Machine.wait_ready`.
        """
        self.hide(exposed, settings, guest)
        template = self._templates.find(self, settings, guest, observe)
        machine = template and self._from_standby(template, exposed, settings, observe)
        if not machine:
            machine = self._start(exposed, settings, guest, observe, template)
        # A disk guest's own forwards, as that of ssh, are not handed over.
        light = guest.image is None and settings.prewarm
        if template is not None and light and _alike(following, settings):
            self._standby.prepare(
                (template.folder, _shape(settings)), machine.hardware.memory,
                lambda: self._make_standby(template, settings, guest),
            )  # fmt: skip
        return machine

    @contextlib.contextmanager
    def running(
        self,
        exposed: ExposedPorts,
        settings: Settings,
        guest: Guest,
        observe: Callable[[Machine], None],
        *,
        following: Settings | None = None,
    ) -> Iterator[VM]:
        """Yield a VM that is ready, and end it, or have it kept; see `launch`.

        Raises:
            MachineDiedError: at the end, when QEMU or gvproxy had failed.
        """
        machine = self.launch(exposed, settings, guest, observe, following=following)
        vm = VM(machine, exposed, settings, lambda mappings: self.expose(mappings, settings))
        try:
            yield vm
        except BaseException as error:
            # pytest.fail's error is no Exception, and pytest is not known here.
            machine.failing |= isinstance(error, Exception) or type(error).__name__ == "Failed"
            raise
        finally:
            vm.end(self._keeper)

    def end_failed(self, machine: Machine, error: BaseException) -> None:
        """End a machine that did not get ready, or have it kept for whoever looks into it."""
        if self._keeper is None or not self._keeper.keep_failed_start(machine, error):
            machine.stop()

    def close(self) -> None:
        """End what waits for a next test, and let go of the templates."""
        self._standby.drop()
        self._templates.close()

    def _from_standby(
        self,
        template: Template,
        exposed: ExposedPorts,
        settings: Settings,
        observe: Callable[[Machine], None],
    ) -> Machine | None:
        """Return the machine that was kept ready, with this test's forwards; or None."""
        machine = self._standby.take((template.folder, _shape(settings)))
        if machine is None:
            return None
        try:
            machine.hand_over(exposed.ports, exposed.pass_fds)
        except (ForwardError, MonitorError, MachineDiedError, OSError):
            # A fresh clone tries other ports, and tells what is wrong when that is in vain too.
            machine.stop()
            machine.discard()
            return None
        exposed.release_guards()
        machine.settings, machine.times["leased"] = settings, exposed.since
        observe(machine)
        return machine

    def _make_standby(self, template: Template, settings: Settings, guest: Guest) -> Machine:
        inner = [m.model_copy(update={"external": None}) for m in settings.expose]
        exposed = self.expose(inner, settings)
        try:
            machine = self.machine(exposed, settings, guest, template=template)
            machine.start(exposed.pass_fds)
            exposed.release_guards()
            try:
                machine.wait_ready(settings.wait_for, settings.boot_timeout)
                with failures.cause_first(machine):
                    forwards.remove_all(machine)
            except BaseException:
                machine.stop()
                raise
        finally:
            exposed.release()
        return machine

    def _start(
        self,
        exposed: ExposedPorts,
        settings: Settings,
        guest: Guest,
        observe: Callable[[Machine], None],
        template: Template | None,
    ) -> Machine:
        """Return a machine that is ready, cloned or booted.

        A forward that cannot be bound, although we hold its lease, was taken by a program that
        sets ``SO_REUSEADDR`` and listens in our range. Where the port was ours to choose,
        ``exposed`` gets others and the start is tried again.
        """
        for left in reversed(range(_TRIES)):
            machine = self.machine(exposed, settings, guest, template=template)
            observe(machine)
            try:
                with slowly(
                    self._templates.tell, f"booting {guest.name}", machine.console.last_line
                ):
                    machine.start(exposed.pass_fds)
                    exposed.release_guards()
                    machine.wait_ready(settings.wait_for, settings.boot_timeout)
            except ForwardError as error:
                if not left or _is_fixed(error, settings.expose):
                    raise
                machine.times["refused"] = time.monotonic()
                fresh = lease_ports(settings.expose, self.allocator, host=settings.bind_host)
                exposed.replace(fresh)
                self.hide(exposed, settings, guest)
                continue
            except (LaunchError, MonitorError, MachineDiedError) as error:
                machine.stop()
                if template is None or not left:
                    raise
                # Found sound, and still not to be restored, or restored and dead at once.
                self._templates.discard(template, guest, error)
                template = self._templates.find(self, settings, guest, observe)
                continue
            except BaseException as error:
                self.end_failed(machine, error)
                raise
            return machine
        raise AssertionError("unreachable: the last try raises")

    def hide(self, exposed: ExposedPorts, settings: Settings, guest: Guest) -> None:
        """Lease what we need ourselves of this guest."""
        mappings = hidden_mappings(guest, settings.expose)
        exposed.hide(lease_ports(mappings, self.allocator, host=settings.bind_host))

    def machine(
        self,
        exposed: ExposedPorts,
        settings: Settings,
        guest: Guest,
        *,
        template: Template | None = None,
        ram: Ram | None = None,
    ) -> Machine:
        """Return the machine that the settings describe, not started.

        Raises:
            HostError: QEMU or gvproxy is missing, or not as strict as asked for.
        """
        qemu = find_qemu(settings.qemu)
        hardware = Hardware(
            qemu,
            choose_accel(settings.accel, qemu.path),
            memory=guest.memory or settings.memory,
            cpus=guest.cpus or settings.cpus,
            display=settings.display,
        )
        wanted = (*exposed.ports, *exposed.hidden)
        network = choose_network(
            wanted, allow_network=settings.allow_network, backend=settings.backend, qemu=qemu,
            host_ports=settings.host_ports, network=settings.network,
        )  # fmt: skip
        gvproxy = find_gvproxy(settings.gvproxy) if network.kind == "gvproxy" else None
        self._mind_open_host(settings, qemu, gvproxy)
        workdir = Path(tempfile.mkdtemp(prefix="v", dir=self._run_dir))
        if template is not None and guest.image is not None:
            lay_disks(template.folder, workdir)
        wiring = make_wiring(
            network, wanted, gvproxy=gvproxy, workdir=workdir, allocator=self.allocator
        )
        name = network.lan
        lan = None if name is None else self._lans.setdefault(name, Lan(name))
        machine = Machine(
            guest,
            hardware,
            Cards(network, wiring, lan),
            workdir,
            self.root,
            template=template,
            ram=ram,
            hidden=exposed.hidden,
        )
        machine.settings, machine.times["leased"] = settings, exposed.since
        machine.reachable = self._keeper is not None
        return machine

    def _mind_open_host(self, settings: Settings, qemu: Qemu, gvproxy: Gvproxy | None) -> None:
        """Refuse a network that leaves the host open, or say so once."""
        found = open_host(
            allow_network=settings.allow_network, backend=settings.backend, qemu=qemu,
            gvproxy=gvproxy,
        )  # fmt: skip
        if found is None:
            return
        if settings.strict_network:
            raise OpenHostError(**found)
        line = (
            f"vmports: guests with network reach {found['reached']}: {found['why']}; "
            f"{found['remedy']}; strict_network = yes refuses such VMs"
        )
        if line not in self._told:
            self._told.add(line)
            self._templates.tell(line)

    def guest(self, settings: Settings, own: Guest | None = None) -> Guest:
        """Return the guest to boot; see `chosen_guest`.

        Raises:
            GuestNotFoundError: a file of it is missing.
            SettingError: what was named makes no guest, or takes no additions.
        """
        return chosen_guest(settings, own, self.root)


def _shape(settings: Settings) -> Hashable:
    """Return what a template does not tell of a machine that is kept ready."""
    doors = tuple(sorted(settings.host_ports.items()))
    return (
        settings.accel, settings.qemu, settings.gvproxy, settings.bind_host, settings.backend,
        doors, settings.pcap,
    )  # fmt: skip


def _alike(following: Settings | None, settings: Settings) -> bool:
    """Whether the next test's VM looks the same, from inside too."""
    if following is None:
        return False
    return replace(following, allow_crash=settings.allow_crash) == settings


def _is_fixed(error: ForwardError, mappings: Sequence[PortMapping]) -> bool:
    return any(m.external == error.port and m.protocol == error.protocol for m in mappings)

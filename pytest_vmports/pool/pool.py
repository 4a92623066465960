"""All VMs of one process: what they share, and the one way from settings to a VM and back."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.guests import hopeless
from pytest_vmports.images.images import Images, Kept
from pytest_vmports.network.exposed import BY_CALL, lease_exposed
from pytest_vmports.pool.failed_starts import FailedStarts
from pytest_vmports.pool.foresight import Foresight
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.pool.handle import VM
from pytest_vmports.pool.launch import Launcher
from pytest_vmports.pool.planning import lossy_line, open_host_line, plan_of, unwalled_line
from pytest_vmports.pool.standby import Standby, how_many
from pytest_vmports.pool.templates import Templates
from pytest_vmports.settings.far_store import with_secret
from pytest_vmports.system.programs import find_qemu
from pytest_vmports.system.run_dir import RunDir
from pytest_vmports.system.shared_dir import SharedDir
from pytest_vmports.system.surroundings import restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.leases import LeaseInfo, PortAllocator
    from pytest_vmports.models import PortMapping
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.keeper import Keeper
    from pytest_vmports.settings.far_store import FarStore
    from pytest_vmports.settings.options import Settings
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.plan import Plan


class Pool:
    """The VMs of one process; made by `open_pool`.

    Attributes:
        allocator: grants host ports.
        root: what relative paths in settings are relative to.
        images: what of disks is fetched and kept.
        run_dir: private folder of this process.
        standby: the VMs that wait for the next tests.
        launcher: starts VMs.
    """

    def __init__(
        self,
        allocator: PortAllocator,
        run_dir: Path,
        root: Path,
        templates: Templates,
        failed: FailedStarts,
        *,
        images: Images,
        tell: Callable[[str], None],
        keeper: Keeper | None,
    ) -> None:
        self.allocator = allocator
        self.root = root
        self.images = images
        self.run_dir = run_dir
        self.standby: Standby = Standby(tell)
        self._foresight = Foresight()
        self.launcher: Launcher = Launcher(
            allocator, run_dir, templates, self.standby, failed=failed, tell=tell, keeper=keeper
        )
        self.keeper = keeper
        self._tell = tell
        self._told: set[str] = set()

    def lease(
        self,
        mappings: Sequence[PortMapping],
        settings: Settings,
        on_wait: Callable[[LeaseInfo], None] | None = None,
    ) -> ExposedPorts:
        """Lease a host port for every mapping; see `lease_exposed`.

        Raises:
            PortError: one cannot be had.
        """
        return lease_exposed(
            mappings, self.allocator, self._tell, host=settings.bind_host,
            wait=settings.port_wait, allow_network=settings.allow_network, on_wait=on_wait,
            declare=BY_CALL,
        )  # fmt: skip

    @restored()
    def guest(self, settings: Settings, own: Guest | None = None) -> Guest:
        """Return the guest to boot; see `chosen_guest`. Its image is fetched, where it is not here.

        Raises:
            FetchError: it cannot be had.
            GuestNotFoundError: a file of it is missing.
            SettingError: what was named makes no guest, or takes no additions.
        """
        guest = chosen_guest(settings, own, self.root)
        if guest.source is None:
            return guest
        architecture = find_qemu(settings.qemu).architecture
        return guest.at(self.images.find(guest.source, architecture, self.root))

    def plan(self, settings: Settings, guest: Guest) -> Plan:
        """Return what the settings and the guest make of a VM, without host ports yet.

        Raises:
            HostError: QEMU or gvproxy is missing, or not as strict as asked for.
        """
        plan = plan_of(settings, guest, self.root, reachable=self.keeper is not None)
        self._say_once(open_host_line(settings, plan), unwalled_line(plan), lossy_line(plan))
        return plan

    def start(
        self,
        settings: Settings,
        guest: Guest,
        exposed: ExposedPorts,
        observe: Callable[[Machine], None] = lambda _machine: None,
        following: Iterable[Settings] = (),
    ) -> Machine:
        """Return a machine that is ready; `vm` is for everybody who does not measure its parts.

        Args:
            settings: what was asked for.
            guest: what to boot.
            exposed: the ports that were granted.
            observe: told of every machine before it starts, for the evidence.
            following: the settings of the VMs that are asked for next, as far as is known.

        Raises:
            HostError: QEMU or gvproxy is missing.
            SettingError: the guest could never get ready; see `hopeless.refuse`.
            MachineError: see `Machine.start` and `Machine.wait_ready`.
        """
        with restored():
            plan = self.plan(settings, guest)
            waited_for = [port.internal for port in settings.wait_for.candidates(settings.expose)]
            hopeless.refuse(
                guest, waited_for, plan.hardware.memory, self.root,
                may_reboot=plan.hardware.reboots,
            )  # fmt: skip
            cloned = bool(settings.template) and not settings.fresh_boot
            machine, order = self.launcher.launch(plan, exposed, observe, cloned=cloned)
            if cloned:
                self._foresight.learn(settings, order)
            if settings.prewarm:
                most = how_many(settings.prewarm)
                self.standby.prepare(self._foresight.orders(following, most))
            self._say_once(machine.kind.remark)
            return machine

    @contextlib.contextmanager
    def vm(
        self,
        settings: Settings,
        own: Guest | None = None,
        *,
        exposed: ExposedPorts | None = None,
        observe: Callable[[Machine], None] = lambda _machine: None,
        on_wait: Callable[[LeaseInfo], None] | None = None,
        following: Iterable[Settings] = (),
    ) -> Iterator[VM]:
        """Yield a VM that is ready, and end it, or have it kept; its ports are given back.

        Args:
            settings: what was asked for.
            own: the guest of the user's fixture.
            exposed: its ports, if they are leased already: then they stay so.
            observe: told of every machine before it starts, for the evidence.
            on_wait: told the holder of a fixed port that is waited for.
            following: the settings of the VMs that are asked for next, as far as is known.

        Raises:
            PortError: a host port cannot be had.
            HostError: QEMU, gvproxy or the guest is missing.
            MachineError: it does not get ready; `MachineDiedError` at the end too, when QEMU or
                gvproxy had failed.
        """
        with restored():
            settings = settings.with_ports_of(own)
        following = (one.with_ports_of(own) for one in following)
        with contextlib.ExitStack() as stack:
            if exposed is None:
                exposed = self.lease(settings.expose, settings, on_wait)
                stack.callback(exposed.release)
            with restored():  # once for both
                guest = self.guest(settings, own)
                machine = self.start(settings, guest, exposed, observe, following)
            vm = VM(
                machine, exposed, lambda mappings: self.lease(mappings, settings),
                settings.copy_limit, self._tell, paused=settings.paused,
            )  # fmt: skip
            stack.callback(restored()(vm.end), self.keeper)
            try:
                yield vm
            except BaseException as error:
                # pytest.fail's error is no Exception, and pytest is not known here.
                if isinstance(error, Exception) or type(error).__name__ == "Failed":
                    machine.note_failing()
                raise

    def _say_once(self, *lines: str | None) -> None:
        for line in lines:
            if line is not None and line not in self._told:
                self._told.add(line)
                self._tell(line)


@contextlib.contextmanager
def open_pool(
    allocator: PortAllocator,
    *,
    root: Path,
    tell: Callable[[str], None],
    cache_dir: str | Path | None = None,
    cache_size: int = 4096,
    store: FarStore | None = None,
    secret: str | None = None,
    images: Kept | None = None,
    keeper: Keeper | None = None,
    run: str | None = None,
) -> Iterator[Pool]:
    """Yield the pool of this process, the only place that puts its parts together.

    Args:
        allocator: grants host ports.
        root: what relative paths in settings are relative to.
        tell: writes a line to the terminal.
        cache_dir: the folder of the templates; None means the user's cache folder.
        cache_size: MiB on disk that all templates may take.
        store: where templates are looked for before a boot, and put after one.
        secret: where the secret is that they are signed with there; see `with_secret`.
        images: where images are kept that are fetched; None means the user's cache folder.
        keeper: keeps VMs beyond the run; None where none is to be kept.
        run: names the run that this process is a worker of; None where it is the run's only one.

    Raises:
        SettingError: nobody has said that the store is to be believed.
        StateDirError: a folder cannot be made, or is not this user's alone.
    """
    with contextlib.ExitStack() as stack:
        with restored():
            run_dir = stack.enter_context(RunDir())
            if run is None:
                shared = run_dir.path / "shared"
                shared.mkdir(mode=0o700)
            else:
                shared = stack.enter_context(SharedDir(run)).path
        cache = Path(cache_dir) if cache_dir else None
        templates = Templates(cache, shared, cache_size, tell, with_secret(store, secret))
        stack.callback(templates.close)
        failed = FailedStarts(shared / "failed", tell)
        kept = Images(images or Kept(), tell)
        stack.callback(kept.close)
        pool = Pool(
            allocator, run_dir.path, root, templates, failed, images=kept, tell=tell, keeper=keeper
        )
        stack.callback(pool.standby.drop)
        yield pool

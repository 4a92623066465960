"""Which template a VM starts from, and how it comes to be."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmports.errors import MachineDiedError, MonitorError, StateDirError, VmPortsError
from pytest_vmports.host import find_qemu
from pytest_vmports.progress import slowly
from pytest_vmports.vm import failures
from pytest_vmports.vm.command import Ram
from pytest_vmports.vm.disk_guest import save_disks
from pytest_vmports.vm.power import save, settle
from pytest_vmports.vm.template_store import TemplateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import PortMapping
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.options import Settings
    from pytest_vmports.system.architecture import Architecture
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.template import Template

_MIB = 1 << 20
# A builder boots and then saves; who waits for it allows for both.
_SAVE_SECONDS = 60.0
_CONSOLE_CHARACTERS = 1 << 16


class Makes(Protocol):
    """What building a template needs of the launcher."""

    root: Path

    def expose(self, mappings: Sequence[PortMapping], settings: Settings) -> ExposedPorts:
        """Lease ports."""

    def hide(self, exposed: ExposedPorts, settings: Settings, guest: Guest) -> None:
        """Lease what we need ourselves of this guest."""

    def end_failed(self, machine: Machine, error: BaseException) -> None:
        """End a machine that did not get ready."""

    def machine(
        self, exposed: ExposedPorts, settings: Settings, guest: Guest, *, ram: Ram | None = None
    ) -> Machine:
        """Return a machine, not started."""


class Templates:
    """The templates that this process uses.

    Args:
        cache: the folder; None means the user's cache folder.
        limit: MiB on disk that all templates may take.
        tell: writes a line to the terminal.
    """

    def __init__(self, cache: Path | None, limit: int, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._store = TemplateStore(cache, limit * _MIB, tell)
        self._without: set[str] = set()  # guests, each as its repr: names may be equal
        self._networks: set[str] = set()
        self._failed: set[str] = set()

    def find(
        self, maker: Makes, settings: Settings, guest: Guest, observe: Callable[[Machine], None]
    ) -> Template | None:
        """Return the template for these settings, built when need be; None means: boot.

        Args:
            maker: makes the machine that is saved.
            settings: of the test that needs it first.
            guest: what it boots.
            observe: told of the machine before it starts.

        Raises:
            MachineError: the guest does not get ready, or had host ports opened.
            PortError: no port for the proof of that.
        """
        if not settings.template or settings.fresh_boot or repr(guest) in self._without:
            return None
        if settings.network is not None:
            self._tell_once(settings.network)
            return None
        if (why := _why_never(guest, find_qemu(settings.qemu).architecture)) is not None:
            self.give_up(guest, why)
            return None
        # Ports of its own: those of the test are for the test's VM.
        inner = [m.model_copy(update={"external": None}) for m in settings.expose]
        exposed = maker.expose(inner, settings)
        try:
            maker.hide(exposed, settings, guest)
            trial = maker.machine(exposed, settings, guest)
            facts = _facts(trial, settings, maker.root)
            trial.discard()

            def build(folder: Path) -> None:
                ram = Ram(folder / "ram", share=True)
                booted = maker.machine(exposed, settings, guest, ram=ram)
                observe(booted)
                try:
                    with slowly(
                        self.tell, f"making a template of {guest.name}", booted.console.last_line
                    ):
                        booted.start(exposed.pass_fds)
                        booted.wait_ready(settings.wait_for, settings.boot_timeout)
                        _rest_and_save(booted, folder, settings.boot_timeout)
                    (folder / "console").write_text(booted.console.text()[-_CONSOLE_CHARACTERS:])
                except BaseException as error:
                    maker.end_failed(booted, error)
                    if isinstance(error, MachineDiedError):
                        _mind_full_disk(folder, error)
                    raise
                booted.stop()

            return self._store.get(facts, build, settings.boot_timeout + _SAVE_SECONDS)
        except MonitorError as error:
            self.give_up(guest, _brief(error))
            return None
        finally:
            exposed.release()

    def give_up(self, guest: Guest, why: str) -> None:
        """Boot this guest from cold from now on, and say so once."""
        self._without.add(repr(guest))
        self.tell(f"vmports: every VM of {guest.name} boots from cold: {why}")

    def _tell_once(self, network: str) -> None:
        if network not in self._networks:
            self._networks.add(network)
            why = "a saved guest has one address, and each of these has its own"
            self.tell(f"vmports: every VM of the network {network} boots from cold: {why}")

    def discard(self, template: Template, guest: Guest, error: VmPortsError) -> None:
        """Give up a template that was sound and could not be restored all the same."""
        self._store.discard(template)
        if template.folder.name in self._failed:
            self.give_up(guest, f"its saved state cannot be restored: {_brief(error)}")
        else:
            self._failed.add(template.folder.name)
            said = "a saved state could not be restored and is built anew"
            self.tell(f"vmports: {said}: {_brief(error)}")

    def close(self) -> None:
        """Let go of the templates in use."""
        self._store.close()


def _rest_and_save(booted: Machine, folder: Path, timeout: float) -> None:
    with failures.cause_first(booted):
        settle(booted, timeout)
        booted.wiring.close_opened()
        save(booted, folder / "state")
        # QEMU has written all of them out, and lets go of them.
        save_disks(booted, folder)


def _why_never(guest: Guest, architecture: Architecture) -> str | None:
    """Return why a guest cannot be started from a template; None when it can."""
    if guest.image is not None:
        if guest.image.ssh or guest.image.agent:
            return None
        return "nothing would set the clock of a restored one: give its Guest.disk ssh or agent"
    if not guest.prepared:
        return "its init is not ours, so nothing would set a restored clock"
    if architecture.agent is None:
        return f"our agent, which sets a restored clock, is not made for {architecture.name}"
    return None


def _mind_full_disk(folder: Path, error: MachineDiedError) -> None:
    """Say what it means when the guest's memory, a file, cannot grow: the kernel kills QEMU."""
    if shutil.disk_usage(folder).free < _MIB:
        reason = os.strerror(errno.ENOSPC)
        raise StateDirError(
            path=str(folder.parent), reason=f"{reason}, when a guest's memory was to be kept there",
            remedy="free some space, set cache_dir, or template = no",
        ) from error  # fmt: skip


def _brief(error: VmPortsError) -> str:
    """Return what went wrong in one line, without the evidence."""
    text = str(error).partition("\nthe end of the guest's console")[0].partition("\ncommand:")[0]
    return " ".join(text.split())


def _facts(machine: Machine, settings: Settings, root: Path) -> dict[str, Any]:
    """Return everything that shapes a template, for its key and for people to read."""
    hardware, guest = machine.hardware, machine.guest
    binary = Path(hardware.qemu.path).stat()
    wait_for = settings.wait_for
    asked = sorted({port.internal for port in wait_for.candidates(machine.wiring.ports)})
    return {
        "name": guest.name,
        "qemu": [str(hardware.qemu), binary.st_size, binary.st_mtime_ns],
        "accelerator": hardware.accelerator.name,
        "memory": hardware.memory,
        "cpus": hardware.cpus,
        "display": hardware.display,
        "wiring": machine.wiring.kind,
        "network": settings.allow_network,  # what the setup could reach
        "door": bool(settings.host_ports),  # a second user network, whose state is saved too
        "kernel_words": guest.kernel_words(hardware.qemu.architecture, machine.wiring.dns),
        "ready": f"{wait_for}: {asked}",
        "guest": guest.digest(root, hardware.qemu.architecture),
    }

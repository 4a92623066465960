"""Which template a VM starts from, and how it comes to be."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    LaunchError,
    MachineDiedError,
    MonitorError,
    StateDirError,
    VmPortsError,
)
from pytest_vmports.pool.apart import Apart
from pytest_vmports.pool.remote import GET_SECONDS, Remote
from pytest_vmports.pool.template import CLOCK
from pytest_vmports.pool.template_places import TemplatePlaces
from pytest_vmports.system import clock
from pytest_vmports.vm import failures
from pytest_vmports.vm.argv import Ram
from pytest_vmports.vm.snapshots import save, save_disks, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_vmports.pool.apart import ApartError
    from pytest_vmports.pool.template import Template
    from pytest_vmports.settings.far_store import FarStore
    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.plan import Plan

_MIB = 1 << 20
# A builder boots and then saves; who waits for it allows for both.
_SAVE_SECONDS = 60.0
_CONSOLE_CHARACTERS = 1 << 16
_TOO_LARGE = re.compile(rf"signal {signal.SIGXFSZ.value}\b|File too large")
# Kernels before 5.18 do not heed the board's word that they were restored; others have none.
_BEHIND = (
    "vm.clock_behind tells by how much it is behind, and what their kernel draws as random may be "
    "the same in all; fresh_boot = yes boots one"
)


class Templates:
    """The templates that this process uses.

    Args:
        cache: the folder; None means the user's cache folder.
        shared: private folder of the run, for templates where the cache is of no use.
        limit: MiB on disk that all templates may take.
        tell: writes a line to the terminal.
        store: where they are looked for before a boot, and put after one; None for nowhere.
    """

    def __init__(
        self,
        cache: Path | None,
        shared: Path,
        limit: int,
        tell: Callable[[str], None],
        store: FarStore | None = None,
    ) -> None:
        self._tell = tell
        self._remote = None if store is None else Remote(store, shared, limit * _MIB, tell)
        self._places = TemplatePlaces(cache, shared, limit * _MIB, tell)
        self._told: set[str] = set()
        self._without: set[str] = set()  # of plans, see `Plan.family`: names may be equal
        self._failed: set[str] = set()
        self._apart = Apart(shared / "apart", tell)

    def boots_from_cold(self, plan: Plan) -> bool:
        """Whether a VM has to boot, whatever was saved; says why, once for each guest or network.

        Whether a test wants that is not asked here.
        """
        if plan.family in self._without:
            return True
        if plan.why_cold is not None:
            self._say(f"this VM of {plan.guest.name} boots from cold: {plan.why_cold}")
            return True
        if plan.network.lan is not None and (why := self._apart.why(plan)) is not None:
            self._say_cold(f"{plan.guest.name} on a shared network", why)
            return True
        if (why := plan.kind.why_no_template) is None:
            return False
        if not plan.clockless:
            # Not given up: the same guest may be cloned where another test allows that.
            self._say_cold(plan.whose, f"{why}; template = always clones it all the same")
            return True
        self._say(f"clones of {plan.guest.name} have the time of their template: {why}; {_BEHIND}")
        return False

    def find(
        self, plan: Plan, build: Callable[[Ram, Callable[[Machine], None]], None]
    ) -> Template | None:
        """Return the template for a plan, built when need be; None where none can be kept.

        Args:
            plan: of the VM that is to be cloned from it.
            build: boots a machine with this file as its memory, hands it to a function when it is
                ready, and ends it.

        Raises:
            MachineError: the guest does not get ready, or had host ports opened.
            MonitorError: QEMU cannot save it.
            ForwardError: a host port was somebody else's.
        """
        booted: list[Path] = []

        def fill(folder: Path) -> None:
            if self._remote is not None and self._remote.fetch(plan.key, folder, plan.guest.name):
                return
            booted.append(folder)

            def save_it(booted: Machine) -> None:
                _rest_and_save(booted, folder)
                _keep(folder, "console", booted.console.recent()[-_CONSOLE_CHARACTERS:])

            try:
                (folder / "ram").touch()  # QEMU may make no file there
            except OSError as error:
                raise _no_room(folder, error.strerror or str(error)) from error
            try:
                build(Ram(folder / "ram", share=True), save_it)
            except (LaunchError, MonitorError, MachineDiedError) as error:
                _mind_full_disk(folder, error)
                raise

        patience = plan.boot_timeout + _SAVE_SECONDS
        if self._remote is not None:
            patience += GET_SECONDS
        found = self._places.find(plan.identity, fill, patience)
        if booted and found is not None and self._remote is not None:
            self._remote.put(found)
        return found

    def cannot_be_saved(self, plan: Plan, error: VmPortsError) -> None:
        """Boot this plan's guest, with such hardware, from cold from now on, and say so once."""
        self._give_up(plan, _brief(error))

    def cannot_be_shared(self, plan: Plan, error: ApartError) -> None:
        """Boot VMs of this plan from cold from now on, and say so once."""
        self._apart.note(plan, str(error))
        self.boots_from_cold(plan)

    def discard(self, template: Template, plan: Plan, error: VmPortsError) -> None:
        """Give up a template that was sound and could not be restored all the same."""
        fetched = self.on_trial(template)
        if fetched and self._remote is not None:
            self._remote.give_up(template.folder.name, plan.guest.name, _brief(error))
        self._places.discard(template)
        if fetched:
            return
        if template.folder.name in self._failed:
            self._give_up(plan, f"its saved state cannot be restored: {_brief(error)}")
        else:
            self._failed.add(template.folder.name)
            said = "a saved state could not be restored and is built anew"
            self._tell(f"vmports: {said}: {_brief(error)}")

    def on_trial(self, template: Template) -> bool:
        """Whether a template came from elsewhere, and none was seen to work here."""
        return self._remote is not None and self._remote.on_trial(template.folder.name)

    def worked(self, template: Template) -> None:
        """Note that a VM was cloned from it, and got ready."""
        if self._remote is not None:
            self._remote.worked(template.folder.name)

    def close(self) -> None:
        """Let go of the templates in use, those that are put elsewhere last."""
        if self._remote is not None:
            self._remote.close()
        self._places.close()

    def _give_up(self, plan: Plan, why: str) -> None:
        self._without.add(plan.family)
        self._say_cold(plan.whose, why)

    def _say_cold(self, whose: str, why: str) -> None:
        self._say(f"every VM of {whose} boots from cold: {why}")

    def _say(self, what: str) -> None:
        line = f"vmports: {what}"
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


def _rest_and_save(booted: Machine, folder: Path) -> None:
    with failures.cause_first(booted.vitals):
        settle(booted, booted.plan.boot_timeout)
        booted.cards.first.look_for_opened()
        if (crash := booted.vitals.failed) is not None:
            # Its test allows that, and others would begin with what is left of it.
            raise MonitorError(f"one whose kernel crashed is not saved: {crash.said}")
        # Which may show once it is up.
        if (why := booted.kind.why_no_template) is not None and not booted.plan.clockless:
            raise MonitorError(why)
        _keep(folder, CLOCK, f"{clock.wall():.3f}")
        save(booted, folder / "state")
        # QEMU has written all of them out, and lets go of them.
        save_disks(booted, folder)


def _keep(folder: Path, name: str, text: str) -> None:
    try:
        (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise _no_room(folder, error.strerror or str(error)) from error


def _mind_full_disk(folder: Path, error: LaunchError | MonitorError | MachineDiedError) -> None:
    """Say what it means when the guest's memory, a file, cannot grow: the kernel kills QEMU."""
    # So it does where the process may write no larger file (``ulimit -f``).
    said = _TOO_LARGE.search(f"{error.fields.get('returncode')} {error.fields.get('stderr')}")
    if said or shutil.disk_usage(folder).free < _MIB:
        raise _no_room(folder, os.strerror(errno.EFBIG if said else errno.ENOSPC)) from error


def _no_room(folder: Path, reason: str) -> StateDirError:
    return StateDirError(
        path=str(folder.parent), reason=f"{reason}, when a guest's memory was to be kept there",
        remedy="free some space, set cache_dir, or template = no",
    )  # fmt: skip


def _brief(error: VmPortsError) -> str:
    """Return what went wrong in one line, without the evidence."""
    text = str(error).partition("\nthe end of the guest's console")[0].partition("\ncommand:")[0]
    return " ".join(text.split())

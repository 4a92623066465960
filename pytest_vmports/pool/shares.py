"""What folders of the host a test lets its VM see."""

from __future__ import annotations

import contextlib
import posixpath
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vmports.errors import SharedCopyWarning, ShareError
from pytest_vmports.pool.copies import Copies
from pytest_vmports.vm import arguments, sharing
from pytest_vmports.vm.inside import copying, guest_links
from pytest_vmports.vm.inside.mounting import Mounting
from pytest_vmports.vm.share import COPY, Share, real_folder
from pytest_vmports.vm.sharing import Sharing

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator

    from pytest_vmports.vm.machine import Machine

# Of which guests it was said that they have a copy, in this process.
_told: set[str] = set()


class Shares(Copies):
    """The part of a `VM` that is about folders of the host that it sees.

    Args:
        machine: the running machine.
        copy_limit: MiB that one `get` may bring.
        tell: writes a line to the terminal.
    """

    def __init__(self, machine: Machine, copy_limit: int, tell: Callable[[str], None]) -> None:
        super().__init__(machine, copy_limit, tell)
        self._sharing = Sharing(machine)

    def share(
        self,
        host_folder: str | os.PathLike[str],
        guest_path: str | os.PathLike[str],
        readonly: bool = True,
        *,
        timeout: float | None = 120.0,
    ) -> str:
        """Let the guest see a folder of the host, as it is there from now on.

        Connections by forwards end, as by `restore`: QEMU is replaced by one that may open the
        folder. `reset` and `restore` end it, as does the VM's end.

        Args:
            host_folder: on the host; all below it is shared, and nothing that links lead to.
            guest_path: where it is in the guest, from ``/`` on. Missing folders are made, and what
                is in it is hidden.
            readonly: the guest may change nothing in it.
            timeout: seconds for what is done in the guest.

        Returns:
            ``virtiofs``, ``9p``, or ``copy`` where the guest has no driver for either: it was given
            a copy, as by `put`.

        Raises:
            ShareError: it cannot be shared.
            CommandTimeoutError: the guest has not mounted it in time.
            MachineError: the VM is gone, or nothing in it runs commands (`NoShellError`).
            TypeError, ValueError: an argument means nothing.
        """
        named = arguments.path_text(host_folder, "the folder")
        place = _place(guest_path)
        if not isinstance(readonly, bool):
            raise TypeError(f"readonly is {readonly!r}: give True or False")
        guest_links.refuse(named)
        with self._living():
            machine, mounting = self._machine, Mounting(self._shell, timeout)
            self._refuse_taken(place)
            wanted = Share(real_folder(named), place, readonly, COPY)
            self._sharing.refuse(wanted)
            by = self._sharing.way(mounting)
            if by is None:
                self._copy(wanted, mounting)
                return COPY
            if not readonly:
                sharing.refuse_to_write(machine)
            self._sharing.begin(self._lease_fds, mounting, replace(wanted, by=by))
        return by

    def unshare(self, guest_path: str | os.PathLike[str], *, timeout: float | None = 120.0) -> None:
        """Take a folder of the host away from the guest again; a copy stays what it is.

        Args:
            guest_path: as it was given to `share`.
            timeout: seconds for what is done in the guest.

        Raises:
            ShareError: nothing was shared there, or the guest uses it.
            MachineError: as for `share`.
        """
        self._machine.owner.check()
        place = _place(guest_path)
        found = next((one for one in self._shared if one.place == place), None)
        if found is None:
            there = ", ".join(one.place for one in self._shared) or "nothing"
            remedy = "name the path that vm.share was given; reset and restore end all"
            raise ShareError(what=f"{place} was not shared; {there} is", remedy=remedy)
        with self._living():
            if found.by != COPY:
                self._sharing.end(Mounting(self._shell, timeout), found)
            else:
                self._shared.remove(found)

    @property
    def _shared(self) -> list[Share]:
        return self._sharing.shared

    @contextlib.contextmanager
    def _living(self) -> Iterator[None]:
        self._sharing.check_alive()
        with super()._living():
            yield

    @property
    def _lease_fds(self) -> Collection[int]:
        """Descriptors of the leases of its ports."""
        raise NotImplementedError

    def _refuse_taken(self, place: str) -> None:
        for one in self._shared:
            if one.place == place:
                what = f"{place} is where {one.folder} is shared already"
                raise ShareError(what=what, remedy="call vm.unshare first, or name another path")

    def _refuse_with_shares(self, what: str) -> None:
        if served := self._sharing.served:
            names = ", ".join(f"vm.unshare({one.place!r})" for one in served)
            why = f"{what} cannot save a VM that sees folders of the host"
            raise ShareError(what=why, remedy=f"call {names} first")

    def _copy(self, wanted: Share, mounting: Mounting) -> None:
        name = self._machine.plan.guest.name
        if not wanted.readonly:
            what = f"{name} has no driver for a folder of the host, and would write to a copy"
            remedy = (
                "share it with readonly=True, which copies it, and fetch what the guest makes by "
                "vm.get; or boot a kernel with these modules"
            )
            raise ShareError(what=what, remedy=remedy)
        copying.put(self._shell, f"{wanted.folder}/.", wanted.place, mounting.left)
        self._shared.append(wanted)
        if name not in _told:
            _told.add(name)
            warnings.warn(
                f"{name} has no driver for a folder of the host (virtiofs, 9p): vm.share gave it a "
                "copy, as it is now",
                SharedCopyWarning, stacklevel=3,
            )  # fmt: skip


def _place(guest_path: str | os.PathLike[str]) -> str:
    """Return a path in the guest, from its root on."""
    named = arguments.path_text(guest_path, "the path in the guest")
    place = posixpath.normpath(named)
    if not named.startswith("/") or place.strip("/") == "":
        raise ValueError(f"the path in the guest is {named!r}: name a folder below /, as /srv/app")
    return f"/{place.lstrip('/')}"

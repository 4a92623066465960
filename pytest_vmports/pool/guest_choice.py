"""Which guest a test boots, where settings and the user's fixture name several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.guests.guest import Guest
from pytest_vmports.settings.guests import made_by
from pytest_vmports.system.paths import absolute

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.settings.options import Settings


def chosen_guest(settings: Settings, own: Guest | None, root: Path) -> Guest:
    """Return the guest that the settings, or the user's own fixture, name, with additions.

    Args:
        settings: the test's.
        own: what the fixture ``vmports_guest`` returned.
        root: what relative paths are relative to.

    Raises:
        GuestNotFoundError: a file of it is missing.
        SettingError: what was named makes no guest, or takes no additions.
    """
    by_kernel, by_own = settings.whose_guest(own)
    if own is not None and by_own:
        guest = own
    elif by_kernel:
        kernel = absolute(settings.kernel or "", root)
        initrd = settings.initrd and absolute(settings.initrd, root)
        guest = Guest.kernel(kernel, initrd or None, settings.append)
    else:
        guest = _named(settings, root)
    return guest.with_additions(files=settings.files, setup=settings.setup)


def _named(settings: Settings, root: Path) -> Guest:
    named = settings.guest
    if isinstance(named, Guest):
        return named
    if named == "alpine":
        return Guest.alpine()
    if named == "alpine-disk":
        return Guest.alpine_disk()
    if isinstance(named, str):
        return Guest.disk(absolute(named, root))
    made = made_by(named)
    if not isinstance(made, Guest):
        raise SettingError(
            source=settings.sources["guest"], name="guest", value=named,
            allowed=f"it has to return a Guest, and returned a {type(made).__name__}",
        )  # fmt: skip
    return made

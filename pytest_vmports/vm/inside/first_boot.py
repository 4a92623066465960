"""What cloud-init comes to in a guest that boots: waited for, and told."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pytest_vmports.errors import CloudInitError, CloudInitWarning
from pytest_vmports.guests import cloud_init
from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.inside.waiting import Waiting

# A stage that could not run is told within moments by cloud-init too, and in more detail.
_GRACE_SECONDS = 15.0
_LONGEST_COMPLAINT = 2000


def await_cloud_init(waiting: Waiting, pause: Callable[[Waiting], None], *, tolerant: bool) -> None:
    """Return when cloud-init has finished well.

    Args:
        waiting: tells of the guest's console and of the VM's end.
        pause: waits a moment.
        tolerant: a module's complaint does not matter.

    Raises:
        CloudInitError: it reported errors that matter, or could not run.
        BootTimeoutError: it has not finished.
        MachineDiedError: QEMU or gvproxy ended.
    """
    give_up: float | None = None
    reports, new = cloud_init.Reports(), waiting.console.follower()
    reports.feed(waiting.console.before)
    while True:
        reports.feed(new.read().text)
        found = reports.verdict
        if found is not None and (tolerant or not found.errors):
            return
        if found is not None:
            raise _failed(waiting, "\n".join(f"  {error}" for error in found.errors))
        failed = reports.failure
        if failed is not None and give_up is None:
            # For one module's sake too: whoever tolerates that waits for the rest.
            give_up = clock.now() + (_GRACE_SECONDS if not tolerant else float("inf"))
        if failed is not None and (waiting.over or clock.now() >= (give_up or 0.0)):
            raise _failed(waiting, f"  {failed}")
        if waiting.over:
            raise waiting.timed_out("cloud-init has not said that it finished")
        waiting.check()
        pause(waiting)


def warn_of_complaints(console: Console) -> None:
    """Warn of what was tolerated in this guest, or in the one that its template was made of."""
    reports, new = cloud_init.Reports(), console.follower()
    reports.feed(console.before)
    reports.feed(new.read().text)
    found = reports.verdict
    if found is not None and found.errors:
        said = printable("; ".join(found.errors))[:_LONGEST_COMPLAINT]
        warnings.warn(
            f"cloud-init complained, which cloud_init = tolerant lets pass: {said}",
            CloudInitWarning,
            stacklevel=2,
        )


def _failed(waiting: Waiting, errors: str) -> CloudInitError:
    return CloudInitError(errors=errors, console=waiting.console.tail(40))

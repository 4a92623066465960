"""What pytest's header says of the programs that VMs need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import HostError
from pytest_vmports.network.choose import wants_gvproxy
from pytest_vmports.system.mishaps import noting
from pytest_vmports.system.programs import choose_accel, find_gvproxy, find_qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_vmports.settings.options import Settings


def header_lines(qemu: str | None, accel: str, gvproxy: str | None, *, more: bool) -> list[str]:
    """Return what pytest's header says, whatever goes wrong with that.

    It is a line of QEMU, accelerator and gvproxy, if all is there.

    Args:
        qemu: as its setting.
        accel: as its setting.
        gvproxy: as its setting; that none is there is not said: few tests need it.
        more: where each was found, and why it was chosen, in a line each.
    """
    return _said(lambda: _there(qemu, accel, gvproxy, more=more))


def missing_lines(collected: Iterable[Settings]) -> list[str]:
    """Return what tests that were collected need and will not find, whatever goes wrong with that.

    Args:
        collected: the settings of those that start a VM.
    """
    return _said(lambda: _missing(collected))


def _said(find: Callable[[], Iterator[str]]) -> list[str]:
    lines: list[str] = []
    with noting("header failed", lines.append):
        lines.extend(find())
    return [f"vmports: {line}" for line in lines]


def _there(qemu: str | None, accel: str, gvproxy: str | None, *, more: bool) -> Iterator[str]:
    there, details, missing = [], [], []
    try:
        found = find_qemu(qemu)
        there.append(str(found).partition(" (")[0])
        details.append(str(found))
        accelerator = choose_accel(accel, found.path)
        there.append(accelerator.name)
        details.append(f"accelerator {accelerator}")
    except HostError as error:
        missing.append(str(error).splitlines()[0])
    try:
        forwarder = find_gvproxy(gvproxy)
        there.append(f"gvproxy {forwarder.version}")
        details.append(str(forwarder))
    except HostError:
        details.append("no gvproxy, so no guest with network")
    shown = details if more else [", ".join(there)]
    yield from filter(None, [*shown, *missing])


def _missing(collected: Iterable[Settings]) -> Iterator[str]:
    wanting = [
        one for one in collected
        if wants_gvproxy(allow_network=one.allow_network, backend=one.backend)
    ]  # fmt: skip
    for gvproxy in dict.fromkeys(one.gvproxy for one in wanting):
        if problem := _problem(gvproxy):
            number = sum(one.gvproxy == gvproxy for one in wanting)
            yield f"{problem} ({number} tests here)"


def _problem(gvproxy: str | None) -> str:
    try:
        find_gvproxy(gvproxy)
    except HostError as error:
        return str(error).splitlines()[0]
    return ""

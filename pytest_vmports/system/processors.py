"""Which processors a QEMU has: by its own word, for they differ by version and accelerator."""

from __future__ import annotations

import platform
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_vmports.system.probing import ask
from pytest_vmports.system.proc import said

if TYPE_CHECKING:
    from pytest_vmports.system.programs import Accelerator, Qemu

_SECONDS = 20.0
_MOST_NAMED = 12
# A row of ``-cpu help``: for x86 behind that word, for others by itself. Versions of a model are
# many, and its plain name is enough.
_ROW = re.compile(r"^(?:x86 +|  +)([A-Za-z0-9_.-]+)(?: +.*)?$", re.MULTILINE)
_VERSION = re.compile(r"-v\d+$|-(IBRS|noTSX)\b")
# What most ask for comes first; what is no use to anybody who asks for some is left out.
_FIRST = ("max", "qemu64", "cortex-a57")
_UNUSED = {"base", "host"}
# What tells one host's processors from another's, to whoever is given them as they are.
_TELLING = frozenset({
    "vendor_id", "cpu family", "model", "stepping", "flags", "isa", "features", "cpu implementer",
    "cpu architecture", "cpu variant", "cpu part",
})  # fmt: skip
_OWN = {"host", "max"}


def seen_by_guest(qemu: Qemu, accelerator: Accelerator, cpu: str | None) -> list[str]:
    """Return what of the host's own processors a guest gets to see; nothing where that is none.

    A guest that was saved with them goes on with none that lack something, and its clock goes wrong
    with a counter that runs at another rate.

    Args:
        qemu: by which it runs.
        accelerator: by which that one runs it.
        cpu: its processor, as ``-cpu`` takes it; None for the one that is best here.
    """
    told = _first_processor()
    seen = []
    if accelerator.name != "tcg" and (cpu is None or cpu.partition(",")[0] in _OWN):
        seen = [f"{name}: {value}" for name, value in told.items() if name in _TELLING]
        seen = seen or [platform.processor() or platform.machine()]
    if accelerator.name != "tcg" or qemu.architecture.host_ticks:
        seen.append(f"ticks: {_megahertz(told.get('bogomips', ''))}")
    return seen


@lru_cache(maxsize=1)
def _first_processor() -> dict[str, str]:
    """Return what ``/proc/cpuinfo`` says of it: of many, reading that takes milliseconds."""
    rows = (line.partition(":") for line in said("cpuinfo").partition("\n\n")[0].splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in rows}


def _megahertz(told: str) -> str:
    """Return the rate of the counter: half of what Linux says, which reckons it so (calibrate.c).

    In whole MHz: each start of a host measures it anew, a little otherwise.
    """
    try:
        return f"{float(told) / 2:.0f} MHz"
    except ValueError:
        return "unknown"


@lru_cache(maxsize=32)
def problem(qemu: Qemu, accelerator: Accelerator, cpu: str) -> str | None:
    """Return why this QEMU makes no such processor, in its own words; None where it does.

    Source: QEMU's manual, ``-cpu``. Nothing but a machine with it tells whether a feature is known.

    Args:
        qemu: that is to make it.
        accelerator: by which.
        cpu: as ``-cpu`` takes it.

    Raises:
        ProgramStoppedError: the host keeps QEMU from running.
    """
    machine = ("-machine", qemu.architecture.board, "-accel", accelerator.name, "-m", "64")
    bare = ("-nodefaults", "-display", "none", "-S", "-monitor", "stdio")
    answer = ask([qemu.path, *machine, "-cpu", cpu, *bare], timeout=_SECONDS, stdin="quit\n")
    if answer.code == 0:
        return None
    lines = [line.strip() for line in answer.errors.splitlines() if line.strip()]
    # Warnings come before the error that ends it.
    said = re.sub(r"^.*?qemu-system-[\w.-]+: ", "", lines[-1]) if lines else "nothing"
    return f"QEMU says: {said}"


@lru_cache(maxsize=8)
def some(qemu: Qemu) -> tuple[str, ...]:
    """Return names of some processors that a QEMU has.

    Raises:
        ProgramStoppedError: the host keeps QEMU from running.
    """
    machine = ("-machine", qemu.architecture.board)
    answer = ask([qemu.path, *machine, "-cpu", "help"], timeout=_SECONDS)
    listed = answer.output.partition("\n\n")[0]
    names = [name for name in _ROW.findall(listed) if not _VERSION.search(name)]
    first = [name for name in _FIRST if name in names]
    rest = sorted(set(names) - {*first, *_UNUSED})
    return tuple([*first, *rest][:_MOST_NAMED])

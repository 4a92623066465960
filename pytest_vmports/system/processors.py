"""Which processors a QEMU has: by its own word, for they differ by version and accelerator."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_vmports.system.probing import ask

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

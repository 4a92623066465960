"""How much memory there is still to be had: on this machine, and within our control group's limit.

Source: Linux's documents on control groups, v2 (``memory.max``) and v1 (``limit_in_bytes``).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pytest_vmports.system import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = Path("/sys/fs/cgroup")
_NUMBER = re.compile(r"[0-9]{1,19}")


class _Names(NamedTuple):
    """What a generation of control groups calls its files.

    Attributes:
        most: the limit.
        used: what is used of it.
        idle: a line of ``memory.stat``: pages of files that nobody has read lately, which count as
            used and are given up as soon as somebody asks.
    """

    most: str
    used: str
    idle: str


_V2 = _Names("memory.max", "memory.current", "inactive_file")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available() -> int | None:
    """Return the bytes that programs of ours can still be given; None where nothing tells."""
    found = re.search(r"^MemAvailable: *(\d+)", proc.said("meminfo"), re.MULTILINE)
    left = [] if found is None else [int(found[1]) * 1024]
    left += [one for folder, names in _groups() if (one := _left(folder, names)) is not None]
    return min(left, default=None)


def _groups() -> Iterator[tuple[Path, _Names]]:
    """Yield our control groups that may have a limit, with those that they are in."""
    for line in proc.said("self/cgroup").splitlines():
        kinds, _, name = line.partition(":")[2].partition(":")
        if kinds == "":
            root, names = GROUPS, _V2
        elif "memory" in kinds.split(","):
            root, names = GROUPS / "memory", _V1
        else:
            continue
        ours = PurePosixPath(name.lstrip("/"))
        # A container may show its own group as the root and name it as the host does.
        for group in (ours, *ours.parents):
            yield root / group, names


def _left(folder: Path, names: _Names) -> int | None:
    """Return what a control group has left; None where it has no limit, or is not seen."""
    most, used = _number(_said(folder / names.most)), _number(_said(folder / names.used))
    if most is None or used is None:
        return None
    found = re.search(rf"^{names.idle} ([0-9]+)$", _said(folder / "memory.stat"), re.MULTILINE)
    return max(0, most - used + (int(found[1]) if found else 0))


def _number(text: str) -> int | None:
    """Return the number that a file says; None for ``max``, or where it says nothing."""
    return int(text) if _NUMBER.fullmatch(text.strip()) else None


def _said(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""

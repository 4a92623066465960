"""What do the walls cost the start of a VM? Clones with all of them, and with each left out.

    python benchmarks/walls.py [--rounds 20] [--gvproxy PATH]

Takes them in turns, so that all see the same machine, and prints medians: the time from before a
port is leased to the first byte, and this process's own processor time in it, which says more on a
machine that is not quiet. A wall is left out as on a host that has none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single

from pytest_vmports.network import seal
from pytest_vmports.system import gate, landlock, seccomp
from pytest_vmports.system.programs import choose_accel, find_gvproxy, find_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pytest_vmports.settings.options import Settings

WALLS = {
    "filter before gvproxy": seal,
    "gate": gate,
    "Landlock": landlock,
    "refused system calls": seccomp,
}
# QEMU's own network has no gvproxy in it.
OF_QEMU = ("Landlock", "refused system calls")
BUSY = 0.5


@contextlib.contextmanager
def without(*walls: ModuleType) -> Iterator[None]:
    """Leave walls out within a ``with`` block."""
    with contextlib.ExitStack() as stack:
        for wall in walls:
            stack.enter_context(mock.patch.object(wall, "problem", return_value="left out"))
        yield


def cases(names: tuple[str, ...]) -> dict[str, tuple[ModuleType, ...]]:
    """Return what is left out, by what a row is called."""
    each = {f"without {name}": (WALLS[name],) for name in names}
    return {"all walls": (), **each, "without any": tuple(WALLS[name] for name in names)}


def processor_time() -> float:
    """Return the seconds that this process has used, its children's not with them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def clone(measured: _single.Bench, wanted: Settings) -> tuple[float, float]:
    """Return the seconds to a clone's first byte, and how many of them this process worked."""
    began = processor_time()
    seconds, machine, exposed = measured.start(wanted)
    worked = processor_time() - began
    assert str(machine.origin) == "cloned", machine.origin
    measured.stop(machine, exposed)
    return seconds, worked


def times(
    measured: _single.Bench, wanted: Settings, names: tuple[str, ...], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return what `clone` returned, by what was left out."""
    left_out = cases(names)
    measured.stop(*measured.start(wanted)[1:])  # makes the template, and loads what it needs
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in left_out}
    for number in range(rounds):
        turns = [*left_out.items()]
        for case, walls in turns if number % 2 else reversed(turns):
            with without(*walls):
                found[case].append(clone(measured, wanted))
    return found


def show(title: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """Print a table."""
    head = f"\n{title:36}{'first byte, ms':>16}{'ratio':>8}{'of it ours, ms':>18}{'ratio':>8}"
    print(head, file=sys.__stdout__)
    first: list[float] = []
    for case, values in found.items():
        both = [median(column) * 1000 for column in zip(*values, strict=True)]
        first = first or both
        wall, worked = ((one, one / of_all) for one, of_all in zip(both, first, strict=True))
        row = f"{case:36}{wall[0]:16.1f}{wall[1]:8.2f}{worked[0]:18.2f}{worked[1]:8.2f}"
        print(row, file=sys.__stdout__, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="clones of each row (20)")
    parser.add_argument("--gvproxy", help="which one; by default the one that is found")
    options = parser.parse_args()
    gvproxy, qemu = find_gvproxy(options.gvproxy), find_qemu()
    print(f"{_machine.machine()}, {qemu}, {gvproxy}")
    if (busy := os.getloadavg()[0]) > BUSY:
        print(f"something else runs here (load {busy:.1f}): read processor time and ratios alone")
    for name, wall in WALLS.items():
        if (problem := wall.problem()) is not None:
            print(f"this host has no {name}: {problem}")
    accelerator = choose_accel("auto", qemu.path).name
    # What is told of missing walls is no part of the tables.
    with contextlib.redirect_stdout(sys.stderr), _single.bench() as measured:
        plain = {"accel": accelerator, "prewarm": 0}
        alone = _single.settings(measured.folder, **plain)
        show("a clone", times(measured, alone, OF_QEMU, options.rounds))
        network = {"allow_network": True, "gvproxy": gvproxy.path, **plain}
        wanted = _single.settings(measured.folder, **network)
        show("a clone with network", times(measured, wanted, tuple(WALLS), options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())

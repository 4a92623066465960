"""Why is a clone not quicker? How much of the guest's code is translated until its first byte.

    python benchmarks/translation.py [--rounds N] [--debian]

An emulated processor translates each block of code when it comes to it first, in every process
anew. QEMU counts the blocks (source: its monitor's `info jit`); the counts do not depend on what
else runs, the times do. Takes a minute; with a Debian, whose disk is built where there is none yet,
some more.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single
import guests

from pytest_vmports.system.programs import find_qemu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.settings.options import Settings
    from pytest_vmports.vm.machine import Machine

TARGET = 5


def blocks(machine: Machine) -> int:
    """Return how many blocks QEMU has translated for a guest."""
    found = re.search(r"TB count\s+(\d+)", machine.monitor.hmp("info jit"))
    assert found is not None
    return int(found[1])


class Seen(NamedTuple):
    """What one start came to: milliseconds since it began, and blocks, at each of three moments."""

    ready: float
    at_ready: float
    first: float
    at_first: float
    run: float
    at_run: float


def once(
    measured: _single.Bench, kind: guests.Kind, wanted: Settings, following: Sequence[Settings] = ()
) -> Seen:
    """Start a VM, have its first byte and run its first command."""
    found: list[float] = []
    began = time.perf_counter()
    with measured.pool.vm(wanted, kind.guest, following=following) as vm:
        for step in (lambda: None, lambda: kind.first_byte(vm), lambda: vm.run("true")):
            step()
            found.append((time.perf_counter() - began) * 1e3)
            looked = time.perf_counter()
            found.append(float(blocks(vm._machine)))
            began += time.perf_counter() - looked
    if following:
        measured.pool.standby.join()
    return Seen(*found)


def starts(
    measured: _single.Bench, kind: guests.Kind, rounds: int, **words: object
) -> dict[str, list[Seen]]:
    """Return what clones came to, and then VMs that were kept ready."""
    clone, keep = kind.settings(prewarm=0, **words), kind.settings(prewarm=1, **words)
    once(measured, kind, clone)  # builds the template
    clones = [once(measured, kind, clone) for _ in range(rounds)]
    once(measured, kind, keep, [keep])
    return {"clone": clones, "kept ready": [once(measured, kind, keep, [keep]) for _ in clones]}


def main() -> None:
    """Count, and print a line for each kind of start."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--debian", action="store_true", help="a Debian with servers too")
    options = parser.parse_args()
    qemu = find_qemu()
    print(f"{_machine.machine()}, QEMU {'.'.join(map(str, qemu.version))} (tcg)")
    floor = median(_single.floor(qemu.path, "tcg") * 1e3 for _ in range(options.rounds))
    print(f"QEMU's own start: {floor:.1f} ms")
    with _single.bench() as measured:
        kinds = guests.kinds(measured.folder)
        rows = {"bundled": ("bundled", {}), "on a network": ("bundled", {"network": "lan"})}
        if options.debian:
            rows["debian"] = ("debian", {})
        for name, (kind, words) in rows.items():
            found = starts(measured, kinds[kind], options.rounds, accel="tcg", **words)
            for how, values in found.items():
                tell(f"{name}, {how}", Seen(*map(median, zip(*values, strict=True))), floor)


def tell(name: str, seen: Seen, floor: float) -> None:
    """Print a line."""
    print(
        f"{name}: handed over after {seen.ready:.1f} ms and {seen.at_ready:,.0f} blocks, first "
        f"byte {seen.first:.1f} ms and {seen.at_first:,.0f}, first command {seen.run:.1f} ms and "
        f"{seen.at_run:,.0f}"
    )
    if name.endswith("clone"):
        each = (seen.first - floor) / seen.at_first
        print(
            f"  {each * 1e3:.1f} µs for each block beyond QEMU's own start: {TARGET} × that leaves "
            f"{(TARGET - 1) * floor / each:,.0f} blocks"
        )


if __name__ == "__main__":
    main()

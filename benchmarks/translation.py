"""Why is a clone not quicker? How much of the guest's code is translated until its first byte.

    python benchmarks/translation.py [--rounds N]

An emulated processor translates each block of code when it comes to it first, in every process
anew. QEMU counts the blocks (source: its monitor's `info jit`); the counts do not depend on what
else runs, the times do. Takes a minute.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single
import echo_server

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


def once(
    measured: _single.Bench, wanted: Settings, following: Sequence[Settings] = ()
) -> tuple[float, float, float, float]:
    """Return milliseconds until a VM is handed over and until its first byte; blocks at each."""
    began = time.perf_counter()
    exposed = measured.pool.lease(wanted.expose, wanted)
    guest = measured.pool.guest(wanted)
    machine = measured.pool.start(wanted, guest, exposed, following=following)
    ready = time.perf_counter() - began
    at_ready = blocks(machine)
    began = time.perf_counter()
    _single.first_byte(exposed[echo_server.PORT].address)
    first = time.perf_counter() - began
    found = ready * 1e3, (ready + first) * 1e3, float(at_ready), float(blocks(machine))
    measured.stop(machine, exposed)
    if following:
        measured.pool.standby.join()
    return found


def main() -> None:
    """Count, and print a line for each kind of start."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    qemu = find_qemu()
    print(f"{_machine.machine()}, QEMU {'.'.join(map(str, qemu.version))} (tcg)")
    with _single.bench() as measured:
        clone = _single.settings(measured.folder, accel="tcg", prewarm=0)
        lan = _single.settings(measured.folder, accel="tcg", prewarm=0, network="lan")
        keep = _single.settings(measured.folder, accel="tcg", prewarm=1)
        found: dict[str, list[tuple[float, ...]]] = {
            "clone": [],
            "on a network": [],
            "kept ready": [],
        }
        for wanted in (clone, lan):
            once(measured, wanted)  # builds the template
        floors = []
        for _ in range(rounds):
            floors.append(_single.floor(qemu.path, "tcg") * 1e3)
            found["clone"].append(once(measured, clone))
            found["on a network"].append(once(measured, lan))
        once(measured, keep, [keep])
        for _ in range(rounds):
            found["kept ready"].append(once(measured, keep, [keep]))
    floor = median(floors)
    print(f"QEMU's own start: {floor:.1f} ms")
    for name, values in found.items():
        ready, first, at_ready, at_first = map(median, zip(*values, strict=True))
        print(
            f"{name}: handed over after {ready:.1f} ms and {at_ready:,.0f} blocks, "
            f"first byte after {first:.1f} ms and {at_first:,.0f} blocks"
        )
        if name == "clone":
            each = (first - floor) / at_first
            left = (TARGET - 1) * floor / each
            print(
                f"  {each * 1e3:.1f} µs for each block beyond QEMU's own start: "
                f"{TARGET} × that leaves {left:,.0f} blocks"
            )


if __name__ == "__main__":
    main()

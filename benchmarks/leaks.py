"""Do clones leave anything behind in the process that made them?

    python benchmarks/leaks.py [--clones 300]

Makes clones of the bundled guest one after the other, each of which answers once, and prints the
memory, descriptors and threads of this process as they go. Fails when they have grown from the
first third on.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single

_MOST_MIB = 2.0  # of what Python's allocator keeps now and then


def state() -> tuple[float, int, int]:
    """Return this process's own memory in MiB, its descriptors and its threads."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            memory = int(line.split()[1]) / 1024
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count()


def main() -> int:
    """Return 1 when something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clones", type=int, default=300)
    options = parser.parse_args()
    print(_machine.machine())
    seen = []
    with _single.bench() as measured:
        wanted = _single.settings(measured.folder, prewarm=0)
        for number in range(1, options.clones + 1):
            measured.stop(*measured.start(wanted)[1:])
            if number % max(1, options.clones // 6) == 0:
                seen.append(state())
                memory, descriptors, threads = seen[-1]
                kept = f"{memory:7.1f} MiB, {descriptors} descriptors, {threads} threads"
                print(f"{number:4} clones: {kept}", flush=True)
    (first, fds, threads), (last, fds_last, threads_last) = seen[len(seen) // 3 - 1], seen[-1]
    grew = last - first > _MOST_MIB or fds_last > fds or threads_last > threads
    print("grew" if grew else "flat")
    return int(grew)


if __name__ == "__main__":
    raise SystemExit(main())

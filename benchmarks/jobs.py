"""How soon does the first VM of a CI job answer, whose cache is empty, with a store and without?

    python benchmarks/jobs.py [--rounds N] [--only NAME ...] [--write docs/performance.md]

Each job is a process of its own with empty folders: nothing is remembered of an earlier one, so
that fetching a template, unpacking it, and reading images and programs for its key are in it. The
store is a folder. Builds a Debian disk first, where there is none yet. Let nothing else run
meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single
import guests

from pytest_vmports.settings.far_store import FarStore
from pytest_vmports.system.programs import choose_accel, find_qemu

KINDS = ("bundled", "debian")


def job(name: str, store: Path | None) -> float:
    """Return the seconds until the first VM of a job has answered.

    Args:
        name: of the guest's kind.
        store: where templates are looked for, and put; None for a job that boots from cold.
    """
    far = None if store is None else FarStore(str(store), trusted=True)
    with _single.bench(far) as measured:
        kind = guests.kinds(measured.folder)[name]
        wanted = kind.settings(prewarm=0) if store else kind.settings(template=False)
        with guests.started(measured, kind, wanted) as (seconds, _):
            return seconds


def in_child(name: str, store: Path | None) -> float:
    """Return the same of a process with folders of its own."""
    with tempfile.TemporaryDirectory() as own:
        words = ["--one", name, *([] if store is None else ["--store", str(store)])]
        done = subprocess.run(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True, text=True,
            env={**os.environ, "TMPDIR": own},
        )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def measure(name: str, rounds: int) -> str:
    """Return the row of a kind of guest."""
    cold, stored = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        in_child(name, store)
        (packed,) = store.iterdir()
        for number in range(rounds):
            if number < (1 if name == "debian" else rounds):
                cold.append(in_child(name, None))
            stored.append(in_child(name, store))
        size = packed.stat().st_size / (1 << 20)
    before, after = median(cold), median(stored)
    return (
        f"| {name} | {before:.1f} ({len(cold)}) | {after:.1f} ({len(stored)}) | "
        f"{before / after:.1f} | {size:.0f} |"
    )


def main() -> None:
    """Measure each guest, and print a table."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", choices=KINDS, nargs="*", default=list(KINDS))
    options.add_argument("--write", type=Path, help="a markdown file with a place for the table")
    options.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    options.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    wanted = options.parse_args()
    if wanted.one is not None:
        print(job(wanted.one, wanted.store))
        return
    qemu = find_qemu()
    version = ".".join(map(str, qemu.version))
    accelerator = choose_accel("auto", qemu.path).name
    lines = [
        "| guest | cold, s | from the store, s | ratio | in the store, MiB |",
        "|---|---|---|---|---|",
        *(measure(name, wanted.rounds) for name in wanted.only),
        f"\n{_machine.machine()}; QEMU {version}, {accelerator}; medians (of so many).",
    ]  # fmt: skip
    table = "\n".join(lines)
    print(table)
    if wanted.write is not None:
        _machine.put(wanted.write, "jobs", table)


if __name__ == "__main__":
    main()

"""What does it cost a pytest run that has the plugin installed and does not use it?

    python benchmarks/start.py [--rounds 40] [--tests 1]

Runs pytest in pairs, with the plugin and with `-p no:vmports`, on a file of tests that pass. All
other installed plugins are off, for they load modules that ours then would not have to. Compiled
modules are kept in a folder of the benchmark's own, whatever this environment says of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import entry_points, version
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _machine

TARGET_MS = 5.0
OURS = "vmports"


def run(folder: Path, *words: str) -> tuple[float, float]:
    """Return the milliseconds of a run, and those of processor time that it took."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    names = {entry.name for entry in entry_points(group="pytest11")} - {OURS}
    off = [word for name in sorted(names) for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *off, *words]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return elapsed * 1000, (used.ru_utime + used.ru_stime) * 1000


def pairs(rounds: int, tests: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return wall and processor time of the runs without the plugin, and of those with it."""
    without, having = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        plain = "".join(f"def test_{number}(): pass\n" for number in range(tests))
        (folder / "test_plain.py").write_text(plain)
        for number in range(-2, rounds):  # the first ones compile, and fill the disk's cache
            turns = [(without, ("-p", f"no:{OURS}")), (having, ())]
            for into, words in turns if number % 2 else reversed(turns):
                measured = run(folder, *words)
                if number >= 0:
                    into.append(measured)
    return without, having


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="pairs")
    parser.add_argument("--tests", type=int, default=1, help="in the file, which use nothing of it")
    options = parser.parse_args()
    print(f"{_machine.machine()}, Python {platform.python_version()}, pytest {version('pytest')}")
    without, having = pairs(options.rounds, options.tests)
    print(f"{'ms of a run':24}{'without':>10}{'with':>10}{'it costs':>10}")
    costs = []
    for which, what in enumerate(("time", "processor time")):
        for how, of in (("median", median), ("least", min)):
            low, high = (of(one[which] for one in found) for found in (without, having))
            print(f"{what + ', ' + how:24}{low:10.1f}{high:10.1f}{high - low:10.1f}")
        costs.append(median(b[which] - a[which] for a, b in zip(without, having, strict=True)))
        print(f"{what + ', in pairs':24}{'':20}{costs[-1]:10.1f}")
    if options.tests == 1:
        kept = "kept" if costs[0] <= TARGET_MS else "MISSED"
        print(f"target: at most {TARGET_MS:g} ms in pairs, {kept}")


if __name__ == "__main__":
    main()

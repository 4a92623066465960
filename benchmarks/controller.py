"""What does a test cost xdist's controller: processor time, and bytes from its worker?

    python benchmarks/controller.py [--tests N] [--vms N] [--write docs/scale.md]

Runs N tests that do nothing, and as many as `--vms` that have a VM each, with two workers, and a
tenth of both, so that what a run costs at its begin and its end drops out. Each worker tells the
controller the names of all tests; that is measured with eight workers. Let nothing else run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _machine

CONFTEST = """
import json, time
from pathlib import Path
from execnet.gateway_base import Popen2IO

read, received = Popen2IO.read, [0]

def counted(self, size):
    received[0] += size
    return read(self, size)

Popen2IO.read = counted

def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        Path("cost.json").write_text(json.dumps([time.process_time(), *received]))
"""
TESTS = {
    "that does nothing": """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_nothing(number):
    pass
""",
    "with a VM": """
import pytest

@pytest.mark.parametrize("number", range({count}))
@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
def test_with_a_vm(vm_with_ports, number):
    with vm_with_ports.connect(8080) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
""",
}


FEW, MANY = 2, 8


def run(folder: Path, text: str, count: int, workers: int) -> tuple[float, int]:
    """Return the seconds of processor time and the bytes that a run took its controller."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(text.format(count=count))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VMPORTS_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "no:randomly", "-n", str(workers), "--vmports-timeline", "timeline.html"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not re.search(rf"\b{count} passed", done.stdout):
        raise RuntimeError(f"the suite failed:\n{done.stdout}\n{done.stderr}")
    seconds, read = json.loads((folder / "cost.json").read_text())
    return seconds, read


def measure(text: str, count: int, workers: int = FEW) -> tuple[float, float]:
    """Return the milliseconds and the kilobytes of one test."""
    few = count // 10
    with tempfile.TemporaryDirectory() as folder:
        # The first builds the template, and compiles what the others import.
        _, before, after = (
            run(Path(folder), text, number, workers) for number in (few, few, count)
        )
    more = count - few
    return (after[0] - before[0]) / more * 1e3, (after[1] - before[1]) / more / 1e3


def main() -> None:
    """Measure both kinds of tests, and print a table."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tests", type=int, default=5000)
    options.add_argument("--vms", type=int, default=100)
    options.add_argument("--write", type=Path, help="a markdown file with a place for the table")
    wanted = options.parse_args()
    lines = ["| a test | processor, ms | from its worker, kB |", "|---|---|---|"]
    found = {}
    for (what, text), count in zip(TESTS.items(), (wanted.tests, wanted.vms), strict=True):
        found[what] = measure(text, count)
        lines.append("| {} | {:.2f} | {:.2f} |".format(what, *found[what]))
    what, text = next(iter(TESTS.items()))
    # Of the processor's time it is less than one run differs from the next.
    more = measure(text, wanted.tests, MANY)[1] - found[what][1]
    lines.append(f"| for each further worker | – | {more / (MANY - FEW):.3f} |")
    lines.append(f"\n{_machine.machine()}; Python {sys.version.partition(' ')[0]}.")
    table = "\n".join(lines)
    print(table)
    if wanted.write is not None:
        _machine.put(wanted.write, "controller", table)


if __name__ == "__main__":
    main()

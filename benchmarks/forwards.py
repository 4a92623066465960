"""How much do forwards carry, and how soon do they answer? Each wiring, in turns.

    python benchmarks/forwards.py [--rounds N] [--passt] [--gvproxy PATH ...] [--against CHECKOUT]

A round takes about 10 seconds a wiring. Let nothing else run meanwhile. `--against` measures
another checkout of this project in the same run, turn by turn, and prints ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pytest_vmports.cli.run import started

if TYPE_CHECKING:
    from pytest_vmports.pool.handle import VM

HERE = Path(__file__).resolve().parent.parent
PASST = "passt"
BYTES = 60 << 20
TIMES, ECHOES = 3, 300
OUT, IN, ECHO = 8080, 8081, 8082
SETUP = f"""
nc -lk -p {OUT} -e dd if=/dev/zero bs=65536 count={BYTES >> 16} 2>/dev/null &
nc -lk -p {IN} -e sh -c 'dd of=/dev/null bs=64k 2>/dev/null; echo done' &
nc -lk -p {ECHO} -e cat &
"""
WHAT = {"in": "into the guest, MB/s", "out": "out of it, MB/s", "echo": "an echo, ms"}


def into(vm: VM) -> float:
    """Return megabytes a second; the guest says when it has all."""
    with vm.connect(IN, timeout=120) as connection:
        began = time.monotonic()
        connection.sendall(bytes(BYTES))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(8)
        return BYTES / 1e6 / (time.monotonic() - began)


def out_of(vm: VM) -> float:
    """Return megabytes a second."""
    left = BYTES
    with vm.connect(OUT, timeout=120) as connection:
        began = time.monotonic()
        while left > 0 and (data := connection.recv(1 << 18)):
            left -= len(data)
        return (BYTES - left) / 1e6 / (time.monotonic() - began)


def echo(vm: VM) -> float:
    """Return the median of milliseconds for a byte to come back."""
    taken = []
    with vm.connect(ECHO, timeout=60) as connection:
        for _ in range(ECHOES):
            began = time.monotonic()
            connection.sendall(b"x")
            connection.recv(1)
            taken.append((time.monotonic() - began) * 1e3)
    return median(taken)


def measure(gvproxy: str) -> dict[str, list[float]]:
    """Return what one VM was measured at; no ``gvproxy`` is QEMU's user network, or it is passt."""
    words = {
        "expose": f"{OUT} {IN} {ECHO}", "setup": SETUP, "wait_for": "all", "template": "no",
        "allow_network": "no",
    }  # fmt: skip
    by_gvproxy = {"allow_network": "yes", "gvproxy": gvproxy}
    wiring = {"": {}, PASST: {"backend": PASST}}.get(gvproxy, by_gvproxy)
    with started(words | wiring) as vm:
        return {
            "in": [into(vm) for _ in range(TIMES)],
            "out": [out_of(vm) for _ in range(TIMES)],
            "echo": [echo(vm)],
        }


def in_child(checkout: Path, gvproxy: str) -> dict[str, list[float]]:
    """Return `measure` of a checkout, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", gvproxy], stdout=subprocess.PIPE, check=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def parsed() -> argparse.Namespace:
    """Return the options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--passt", action="store_true", help="measure passt too")
    options.add_argument("--gvproxy", nargs="*", default=[str(p) for p in tools()])
    options.add_argument("--against", type=Path, metavar="CHECKOUT")
    options.add_argument("--one", help=argparse.SUPPRESS)
    return options.parse_args()


def tools() -> list[Path]:
    """Return the gvproxies that `make setup` has brought, or PATH's."""
    found = sorted((HERE / ".tools").glob("gvproxy-*/gvproxy"))
    return found or [Path(path) for path in [shutil.which("gvproxy")] if path]


def main() -> None:
    """Measure in turns and print a table."""
    options = parsed()
    if options.one is not None:
        print(json.dumps(measure(options.one)))
        return
    checkouts = [HERE] if options.against is None else [options.against.resolve(), HERE]
    wirings = ["", *([PASST] if options.passt else []), *options.gvproxy]
    values = defaultdict(list)
    for _ in range(options.rounds):
        for gvproxy in wirings:
            for checkout in checkouts:
                for what, found in in_child(checkout, gvproxy).items():
                    values[gvproxy, what, checkout] += found
    head = ("this one",) if options.against is None else ("the other", "this one", "ratio")
    print(f"{'wiring':16}{'what':24}" + "".join(f"{word:>12}" for word in head))
    for gvproxy in wirings:
        name = {"": "user network", PASST: PASST}.get(gvproxy, Path(gvproxy).parent.name)
        for what, said in WHAT.items():
            row = [median(values[gvproxy, what, checkout]) for checkout in checkouts]
            row += [row[1] / row[0]] if options.against else []
            print(f"{name:16}{said:24}" + "".join(f"{value:12.2f}" for value in row))


if __name__ == "__main__":
    main()

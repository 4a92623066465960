"""How fast are VMs? Cold boots, clones, what waits for its test; whole suites beside other ways.

    python benchmarks/vms.py [--quick] [--only NAME ...] [--write docs/performance.md]

Takes five to eight minutes, `--quick` about three. Let nothing else run meanwhile. The rows of
`vms` are measured in turns, so that all of them see the same machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single
import _suites

from pytest_vmports.system.programs import Qemu, choose_accel, find_qemu

PARTS = ("vms", "memory", "suite", "off", "plain", "quicksand", "growth")
HEAD = ("what", "measured", "target", "reached", "part")
BUSY = 0.5
_FLAT = 1.2


@dataclass
class Measured:
    """What is known so far: its rows, and milliseconds or VMs a minute by name."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    suites: dict[int, float] = field(default_factory=dict)  # seconds by number of tests

    def add(self, part: str, what: str, shown: str, target: str = "", reached: str = "") -> None:
        """Add a row and print it."""
        self.rows.append((what, shown, target, reached, part))
        print(line_of(self.rows[-1]), flush=True)

    def ratio(self, over: str, under: str) -> float | None:
        """Return how many times one value is the other; None where one was not measured."""
        if over in self.values and under in self.values:
            return self.values[over] / self.values[under]
        return None


def line_of(row: tuple[str, ...]) -> str:
    """Return a row for the terminal."""
    widths = (52, 34, 28, 30)
    return "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True))


def verdict(value: float | None, *, most: float = 0, least: float = 0, unit: str = "") -> str:
    """Return a value beside its bound, and whether it keeps it."""
    if value is None:
        return "–"
    kept = value <= most if most else value >= least
    return f"{value:.3g}{unit}, {'kept' if kept else 'MISSED'}"


def of_cold(ratio: float | None, target: int) -> str:
    """Return a share of the cold boot beside its bound."""
    if ratio is None:
        return "–"
    return f"1/{ratio:.0f}, {'kept' if ratio >= target else 'MISSED'}"


def vms(measured: Measured, options: argparse.Namespace, qemu: Qemu) -> None:
    """Measure single VMs, with each accelerator that works here."""
    best = choose_accel("auto", qemu.path).name
    for accelerator in dict.fromkeys(["tcg", best]):
        found = _single.times(options.rounds, accelerator, qemu.path)
        one = Measured(values={name: _single.summary(times)[0] for name, times in found.items()})
        clone, teardown = one.values["clone"], one.values["teardown"]
        floors = clone / one.values["floor"]
        reached = {
            "floor": ("", ""),
            "cold": ("", ""),
            "clone": (
                "≤ 1/15 of cold; ≤ 5 × floor",
                f"{of_cold(one.ratio('cold', 'clone'), 15)}; {verdict(floors, most=5, unit=' ×')}",
            ),
            "standby": (
                "≤ 1/150 of cold; ≤ 0.35 × floor",
                (
                    f"{of_cold(one.ratio('cold', 'standby'), 150)}; "
                    f"{verdict(one.ratio('standby', 'floor'), most=0.35, unit=' ×')}"
                ),
            ),
            "teardown": ("≤ 20 ms", verdict(teardown, most=20, unit=" ms")),
        }
        titles = {
            "floor": "exec of QEMU to its monitor's greeting (floor)",
            "cold": "cold boot to first byte",
            "clone": "clone to first byte",
            "standby": "kept ready, to first byte",
            "teardown": "stop of a clone",
        }
        for name, times in found.items():
            middle, high = _single.summary(times)
            shown = f"{middle:,.1f} ms, p90 {high:,.1f} ({len(times)})"
            measured.add("vms", f"{accelerator}: {titles[name]}", shown, *reached[name])


def memory(measured: Measured, options: argparse.Namespace, qemu: Qemu) -> None:
    """Measure what one more clone costs."""
    accelerator = choose_accel("auto", qemu.path).name
    found = _single.memory(max(1, options.rounds // 7), accelerator)
    middle, high = _single.summary(found, 1)
    shown = f"{middle:.1f} MiB, highest {high:.1f} ({len(found)})"
    what = f"memory (PSS) of the {_single.CLONES}th clone, {_single.MEMORY} MiB guest"
    measured.add("memory", what, shown, "≤ 48 MB", verdict(middle * 1.048576, most=48, unit=" MB"))


def rate(measured: Measured, part: str, what: str, tests: int, seconds: float) -> None:
    """Add a suite's row: VMs a minute."""
    measured.values[part] = tests * 60 / seconds
    shown = f"{measured.values[part]:,.0f} VMs/min ({tests} in {seconds:.1f} s)"
    measured.add(part, what, shown)


def suites(measured: Measured, options: argparse.Namespace, qemu: Qemu, wanted: list[str]) -> None:
    """Measure whole suites."""
    accelerator = choose_accel("auto", qemu.path).name
    if "suite" in wanted:
        measured.suites[options.tests] = _suites.ours(options.tests)
        rate(measured, "suite", "suite", options.tests, measured.suites[options.tests])
    if "off" in wanted:
        seconds = _suites.ours(options.cold_tests, template=False)
        rate(measured, "off", "suite, template = no", options.cold_tests, seconds)
    if "plain" in wanted:
        seconds = _suites.plain(options.cold_tests, qemu.path, accelerator)
        rate(measured, "plain", "plain script", options.cold_tests, seconds)
    if "quicksand" in wanted and options.quicksand:
        try:
            seconds, version = _suites.quicksand(options.quicksand, accelerator)
        except RuntimeError as error:
            measured.add("quicksand", "quicksand", f"does not run here: {error}")
        else:
            rate(measured, "quicksand", f"quicksand {version}", options.quicksand, seconds)
    for other, least in (("off", 12), ("plain", 12), ("quicksand", 40)):
        if other in measured.values and "suite" in measured.values:
            reached = verdict(measured.ratio("suite", other), least=least, unit=" ×")
            measured.add("suite", f"suite against {other}", "", f"≥ {least} ×", reached)


def growth(measured: Measured, options: argparse.Namespace) -> None:
    """Measure the cost of a test in suites of several lengths."""
    # The suite of 100 is there already.
    seconds = {n: measured.suites.get(n) or _suites.ours(n) for n in options.growth}
    for count, taken in seconds.items():
        shown = f"{1000 * taken / count:,.0f} ms a test ({taken:.1f} s)"
        measured.add("growth", f"suite of {count}", shown)
    # What starting, collecting and the template cost is in all of them once.
    (few, first), (some, between), (many, last) = seconds.items()
    early, late = (between - first) / (some - few), (last - between) / (many - some)
    shown = f"{early * 1000:.0f} and {late * 1000:.0f} ms"
    reached = verdict(late / early, most=_FLAT, unit=" ×") if early > 0 else "–"
    what = f"one more test, from {few} to {some} and from {some} to {many}"
    measured.add("growth", what, shown, f"flat (≤ {_FLAT} ×)", reached)


def machine(qemu: Qemu) -> str:
    """Return what this ran on."""
    version = ".".join(map(str, qemu.version))
    accelerator = choose_accel("auto", qemu.path).name
    return (
        f"{_machine.machine()}, QEMU {version} ({accelerator}), Python {platform.python_version()}"
    )


PAGE = """# Performance

Measured on {machine}, with nothing else running. `make bench` prints this table; it was written by

    .venv/bin/python benchmarks/vms.py{arguments} --write docs/performance.md

and each of its parts, named in the last column, can be had alone with

    .venv/bin/python benchmarks/vms.py{arguments} --only PART

| {head} |
|---|---|---|---|---|
{rows}

- Times are medians, with the 90th percentile and how often it was measured. *First byte*: from
  before a port is leased until the guest has echoed a byte through the forward, on the first
  connection made. *Stop*: until the process is gone and the port is given back.
- *Clone*, the part beyond five floors: QEMU's start and loading the state are about a fifth of it.
  The rest is the guest's own work, its first packets, its clock, its random numbers: TCG translates
  the kernel's code anew in each process, and QEMU cannot keep a translation.
  `benchmarks/translation.py` counts the blocks of code and says how many five floors would leave.
  A VM that was kept ready has them behind it.
- The guest is the bundled one: {memory} MiB, one processor, and a server of one process that runs
  before the template is saved (`tests/echo_server.py`).
- A *suite* is that many tests with a VM and one assert each, run by `pytest -n {at_once}` with an
  empty cache: pytest's start, two workers' imports and the template's boot are in it. VMs a minute
  of shorter suites are as measured, not extrapolated; the targets compare rates.
- *Plain script*: binds port 0 and closes it, boots QEMU with the same kernel, initrd and memory,
  connects until it is answered, kills it; {at_once} at a time. It starts no pytest.
- *quicksand*: `Sandbox(image="alpine")` and one `execute("echo x")`, {at_once} at a time, with the
  same QEMU and accelerator; its guest boots a whole Alpine from disk, with 512 MiB.
- *Growth*: cost of one more test between the suite's lengths; what a run costs once is left out.
"""


def page(measured: Measured, qemu: Qemu, arguments: list[str]) -> str:
    """Return the page with all rows, as far as its first section."""
    shown = [a for a in arguments if a != "--write" and not a.endswith(".md")]
    if "--only" in shown:
        del shown[shown.index("--only") :]
    return PAGE.format(
        machine=machine(qemu), arguments="".join(f" {a}" for a in shown),
        head=" | ".join(HEAD), memory=_single.MEMORY, at_once=_suites.AT_ONCE,
        rows="\n".join("| " + " | ".join(row) + " |" for row in measured.rows),
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    """Return the command line's words."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each start (20)")
    parser.add_argument("--tests", type=int, default=100, help="of our suite (100)")
    parser.add_argument("--cold-tests", type=int, default=10, help="where each boots (10)")
    parser.add_argument("--quicksand", type=int, default=2, help="of its sandboxes (2); 0: none")
    parser.add_argument("--growth", type=int, nargs=3, default=[10, 100, 500])
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART")
    parser.add_argument("--write", type=Path, help="a markdown file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tests, options.cold_tests = 7, 40, 6
        options.growth = [5, 20, 40]
    return options


def main() -> int:
    options = arguments()
    qemu = find_qemu()
    print(machine(qemu))
    busy = os.getloadavg()[0]
    if busy > BUSY:
        print(f"something else runs here (load {busy:.1f}): these numbers say little")
    measured = Measured()
    print(line_of(HEAD))
    if "vms" in options.only:
        vms(measured, options, qemu)
    if "memory" in options.only:
        memory(measured, options, qemu)
    suites(measured, options, qemu, options.only)
    if "growth" in options.only:
        growth(measured, options)
    if options.write:
        before = options.write.read_text() if options.write.exists() else ""
        # The sections are others': of other benchmarks, and what was written by hand.
        _, heading, sections = before.partition("\n## ")
        options.write.write_text(page(measured, qemu, sys.argv[1:]) + heading + sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ways of getting a free port, side by side: how often do they fail, and how fast are they?

    python benchmarks/leases.py [--seconds 2] [--write docs/performance-leases.md]

Every contender runs in the same harness (`tests/lease_stress.py`): each process asks for three
ports, binds and listens on them as servers do (with SO_REUSEADDR, which favours all alike), and
gives them back. A *double* is a port handed out while another process still has it, noted outside
the contenders. A *failed bind* is a handed-out port that could not be bound. A *leak* is what
would keep a port from being handed out after all processes were killed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import _machine  # noqa: E402
import ephemeral_port_reserve  # noqa: E402
import port_for  # noqa: E402
import portpicker  # noqa: E402
from filelock import FileLock  # noqa: E402
from lease_stress import BindClose, Ours, Plan, Result, Run, locks_left, plain_stranger  # noqa: E402

from pytest_vmports.leases import PortAllocator  # noqa: E402
from pytest_vmports.leases.candidates import candidate_ports, ephemeral_range  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

PROCESSES = (2, 8, 32)
CONDITIONS = ("quiet", "strangers", "kills")
COUNT = 3
# Targets: hand-outs, µs, µs, ms.
_ENOUGH, _P50, _P99, _REUSE = 1_000_000, 30, 500, 10
ORDER = (
    "pytest-vmports", "bind-close", "portpicker", "ephemeral-port-reserve", "port-for",
    "pytest-postgresql's way", "pytest_container's way",
)  # fmt: skip
# As XDG_RUNTIME_DIR, where leases are by default, is on most machines.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Number(BindClose):
    """A contender that gives bare numbers, one at a time."""

    def __init__(self, pick: Callable[[], int]) -> None:
        self.pick = pick

    def take(self, count: int) -> list[Any]:
        return [self.pick() for _ in range(count)]


class PortPicker(Number):
    """portpicker without its server; remembers its numbers, so each is given back."""

    def __init__(self) -> None:
        super().__init__(portpicker.pick_unused_port)

    def give(self, handle: Any) -> None:
        portpicker.return_port(handle)


class PostgresqlsWay(BindClose):
    """As pytest-postgresql: a number from port-for, and a file per number, made exclusively."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, count: int) -> list[Any]:
        return [self._one() for _ in range(count)]

    def _one(self) -> int:
        tried: set[int] = set()
        while True:
            port = port_for.select_random(None, tried)
            tried.add(port)
            with contextlib.suppress(FileExistsError), self._file(port).open("x") as file:
                file.write(f"{port}\n")
                return port

    def _file(self, port: int) -> Path:
        return self.folder / f"postgresql-{port}.port"

    def give(self, handle: Any) -> None:
        self._file(handle).unlink()


class ContainersWay(BindClose):
    """As pytest_container: one lock for all, held from the search until the ports are bound."""

    def __init__(self, folder: Path) -> None:
        self.lock = FileLock(folder / "port_check.lock")

    def take(self, count: int) -> list[Any]:
        self.lock.acquire()
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(count)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            return [probe.getsockname()[1] for probe in probes]

    def listening(self, handle: Any) -> None:
        # Called for each port, after all of them listen.
        if self.lock.is_locked:
            self.lock.release()


def contenders(folder: Path) -> dict[str, tuple[Callable[[], Any], tuple[int, int]]]:
    """Return how to make each contender, and the range that its ports come from."""
    kernel = ephemeral_range()
    own = candidate_ports()
    return {
        "pytest-vmports": (lambda: Ours(folder, None), (own[0], own[-1])),
        "bind-close": (BindClose, kernel),
        "portpicker": (PortPicker, kernel),
        "ephemeral-port-reserve": (lambda: Number(ephemeral_port_reserve.reserve), kernel),
        "port-for": (lambda: Number(port_for.select_random), (1024, kernel[0] - 1)),
        "pytest-postgresql's way": (lambda: PostgresqlsWay(folder), (1024, kernel[0] - 1)),
        "pytest_container's way": (lambda: ContainersWay(folder), kernel),
    }


def warm(folder: Path) -> None:
    """Make the lock files: only the very first use of a port pays for that."""
    with PortAllocator(folder) as allocator:
        for port in allocator._ports:
            os.close(allocator._lock(f"tcp-{port}"))


def leaks_in(folder: Path) -> int:
    return locks_left(folder) + sum(1 for _ in folder.glob("*.port"))


def own_network() -> bool:
    """Move into a new network namespace with a loopback device; root only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        return False
    with socket.socket() as any_socket:
        up = struct.pack("16sh", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, up.ljust(40, b"\0"))
    return True


def one(name: str, processes: int, condition: str, seconds: float, **more: Any) -> Result:
    """Run one contender under one condition, in a process and network of its own.

    A contender may leave the kernel's table of ports full of closing connections for a minute,
    which would be counted against the next one.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            isolated = own_network()
            facts = asdict(_one(name, processes, condition, seconds, **more))
            os.write(writer, json.dumps([isolated, facts]).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - a forked process must end here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    isolated, facts = json.loads(text)
    if not isolated:
        print("  not isolated: only root may have a network namespace for each row")
    return Result(**facts)


def _one(
    name: str, processes: int, condition: str, seconds: float, until: int = 0, cold: bool = False
) -> Result:
    own = Path(tempfile.mkdtemp(dir=MEMORY))
    try:
        if name == "pytest-vmports" and not cold:
            warm(own)
        make, span = contenders(own)[name]
        strangers = [plain_stranger(*span)] * 2 if condition == "strangers" else []
        return Run(
            Plan(
                make,
                processes,
                seconds,
                COUNT,
                kills=condition == "kills",
                strangers=strangers,
                leaks=lambda: leaks_in(own),
                until=until,
            )
        ).go()
    finally:
        shutil.rmtree(own)


def reuse_after_kill(times: int) -> list[float]:
    """Return the milliseconds from SIGKILL until the port is leased again, sorted."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, PortAllocator(folder) as allocator:
        taken = []
        for _ in range(times):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                with PortAllocator(folder) as theirs:
                    os.write(writer, f"{theirs.acquire()[0].port}".encode())
                    signal.pause()
                os._exit(0)
            port = int(os.read(reader, 16))
            os.close(reader)
            os.close(writer)
            before = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            lease = None
            while lease is None:
                got = allocator._try_port(port, ("tcp",), "127.0.0.1", b"\n")
                lease = None if isinstance(got, bool) else got[0]
            taken.append((time.perf_counter() - before) * 1000)
            lease.release()
            os.waitpid(pid, 0)
    return sorted(taken)


def million(wanted: int) -> dict[str, Any]:
    """Hand out ``wanted`` ports of ours, each condition in turn, and add up."""
    total: dict[str, Any] = dict.fromkeys(
        ("hand_outs", "doubles", "failed_binds", "leaks", "kills", "seconds"), 0
    )
    for third, condition in enumerate(CONDITIONS, 1):
        left = wanted * third // 3 - total["hand_outs"]
        result = one("pytest-vmports", 8, condition, 600, until=left)
        total = {key: round(n + getattr(result, key), 1) for key, n in total.items()}
    return total


def machine() -> str:
    """Return a description of this machine without its name."""
    python = platform.python_version()
    return f"{_machine.machine()}, Python {python}, filelock {version('filelock')}"


HEAD = (
    "contender", "processes", "condition", "hand-outs", "doubles", "failed binds", "leaks",
    "kills", "p50 µs", "p99 µs",
)  # fmt: skip


PAGE = """# Leases: how safe, how fast

Written by `python benchmarks/leases.py --write docs/performance-leases.md`,
{seconds:g} s a row.

Machine: {machine}.
Times are per port, a request being for {count}. With more processes than cores they contain waiting
for a core, also for whatever else the machine did (load average at the start: {load:.0f}): compare
rows of one run. Each row has a network namespace of its own, so none inherits another's ports.

Contenders: {versions};
*bind-close* lets the kernel choose and closes the socket; the ways of pytest-postgresql and
pytest_container are rebuilt from how they work. *Strangers* are two more
processes that bind ports without `SO_REUSEADDR`, half of them in the contender's own range.
*Kills* is SIGKILL for a random process every 20 ms, and for all at the end. Times above 1 ms are
rounded to 0.1 ms, those above 100 ms are shown as 100,900. Lock files are on tmpfs.

| target | measured | |
|---|---:|---|
{targets}

Bind-close is one socket and a system call or two, and {doubles} of its hand-outs in this table were
doubles. A lease also opens, locks and checks a file, binds for both address families and writes
down its holder: that is why it takes longer than bind-close, and none of it can be left out.

{long_run}After SIGKILL of its holder a port was leased again within {median:.1f} ms (median),
{longest:.1f} ms (longest of {kills}). The very first use of a port makes its lock file; in a
directory without any, the median per port was {cold:.0f} µs. The rows below have the files.

{head}
{rows}
"""

LONG_RUN = """**{hand_outs:,} hand-outs of ours to 8 processes, a third each quiet, with
strangers and with {kills:,} kills: {doubles} doubles, {failed_binds} failed binds, {leaks} leaks.**

"""


def table(seconds: float) -> list[tuple[str, ...]]:
    """Run everything and return the rows, printing each as it comes."""
    rows = []
    names = list(ORDER)
    for processes in PROCESSES:
        for condition in CONDITIONS:
            # In turn, so that a slow minute of the machine does not fall on one contender alone.
            random.shuffle(names)
            results = {name: one(name, processes, condition, seconds) for name in names}
            for name, r in sorted(results.items(), key=lambda item: ORDER.index(item[0])):
                row = (
                    name, str(processes), condition, f"{r.hand_outs:,}", f"{r.doubles:,}",
                    f"{r.failed_binds:,}", f"{r.leaks:,}", str(r.kills), f"{r.p50:.0f}",
                    f"{r.p99:,.0f}",
                )  # fmt: skip
                print("  ".join(f"{cell:>12}" for cell in row), flush=True)
                if r.errors:
                    print(f"   {r.errors} processes ended with an error")
                rows.append(row)
    return rows


def targets(
    rows: list[tuple[str, ...]], reuse: list[float], total: dict[str, Any]
) -> Iterator[tuple[str, str, bool]]:
    """Yield each target, what was measured, and whether it was reached."""

    def row(name: str) -> tuple[str, ...]:
        return next(row for row in rows if row[:3] == (name, "8", "quiet"))

    p50, p99 = (float(cell.replace(",", "")) for cell in row(ORDER[0])[-2:])
    plain = float(row("bind-close")[-2].replace(",", ""))
    lost = sum(int(row[n].replace(",", "")) for row in rows if row[0] == ORDER[0] for n in (4, 6))
    if total:
        lost += total["doubles"] + total["leaks"]
        enough = total["hand_outs"] >= _ENOUGH
        yield "1,000,000 hand-outs in one long run", f"{total['hand_outs']:,}", enough
    yield "no double and no leak, there and in all rows", str(lost), lost == 0
    yield "median at 8 processes, quiet: ≤ 30 µs", f"{p50:.0f} µs", p50 <= _P50
    yield "p99 at 8 processes, quiet: ≤ 0.5 ms", f"{p99 / 1000:.2f} ms", p99 <= _P99
    yield "that median ≤ 1.5 × bind-close's", f"{p50 / plain:.1f} ×", p50 <= 1.5 * plain
    yield "leased again after SIGKILL: ≤ 10 ms", f"{reuse[-1]:.1f} ms", reuse[-1] <= _REUSE


def markdown(
    rows: list[tuple[str, ...]],
    reuse: list[float],
    total: dict[str, Any],
    cold: float,
    load: float,
    seconds: float,
) -> str:
    """Return the page."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("portpicker", "port-for", "ephemeral-port-reserve")
    )
    long_run = LONG_RUN.format(**total) if total else ""
    return PAGE.format(
        seconds=seconds,
        machine=machine(),
        load=load,
        count=COUNT,
        versions=versions,
        long_run=long_run,
        targets="\n".join(
            f"| {what} | {shown} | {'kept' if kept else 'missed'} |"
            for what, shown, kept in targets(rows, reuse, total)
        ),
        doubles=sum(int(row[4].replace(",", "")) for row in rows if row[0] == "bind-close"),
        median=reuse[len(reuse) // 2],
        longest=reuse[-1],
        kills=len(reuse),
        cold=cold,
        head="| " + " | ".join(HEAD) + " |\n|---|---:|---|" + "---:|" * (len(HEAD) - 3),
        rows="\n".join("| " + " | ".join(row) + " |" for row in rows),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2, help="for each of the 63 rows")
    parser.add_argument("--hand-outs", type=int, default=0, help="of ours, in one long run more")
    parser.add_argument("--write", type=Path, help="a markdown file")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(machine())
    print("  ".join(f"{cell:>12}" for cell in HEAD))
    rows = table(options.seconds)
    reuse = reuse_after_kill(200)
    print(f"reuse after SIGKILL: median {reuse[100]:.2f} ms, longest {reuse[-1]:.2f} ms")
    total = million(options.hand_outs) if options.hand_outs else {}
    if total:
        print(total)
    cold = one("pytest-vmports", 8, "quiet", min(options.seconds, 0.3), cold=True).p50
    if options.write:
        options.write.write_text(markdown(rows, reuse, total, cold, load, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())

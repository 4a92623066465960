"""One VM at a time: how long until the first byte, how long to be rid of it, how much memory."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import echo_server

from pytest_vmports.leases import PortAllocator
from pytest_vmports.pool.pool import Pool, open_pool
from pytest_vmports.settings import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.settings.far_store import FarStore
    from pytest_vmports.vm.machine import Machine

MEMORY = 256
CLONES = 10


def settings(folder: Path, **keywords: Any) -> options.Settings:
    """Return settings as a marker with these keywords would make them.

    Args:
        folder: where the guest's server is put on the host.
        keywords: settings.
    """
    wanted = {
        "expose": [echo_server.PORT], "setup": echo_server.SETUP,
        "files": echo_server.files(folder), "memory": MEMORY, "cache_size": "4G", **keywords,
    }  # fmt: skip
    return options.resolve(options.NoConfig(), wanted, "the benchmark")


class Bench:
    """A pool with a cache of its own, and a stopwatch.

    Attributes:
        folder: for what is put into guests.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool = pool
        self.folder = folder

    def start(
        self, wanted: options.Settings, following: Sequence[options.Settings] = ()
    ) -> tuple[float, Machine, Any]:
        """Return the seconds to the first byte, from before the port was leased on; the VM."""
        began = time.perf_counter()
        exposed = self.pool.lease(wanted.expose, wanted)
        guest = self.pool.guest(wanted)
        machine = self.pool.start(wanted, guest, exposed, following=following)
        first_byte(exposed[echo_server.PORT].address)
        return time.perf_counter() - began, machine, exposed

    def stop(self, machine: Machine, exposed: Any) -> float:
        """Return the seconds until nothing of the VM is left."""
        began = time.perf_counter()
        machine.finish()
        exposed.release()
        return time.perf_counter() - began

    def once(self, wanted: options.Settings, origin: str) -> tuple[float, float]:
        """Return the seconds to the first byte and those to be rid of the VM."""
        seconds, machine, exposed = self.start(wanted)
        assert str(machine.origin) == origin, f"{machine.origin}, not {origin}"
        return seconds, self.stop(machine, exposed)

    def standby(self, wanted: options.Settings) -> float:
        """Return the seconds to the first byte of a VM that was kept ready."""
        _, machine, exposed = self.start(wanted, following=[wanted])
        self.stop(machine, exposed)
        self.pool.standby.join()  # a test that is not over at once
        seconds, machine, exposed = self.start(wanted)
        assert str(machine.origin) == "standby", machine.origin
        self.stop(machine, exposed)
        return seconds


@contextlib.contextmanager
def bench(store: FarStore | None = None) -> Iterator[Bench]:
    """Yield a `Bench`; everything of it is gone afterwards.

    Args:
        store: where templates are looked for, and put; None for nowhere.
    """
    with tempfile.TemporaryDirectory() as cache, PortAllocator() as allocator:
        folder = Path(cache)
        cache_dir = folder / "cache"
        with open_pool(
            allocator, root=folder, tell=print, cache_dir=cache_dir, store=store
        ) as pool:
            yield Bench(pool, folder)


def first_byte(address: tuple[str, int]) -> None:
    """Return when the guest has echoed a byte; the first connection must do."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"


def floor(qemu: str, accelerator: str) -> float:
    """Return the seconds from the exec of QEMU to its monitor's greeting."""
    command = [
        qemu, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc",
        "-accel", accelerator, "-m", str(MEMORY), "-S", "-qmp", "stdio",
    ]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"QMP" in process.stdout.readline()
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def times(rounds: int, accelerator: str, qemu: str) -> dict[str, list[float]]:
    """Return the seconds of each kind of start, taken in turns so that all see the same machine."""
    found: dict[str, list[float]] = {
        name: [] for name in ("floor", "cold", "clone", "standby", "teardown")
    }
    with bench() as measured:
        cold = settings(measured.folder, accel=accelerator, template=False)
        clone = settings(measured.folder, accel=accelerator, prewarm=0)
        standby = settings(measured.folder, accel=accelerator, prewarm=1)
        measured.once(clone, "cloned")  # builds the template
        for _ in range(rounds):
            found["floor"].append(floor(qemu, accelerator))
            found["cold"].append(measured.once(cold, "booted")[0])
            seconds, gone = measured.once(clone, "cloned")
            found["clone"].append(seconds)
            found["teardown"].append(gone)
            found["standby"].append(measured.standby(standby))
    return found


def memory(groups: int, accelerator: str) -> list[float]:
    """Return the MiB (PSS) of the tenth of ten clones that have all answered, per group."""
    found = []
    with bench() as measured:
        wanted = settings(measured.folder, accel=accelerator, prewarm=0)
        for _ in range(groups):
            running = [measured.start(wanted)[1:] for _ in range(CLONES)]
            found.append(pss(running[-1][0].processes()[0].pid))
            for machine, exposed in running:
                measured.stop(machine, exposed)
    return found


def pss(pid: int) -> float:
    """Return a process' proportional memory in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss in smaps_rollup")


def p90(values: list[float]) -> float:
    """Return the value that a tenth of all lie above."""
    return sorted(values)[min(len(values) - 1, round(0.9 * (len(values) - 1)))]


def summary(values: list[float], scale: float = 1000) -> tuple[float, float]:
    """Return median and p90, in milliseconds unless another scale is given."""
    return median(values) * scale, p90(values) * scale

"""Processes that fight for ports, and a record of who held what that no allocator writes.

    python tests/lease_stress.py --processes 8 --seconds 60

Each worker takes ports, binds and listens on them as a server does, and gives them back. Around
that it writes its number into one slot per port of memory shared by all workers. Finding somebody
else's number in the slot, or no longer its own when it gives the port back, is a *double*. The
parent kills and stops workers at random instants; whom it kills it marks first, because a dead
worker cannot clear its slots.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import mmap
import os
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmports.errors import PortsExhaustedError
from pytest_vmports.leases import LeaseTamperedWarning, PortAllocator
from pytest_vmports.leases import allocator as port_allocator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_WORKERS = 1 << 16  # serial numbers, one for each worker ever started
MAX_LANES = 128
BUCKETS = 2000  # 1 us each below 1 ms, 100 us each above
COUNTERS = ("hand_outs", "doubles", "failed_binds", "exhausted", "errors")


class Contender(Protocol):
    """A way of getting free ports."""

    def take(self, count: int) -> list[Any]: ...
    def port(self, handle: Any) -> int: ...
    def listening(self, handle: Any) -> None: ...
    def give(self, handle: Any) -> None: ...


class Ours:
    """What this project does."""

    def __init__(self, state_dir: Path, ports: tuple[int, int] | None) -> None:
        self.allocator = PortAllocator(state_dir, ports)

    def take(self, count: int) -> list[Any]:
        return list(self.allocator.acquire(count))

    def port(self, handle: Any) -> int:
        return handle.port

    def listening(self, handle: Any) -> None:
        handle.release_guard()

    def give(self, handle: Any) -> None:
        handle.release()


class Lockless(Ours):
    """Broken on purpose: looks whether a port is free and locks nothing."""

    def __init__(self, state_dir: Path, ports: tuple[int, int] | None) -> None:
        super().__init__(state_dir, ports)
        port_allocator.lock_or_pass = lambda _name, _dir: os.open(os.devnull, os.O_RDWR)
        warnings.simplefilter("ignore", LeaseTamperedWarning)

    def take(self, count: int) -> list[Any]:
        handles = super().take(count)
        for handle in handles:
            handle.release_guard()
        return handles


class Unlinking(Ours):
    """Broken on purpose: removes the lock file as it gives the port back."""

    def __init__(self, state_dir: Path, ports: tuple[int, int] | None) -> None:
        super().__init__(state_dir, ports)
        warnings.simplefilter("ignore", LeaseTamperedWarning)

    def listening(self, handle: Any) -> None:
        handle.release_guard()
        with contextlib.suppress(FileNotFoundError):
            Path(handle._path()).unlink()


class BindClose:
    """Let the kernel choose a port, close the socket, hope."""

    def take(self, count: int) -> list[Any]:
        ports = []
        for _ in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        return ports

    def port(self, handle: Any) -> int:
        return handle

    def listening(self, handle: Any) -> None:
        pass

    def give(self, handle: Any) -> None:
        pass


@dataclass
class Result:
    """What came of a run; times in microseconds per port."""

    processes: int
    seconds: float
    hand_outs: int = 0
    doubles: int = 0
    failed_binds: int = 0
    exhausted: int = 0
    errors: int = 0
    kills: int = 0
    stops: int = 0
    leaks: int = 0
    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0


@dataclass
class Plan:
    """What a run does."""

    make: Callable[[], Contender]
    processes: int
    seconds: float
    count: int = 3
    kills: bool = False
    stops: bool = False
    strangers: Sequence[Callable[[Shared], None]] = ()
    leaks: Callable[[], int] = lambda: 0
    until: int = 0  # hand-outs after which to end early


class Shared:
    """Memory that all workers see; made before they are forked."""

    def __init__(self) -> None:
        self._maps: list[tuple[memoryview, mmap.mmap]] = []
        self.owner = self._area("I", 1 << 16)
        self.marked = self._area("B", MAX_WORKERS)
        self.counters = self._area("Q", MAX_LANES * len(COUNTERS))
        self.histogram = self._area("I", MAX_LANES * BUCKETS)
        self.stop = self._area("B", 1)

    def _area(self, code: str, items: int) -> memoryview:
        memory = mmap.mmap(-1, items * memoryview(b"\0" * 8).cast(code).itemsize)
        view = memoryview(memory).cast(code)
        self._maps.append((view, memory))
        return view

    def close(self) -> None:
        for view, memory in self._maps:
            view.release()
            memory.close()

    def add(self, lane: int, counter: str, number: int = 1) -> None:
        self.counters[lane * len(COUNTERS) + COUNTERS.index(counter)] += number

    def total(self, counter: str) -> int:
        return sum(self.counters[COUNTERS.index(counter) :: len(COUNTERS)].tolist())

    def begin(self, port: int, serial: int) -> bool:
        """Note a holder; tell whether the port was free as far as the record knows."""
        previous = self.owner[port]
        self.owner[port] = serial
        return previous == 0 or self.marked[previous] != 0

    def end(self, port: int, serial: int) -> bool:
        """Clear a holder; tell whether it was alone until now."""
        alone = self.owner[port] == serial
        if alone:
            self.owner[port] = 0
        return alone

    def timed(self, lane: int, microseconds: float, number: int) -> None:
        whole = int(microseconds)
        bucket = whole if whole < 1000 else min(1000 + (whole - 1000) // 100, BUCKETS - 1)
        self.histogram[lane * BUCKETS + bucket] += number

    def percentiles(self, *wanted: float) -> list[float]:
        sums = [sum(self.histogram[bucket::BUCKETS].tolist()) for bucket in range(BUCKETS)]
        total = sum(sums)
        found = []
        for part in wanted:
            seen, bucket = 0, 0
            while bucket < BUCKETS - 1 and seen + sums[bucket] < part * total:
                seen += sums[bucket]
                bucket += 1
            found.append(bucket + 0.5 if bucket < 1000 else 1000.0 + (bucket - 1000) * 100)
        return found


def work(shared: Shared, plan: Plan, lane: int, serial: int) -> None:
    """Take, listen, give back, until told to stop."""
    contender = plan.make()
    while not shared.stop[0]:
        before = time.perf_counter_ns()
        try:
            handles = contender.take(plan.count)
        except PortsExhaustedError:
            shared.add(lane, "exhausted")
            continue
        shared.timed(lane, (time.perf_counter_ns() - before) / 1000 / plan.count, plan.count)
        ports = [contender.port(handle) for handle in handles]
        for port in ports:
            if not shared.begin(port, serial):
                shared.add(lane, "doubles")
        shared.add(lane, "hand_outs", len(ports))
        servers = [server for port in ports if (server := _serve(shared, lane, port))]
        for handle in handles:
            contender.listening(handle)
        os.sched_yield()  # the others' turn, while we hold
        for server in servers:
            server.close()
        for port in ports:
            if not shared.end(port, serial):
                shared.add(lane, "doubles")
        for handle in handles:
            contender.give(handle)


def _serve(shared: Shared, lane: int, port: int) -> socket.socket | None:
    server = socket.socket()
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(1)
    except OSError as error:
        server.close()
        if error.errno != errno.EADDRINUSE:
            raise
        shared.add(lane, "failed_binds")
        return None
    return server


def plain_stranger(first: int, last: int) -> Callable[[Shared], None]:
    """A program that binds ports in and around the range, and ports the kernel chooses."""

    def disturb(shared: Shared) -> None:
        while not shared.stop[0]:
            with socket.socket() as server, contextlib.suppress(OSError):
                port = random.choice((0, random.randint(first - 3, last + 3)))
                server.bind(("127.0.0.1", port))
                server.listen(1)
                os.sched_yield()

    return disturb


def reusing_stranger(first: int, last: int) -> Callable[[Shared], None]:
    """A program that sets SO_REUSEADDR and listens inside the range: the one that can hurt."""

    def disturb(shared: Shared) -> None:
        while not shared.stop[0]:
            with socket.socket() as server, contextlib.suppress(OSError):
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("127.0.0.1", random.randint(first, last)))
                server.listen(1)
                os.sched_yield()

    return disturb


def connecting_stranger(first: int, last: int) -> Callable[[Shared], None]:
    """A program that connects to ports in the range, whoever is there."""

    def disturb(shared: Shared) -> None:
        while not shared.stop[0]:
            with socket.socket() as client, contextlib.suppress(OSError):
                client.settimeout(0.2)
                client.connect(("127.0.0.1", random.randint(first, last)))

    return disturb


def locks_left(state_dir: Path) -> int:
    """Count lock files that somebody still has locked, without asking the allocator."""
    left = 0
    for path in state_dir.rglob("tcp-*"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left += 1
    return left


class Run:
    """Starts, kills, stops and reaps the processes of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shared = Shared()
        self.result = Result(plan.processes, plan.seconds)
        self.lanes: dict[int, tuple[int, int]] = {}  # lane -> pid, serial
        self.strangers: list[int] = []
        self.serial = 0

    def go(self) -> Result:
        self.strangers = [
            self._fork(lambda act=act: act(self.shared)) for act in self.plan.strangers
        ]
        for lane in range(self.plan.processes):
            self._start(lane)
        end = time.monotonic() + self.plan.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.02, left))
            if self.plan.kills:
                self._kill(random.choice(list(self.lanes)))
            if self.plan.stops:
                self._stop_for_a_while(random.choice(list(self.lanes)))
            if self.plan.until and self.shared.total("hand_outs") >= self.plan.until:
                break
        self.result.seconds = round(time.monotonic() - end + self.plan.seconds, 1)
        return self._finish()

    def _fork(self, action: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            random.seed()
            action()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # noqa: BLE001 - a forked worker must end here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _start(self, lane: int) -> None:
        self.serial += 1
        serial = self.serial
        self.lanes[lane] = (
            self._fork(lambda: work(self.shared, self.plan, lane, serial)),
            serial,
        )

    def _kill(self, lane: int) -> None:
        if self.serial + 1 >= MAX_WORKERS:
            return
        pid, serial = self.lanes[lane]
        self.shared.marked[serial] = 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.result.kills += 1
        self._start(lane)

    def _stop_for_a_while(self, lane: int) -> None:
        pid, _ = self.lanes[lane]
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        seen = self.shared.total("hand_outs")
        deadline = time.monotonic() + 1
        # Others go on while its leases are held.
        while self.shared.total("hand_outs") < seen + 100 and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(pid, signal.SIGCONT)
        self.result.stops += 1

    def _finish(self) -> Result:
        result = self.result
        if self.plan.kills:  # nobody ends in order
            for lane in list(self.lanes):
                pid, serial = self.lanes.pop(lane)
                self.shared.marked[serial] = 1
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                result.kills += 1
        self.shared.stop[0] = 1
        for pid in [*(pid for pid, _ in self.lanes.values()), *self.strangers]:
            if os.waitpid(pid, 0)[1]:
                result.errors += 1
        for counter in COUNTERS:
            setattr(result, counter, getattr(result, counter) + self.shared.total(counter))
        result.p50, result.p99, result.worst = self.shared.percentiles(0.5, 0.99, 1.0)
        result.leaks = self.plan.leaks()
        self.shared.close()
        return result


@contextlib.contextmanager
def temporary_dir(given: str | None) -> Iterator[Path]:
    if given:
        yield Path(given)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


VARIANTS = {"ours": Ours, "lockless": Lockless, "unlinking": Unlinking}
STRANGERS = {
    "plain": plain_stranger,
    "reusing": reusing_stranger,
    "connecting": connecting_stranger,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Let processes fight for ports.")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=3, help="ports per request")
    parser.add_argument("--ports", type=int, nargs=2, default=(14000, 14400), metavar="N")
    parser.add_argument("--state-dir")
    parser.add_argument("--variant", choices=VARIANTS, default="ours")
    parser.add_argument("--strangers", nargs="*", choices=STRANGERS, default=[])
    parser.add_argument("--kills", action="store_true")
    parser.add_argument("--stops", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first, last = options.ports
    with temporary_dir(options.state_dir) as state_dir:
        plan = Plan(
            lambda: VARIANTS[options.variant](state_dir, (first, last)),
            options.processes,
            options.seconds,
            options.count,
            kills=options.kills,
            stops=options.stops,
            strangers=[STRANGERS[name](first, last) for name in options.strangers],
            leaks=lambda: locks_left(state_dir),
        )
        facts = asdict(Run(plan).go())
    print(json.dumps(facts) if options.json else "\n".join(f"{k:13}{v}" for k, v in facts.items()))
    return 1 if facts["doubles"] or facts["leaks"] or facts["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())

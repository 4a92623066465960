"""How fast is each kind of guest: the bundled one, a Debian with servers, three VMs on a network?

    python benchmarks/guests.py [--rounds N] [--only NAME ...] [--against CHECKOUT]
                                [--suite TESTS] [--write docs/performance.md]

Builds a Debian disk first, where there is none yet (some minutes, on Debian and as root or where
user namespaces are allowed); then takes about eight minutes. Let nothing else run meanwhile.
`--suite` runs that many tests against the Debian, whose template is built; with `--against` another
checkout of this project does too, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import _machine
import _single
import debian_image
import echo_server

from pytest_vmports import Guest
from pytest_vmports.system.programs import choose_accel, find_qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vmports.pool.handle import VM
    from pytest_vmports.settings.options import Settings

HERE = Path(__file__).resolve().parent
GUESTS = ("bundled", "debian", "network")
MEMBERS = 3
MEGABYTE = 1_000_000
MEGABYTES = 100
RUNS = 20
IN, OUT = 8081, 8082
TRAFFIC = f"""
nc -lk -p {OUT} -e dd if=/dev/zero bs=65536 count=1000 2>/dev/null &
nc -lk -p {IN} -e sh -c 'dd of=/dev/null bs=64k 2>/dev/null; echo done' &
"""
MEMORY = {"bundled": 512, "debian": 768, "network": 256}
WHAT = {
    "floor": "QEMU's own start (floor), ms",
    "cold": "cold, ms",
    "clone": "clone, ms",
    "ready": "kept ready, ms",
    "stop": "stop, ms",
    "run": '`vm.run("true")`, ms',
    "first run": "kept ready, first `vm.run`, ms",
    "put": "`vm.put` of 100 MB, MB/s",
    "get": "`vm.get` of 100 MB, MB/s",
    "in": "a forward into the guest, MB/s",
    "out": "a forward out of it, MB/s",
    "memory": "memory of a clone (PSS), MiB",
}


class Kind(NamedTuple):
    """A kind of guest, and how its first byte is had."""

    settings: Callable[..., Settings]
    guest: Guest | None
    first_byte: Callable[[VM], None]
    members: int = 1


def echoes(vm: VM) -> None:
    """Return when the guest's server has echoed a byte."""
    _single.first_byte(vm[echo_server.PORT].address)


def serves(vm: VM) -> None:
    """Return when nginx has served a page."""
    host, port = vm[80].address
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == http.client.OK
    connection.close()


def kinds(folder: Path) -> dict[str, Kind]:
    """Return the kinds of guests.

    Args:
        folder: for what is put into them.
    """
    setup = echo_server.SETUP + TRAFFIC

    def bundled(**words: Any) -> Settings:
        ports = [echo_server.PORT, IN, OUT]
        words = {"memory": MEMORY["bundled"], "expose": ports, **words}
        return _single.settings(folder, setup=setup, wait_for=[echo_server.PORT], **words)

    def debian(**words: Any) -> Settings:
        words = {"setup": None, "files": None, "wait_for": "80/", "boot_timeout": 600, **words}
        return _single.settings(folder, **words, expose=[80], memory=MEMORY["debian"])

    def network(**words: Any) -> Settings:
        return _single.settings(folder, network="lan", **words)

    found = {
        "bundled": Kind(bundled, None, echoes),
        "network": Kind(network, None, echoes, MEMBERS),
    }
    if not debian_image.missing():
        disk = Guest.disk(
            debian_image.image("services").disk, firmware="uefi", memory=MEMORY["debian"],
            user_data={"locale": False}, ssh=True,
        )  # fmt: skip
        found["debian"] = Kind(debian, disk, serves)
    return found


@contextlib.contextmanager
def started(
    measured: _single.Bench, kind: Kind, wanted: Settings, following: int = 0
) -> Iterator[tuple[float, list[VM]]]:
    """Yield the seconds until each of a kind's VMs has sent its first byte, and the VMs.

    Args:
        measured: has them started.
        kind: their kind.
        wanted: their settings.
        following: how many more like them are to be kept ready.
    """
    with contextlib.ExitStack() as stack:
        began, vms = time.perf_counter(), []
        for left in reversed(range(kind.members)):
            wanted_next = [wanted] * (left + following)
            one = measured.pool.vm(wanted, kind.guest, following=wanted_next)
            vms.append(stack.enter_context(one))
            kind.first_byte(vms[-1])
        yield time.perf_counter() - began, vms


def starts(measured: _single.Bench, kind: Kind, rounds: int, found: dict[str, list[float]]) -> None:
    """Measure the ways to a VM in turns, and what it takes to be rid of it."""
    qemu = find_qemu()
    accelerator = choose_accel("auto", qemu.path).name
    clone, keep = kind.settings(prewarm=0), kind.settings(prewarm=kind.members)
    with started(measured, kind, clone):  # builds the template
        pass
    for number in range(rounds):
        found["floor"].append(_single.floor(qemu.path, accelerator) * 1e3)
        if number < (1 if kind.guest is not None else rounds):
            with started(measured, kind, kind.settings(template=False)) as (seconds, _):
                found["cold"].append(seconds * 1e3)
        with started(measured, kind, clone) as (seconds, vms):
            found["clone"].append(seconds * 1e3)
            found["memory"].append(_single.pss(vms[-1].pids["QEMU"]))
            ended = time.perf_counter()
        found["stop"].append((time.perf_counter() - ended) * 1e3)
        with started(measured, kind, keep, kind.members):
            pass
        measured.pool.standby.join()
        with started(measured, kind, keep) as (seconds, vms):
            if all(vm.origin == "standby" for vm in vms):
                found["ready"].append(seconds * 1e3)
                began = time.perf_counter()
                vms[0].run("true")
                found["first run"].append((time.perf_counter() - began) * 1e3)


def inside(measured: _single.Bench, kind: Kind, found: dict[str, list[float]]) -> None:
    """Measure commands and copies in one clone, and what its forwards carry."""
    file, back = measured.folder / "file", measured.folder / "back"
    file.write_bytes(os.urandom(MEGABYTE) * MEGABYTES)
    with started(measured, kind, kind.settings(prewarm=0)) as (_, (vm, *_)):
        vm.run("true")
        for _ in range(RUNS):
            began = time.perf_counter()
            vm.run("true")
            found["run"].append((time.perf_counter() - began) * 1e3)
        for _ in range(3):
            began = time.perf_counter()
            vm.put(file, "/root/file", timeout=600)
            found["put"].append(MEGABYTES / (time.perf_counter() - began))
            back.unlink(missing_ok=True)
            began = time.perf_counter()
            vm.get("/root/file", back, timeout=600)
            found["get"].append(MEGABYTES / (time.perf_counter() - began))
            assert back.read_bytes() == file.read_bytes()
            vm.run("rm /root/file")
            if kind.guest is None:
                traffic(vm, found)


def traffic(vm: VM, found: dict[str, list[float]]) -> None:
    """Measure what the forwards carry."""
    left = total = 1000 << 16
    with vm.connect(IN, timeout=120) as connection:
        began = time.perf_counter()
        connection.sendall(bytes(total))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(8)
        found["in"].append(total / MEGABYTE / (time.perf_counter() - began))
    with vm.connect(OUT, timeout=120) as connection:
        began = time.perf_counter()
        while left > 0 and (data := connection.recv(1 << 18)):
            left -= len(data)
        found["out"].append((total - left) / MEGABYTE / (time.perf_counter() - began))


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Return what a kind of guest was measured at."""
    found: dict[str, list[float]] = {what: [] for what in WHAT}
    with _single.bench() as measured:
        kind = kinds(measured.folder)[name]
        starts(measured, kind, rounds, found)
        if kind.members == 1:
            inside(measured, kind, found)
    return found


def in_child(checkout: Path, *words: str) -> Any:
    """Return what this script prints with a checkout's package."""
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True, text=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


SUITE = """
import http.client
import debian_image, pytest
from pytest_vmports import Guest

@pytest.fixture(scope="session")
def vmports_guest():
    return Guest.disk(
        debian_image.image("services").disk, firmware="uefi", memory={memory},
        user_data={{"locale": False}}, ssh=True,
    )

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.vmports(80, wait_for="80/", boot_timeout=600)
def test_servers(vm_with_ports, number):
    host, port = vm_with_ports[80].address
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    assert vm_with_ports.run("ls /var/run/postgresql").stdout
"""


def suite(tests: int) -> float:
    """Return the seconds of a suite against a Debian whose template is built."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VMPORTS_")}
        paths = (environment.get("PYTHONPATH"), str(HERE.parent / "tests"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "--vmports-cache-dir", "cache",
        ]  # fmt: skip
        seconds = 0.0
        for count, workers in ((1, 0), (tests, 2)):
            text = SUITE.format(tests=count, memory=MEMORY["debian"])
            Path(folder, "test_suite.py").write_text(text)
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "-n", str(workers)], cwd=folder, env=environment, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            if not re.search(rf"\b{count} passed", done.stdout):
                raise RuntimeError(f"the suite failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def parsed() -> argparse.Namespace:
    """Return the options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--only", choices=GUESTS, nargs="*", default=list(GUESTS))
    options.add_argument("--suite", type=int, default=0, metavar="TESTS")
    options.add_argument("--against", type=Path, metavar="CHECKOUT")
    options.add_argument("--write", type=Path, help="a markdown file with a place for the table")
    options.add_argument("--one", help=argparse.SUPPRESS)
    return options.parse_args()


def shown(values: list[float]) -> str:
    """Return a median, and how often it was measured."""
    if not values:
        return "–"
    middle = median(values)
    return f"{middle:,.0f} ({len(values)})" if middle >= 100 else f"{middle:,.1f} ({len(values)})"


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the table as a page has it: a row for each thing, a column for each guest."""
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for what, said in WHAT.items():
        if any(values[what] for values in found.values()):
            cells = " | ".join(shown(values[what]) for values in found.values())
            lines.append(f"| {said} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each guest in a process of its own, and print a table."""
    options = parsed()
    if options.one == "suite":
        print(json.dumps(suite(options.suite)))
        return
    if options.one is not None:
        print(json.dumps(measure(options.one, options.rounds)))
        return
    qemu = find_qemu()
    version = ".".join(map(str, qemu.version))
    accelerator = choose_accel("auto", qemu.path).name
    ran_on = f"{_machine.machine()}, QEMU {version} ({accelerator})"
    print(f"{ran_on}, Python {platform.python_version()}", flush=True)
    found: dict[str, dict[str, list[float]]] = {}
    for name in options.only:
        found[name] = in_child(HERE.parent, "--one", name, "--rounds", str(options.rounds))
        print(table(found), flush=True)
    checkouts = {"": HERE.parent}
    if options.against is not None:
        checkouts = {"before: ": options.against.resolve(), **checkouts}
    if options.suite:
        for before, checkout in checkouts.items():
            seconds = in_child(checkout, "--one", "suite", "--suite", str(options.suite))
            print(f"{before}{options.suite} tests against the Debian: {seconds:.1f} s", flush=True)
    if options.write:
        text = f"Measured on {ran_on}, Python {platform.python_version()}.\n\n{table(found)}"
        _machine.put(options.write, "guests", text)


if __name__ == "__main__":
    main()

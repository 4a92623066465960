"""What the tests with real VMs share: servers for the guest, clients, and looking at processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pytest_vmports.errors import ForwardError, PortError
from pytest_vmports.leases import PortAllocator
from pytest_vmports.system import clock
from pytest_vmports.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from debian_image import DebianImage

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.settings.options import Settings

# The settings of a marker that lead to each wiring.
WIRINGS: dict[str, dict[str, Any]] = {"usernet": {}, "gvproxy": {"allow_network": True}}

# What `vm.origin` may be of a VM that was not booted: whether the last one came early enough to
# be kept ready for the next depends on how busy the host is.
FROM_TEMPLATE = {"cloned", "standby"}


def debian_words(debian: DebianImage) -> dict[str, Any]:
    """Return what `Guest.disk` is told beside the image by all tests that need any Debian."""
    data = {
        "locale": False,
        "write_files": [{"path": "/root/hello", "content": "from cloud-init"}],
    }
    return {"memory": 512, "user_data": data, "ssh": True, "agent": True, **debian.direct}


# A package whose service answers, and what starts it as OpenRC does.
PACKAGE = """
set -e
mkdir -p tree/usr/bin tree/etc/init.d
printf '#!/bin/sh\\nexec nc -lk -p 9000 -e echo it is installed\\n' >tree/usr/bin/hello-server
printf '#!/sbin/openrc-run\\ncommand=/usr/bin/hello-server\\ncommand_background=true\\n'\
'pidfile=/run/hello.pid\\n' >tree/etc/init.d/hello
chmod 755 tree/usr/bin/hello-server tree/etc/init.d/hello
mkdir -p repo/x86_64
apk mkpkg -F tree -I name:hello -I version:1.0-r0 -I arch:x86_64 -o repo/x86_64/hello-1.0-r0.apk
apk mkndx --allow-untrusted -o repo/x86_64/Packages.adb repo/x86_64/*.apk
"""


# A shell loop: busybox's nc serves one UDP peer, so each datagram gets an nc of its own. A server
# that reads byte by byte, as the shell's `read` does, would lose the rest of a datagram.
_UDP_ECHO = "while :; do nc -u -l -p {port} -e dd bs=2048 count=1; done 2>/dev/null &"
_TCP_ECHO = "nc -lk -p {port} -e cat &"


def fixed_port() -> int:
    """Return a host port to ask for by number, which no test of another process asks for.

    It lies below those that leases are chosen from. Not from `random`, whose seed is shared by all
    workers of a run.
    """
    while True:
        port = 15000 + secrets.randbelow(4000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def serve(*ports: int | str) -> str:
    """Return shell text that echoes on these guest ports."""
    texts = []
    for port in ports:
        number, _, protocol = str(port).partition("/")
        texts.append((_UDP_ECHO if protocol == "udp" else _TCP_ECHO).format(port=number))
    return "\n".join([*texts, ""])


def ask_tcp(vm: VM, port: int | str, data: bytes) -> bytes:
    """Return the guest's answer on the first connection made: nothing is tried twice."""
    with vm.connect(port) as connection:
        connection.sendall(data)
        return connection.recv(len(data))


def ask_udp(vm: VM, port: int, data: bytes) -> bytes:
    """Return the guest's answer; a datagram without one is sent again, as UDP demands."""
    with vm.connect(port, protocol="udp", timeout=1) as connection:
        for _ in range(10):
            with contextlib.suppress(TimeoutError):
                connection.send(data)
                return connection.recv(4096)
    pytest.fail(f"no answer from {vm[f'{port}/udp']}")


def listening(pid: int) -> set[tuple[str, str, int]]:
    """Return protocol, address and port of every socket by which strangers reach a process."""
    return {
        ("tcp" if s.type == socket.SOCK_STREAM else "udp", s.laddr.ip, s.laddr.port)
        for s in psutil.net_connections("inet")
        # Who is connected hears nobody else.
        if s.pid == pid
        and (s.status == psutil.CONN_LISTEN or (s.type == socket.SOCK_DGRAM and not s.raddr))
    }


def addresses(ports: Iterable[ExposedPort]) -> set[tuple[str, str, int]]:
    """Return what `listening` should show for these forwards."""
    return {(port.protocol, port.host, port.external) for port in ports}


def until(condition: Callable[[], Any], seconds: float, what: Callable[[], str] | str) -> None:
    """Wait for something that another process does, and fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)


@contextlib.contextmanager
def stranger(port: ExposedPort) -> Iterator[None]:
    """Take a forward's host port as only a program that sets ``SO_REUSEADDR`` can."""
    tcp = port.protocol == "tcp"
    with socket.socket(type=socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as taker:
        if tcp:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(port.address)
        if tcp:
            taker.listen()
        yield


def programs_of(wiring: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings that choose a wiring's program; without that, the test ends.

    Args:
        wiring: its name, which begins as ``gvproxy 0.8.9`` or ``passt``, or needs none.
        request: the test's.
    """
    kind, *more = wiring.replace(",", "").split()
    if kind == "passt":
        request.getfixturevalue("passt")
    if kind != "gvproxy":
        return {}
    return {"gvproxy": str(request.getfixturevalue("gvproxy_" + more[0].replace(".", "")))}


@contextlib.contextmanager
def where_strangers_are(boot: Callable[..., Any], *ports: Any, **settings: Any) -> Iterator[VM]:
    """Yield a VM whose first host ports strangers have taken, so that it was given others."""
    first: list[ExposedPort] = []
    with contextlib.ExitStack() as takers:

        def meanwhile(exposed: ExposedPorts) -> None:
            first.extend(exposed.ports)
            for port in exposed:
                takers.enter_context(stranger(port))

        with boot(*ports, meanwhile=meanwhile, **settings) as vm:
            assert addresses(vm.ports).isdisjoint(addresses(first))
            yield vm


def assert_a_stranger_is_named(
    boot: Callable[..., Any], protocol: str, *more: Any, **settings: Any
) -> None:
    """Have a stranger take a VM's fixed host port, and see that the error names it."""
    port = fixed_port()
    with contextlib.ExitStack() as stack:
        vm = boot(
            f"{port}:8080/{protocol}", *more, **settings,
            meanwhile=lambda exposed: stack.enter_context(stranger(exposed[8080])),
        )  # fmt: skip
        with pytest.raises(ForwardError) as caught:
            stack.enter_context(vm)
    assert (caught.value.port, caught.value.protocol) == (port, protocol)
    assert f"host port {port}/{protocol} on 127.0.0.1" in str(caught.value)


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie that its parent has not reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remains(pids: Iterable[int], ports: Iterable[tuple[str, int]]) -> list[str]:
    """Return what is left of a VM: processes that run, and ports that cannot be had."""
    processes = [f"process {pid}" for pid in pids if alive(pid)]
    return processes + [trouble for port in ports if (trouble := _trouble_with(*port))]


def _trouble_with(protocol: str, port: int) -> str:
    try:
        with PortAllocator() as allocator:
            allocator.acquire_fixed(port, protocol=protocol, timeout=0)
    except PortError as error:
        return str(error)
    return ""


def assert_gone(story: dict[str, Any], seconds: float) -> None:
    """Fail when something of the VM in ``story`` is there ``seconds`` from now."""
    pids = story["pids"].values()
    ports = [(protocol, port) for protocol, port in story["ports"]]
    try:
        until(lambda: not remains(pids, ports), seconds, lambda: str(remains(pids, ports)))
    finally:
        for pid in filter(alive, pids):  # a failing test must not leave them to the machine
            os.kill(pid, signal.SIGKILL)


def unstarted(pool: Pool, settings: Settings, exposed: ExposedPorts) -> Machine:
    """Return the machine that settings describe, not started."""
    plan = pool.plan(settings, pool.guest(settings)).with_forwards(exposed.ports)
    return pool.launcher.machine(plan, leased=exposed.since)


def count_boots_from(words: str) -> None:
    """Let the seconds of every ``boot_timeout`` begin when the guest's console has these words.

    So a timeout that shall run out can be short, however long the host takes to get there.
    """
    real = Machine.wait_ready

    def wait_ready(machine: Machine) -> None:
        until(lambda: words in machine.console.text(), 120, machine.console.text)
        machine.milestones.start = clock.now()
        real(machine)

    Machine.wait_ready = wait_ready


def complaints(machine: Machine) -> list[str]:
    """Return the lines of QEMU's own output that somebody should mend."""
    said = machine.processes()[0].output.lower().splitlines()
    # The hub of the host's services joins two networks and has no card, on purpose.
    said = [line for line in said if "hub 1 with no nics" not in line]
    return [line for line in said if "deprecated" in line or "warning" in line]


# A guest that does what a test tells it: `ask_shell` is its other side.
SHELL_PORT = 7777
SHELL = f"nc -lk -p {SHELL_PORT} -e sh &\n"
# What most guests run: with one setup, one saved guest of each wiring serves all their tests.
GUEST = SHELL + serve(8080, 9090, "5353/udp") + "echo set up\n"


def ask_shell(vm: VM, command: str, timeout: float = 60) -> str:
    """Return what a command writes in a guest whose setup holds `SHELL`."""
    with vm.connect(SHELL_PORT, timeout=timeout) as connection:
        connection.sendall(f"({command}) </dev/null 2>&1; exit\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@contextlib.contextmanager
def host_service(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a server on the host's loopback and yield its port.

    Args:
        serve: given each connection, in a thread of its own.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def echo(connection: socket.socket) -> None:
    """Send back what came, when the other side has said all.

    Not before: busybox's nc does not read while it cannot write, so both could wait for each other.
    """
    connection.sendall(b"".join(iter(lambda: connection.recv(65536), b"")))


def ask_on(vm):
    """Ask one thing after the other of a VM, until one raises."""
    while True:
        vm.run("true")
        vm.pause()
        vm.resume()
        vm.expose(9090)
        vm.unexpose(9090)

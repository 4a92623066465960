"""``python -m pytest_vmports.leases``: leases for any command, and who holds what."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import VmPortsError
from pytest_vmports.leases.free_ports import open_allocator
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.reader import to_reader
from pytest_vmports.system.signals import heeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_vmports.leases.lease import PortLease

# What a shell answers for a command that is not there, or is there and does not start.
_NOT_FOUND = 127
_NOT_STARTED = 126
_SIGNALLED = 128

_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# The terminal sends these to all programs in its foreground, so to the command as well.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return to_reader(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.action == "list":
            return list_leases()
        return run(options.command, options.port, udp=options.udp, guard=options.guard)
    except VmPortsError as error:
        print(f"pytest-vmports: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1


def list_leases() -> int:
    """Print who holds what."""
    for port, holder in held_ports():
        print(printable(f"{port}  {holder}"))  # noqa: T201 - the answer
    return 0


def held_ports() -> list[tuple[str, str]]:
    """Return host port and holder, as text, of all leases of this user, sorted by port.

    Raises:
        StateDirError: the directory of the lock files cannot be used.
    """
    with open_allocator() as allocator:
        return [
            (f"{info.host}:{info.port}/{info.protocol}", info.describe())
            for info in allocator.leases()
        ]


def run(command: Sequence[str], names: Sequence[str], *, udp: bool, guard: bool) -> int:
    """Run ``command`` with ``{NAME}`` replaced by leased ports; hold them until it ends.

    The command inherits the leases, so they last as long as it does, even if we are killed.

    Args:
        command: the program and its arguments.
        names: one name per port that is wanted.
        udp: the ports are for UDP.
        guard: keep strangers off until the command ends. A server that does not set
            ``SO_REUSEADDR`` cannot bind then.

    Returns:
        The command's exit code; 128 + N when signal N ended it; 126 or 127 when it did not start.

    Raises:
        PortError: as `PortAllocator.acquire`.
    """
    with open_allocator() as allocator:
        names = list(dict.fromkeys(names))
        leases = allocator.acquire(
            len(names), protocol="udp" if udp else "tcp", label=" ".join(command)
        )
        ports = dict(zip(names, leases, strict=True))
        if not guard:
            for lease in leases:
                lease.release_guard()
        signals = _Forwarder()
        try:
            child = _start(command, ports)
        except FileNotFoundError as error:
            return _not_started(error, _NOT_FOUND)
        except OSError as error:
            return _not_started(error, _NOT_STARTED)
        with child:
            signals.aim_at(child)
            code = child.wait()
    return code if code >= 0 else _SIGNALLED - code


def fill_in(text: str, ports: Iterable[tuple[str, int]]) -> str:
    """Replace each ``{NAME}``; other braces stay, as those of JSON."""
    for name, port in ports:
        text = text.replace(f"{{{name}}}", str(port))
    return text


def _start(command: Sequence[str], ports: dict[str, PortLease]) -> subprocess.Popen[bytes]:
    numbers = {name: lease.port for name, lease in ports.items()}
    return subprocess.Popen(
        [fill_in(word, numbers.items()) for word in command],
        env=os.environ | {f"VMPORTS_PORT_{name}": str(port) for name, port in numbers.items()},
        pass_fds=[lease.fileno() for lease in ports.values()],
    )


class _Forwarder:
    """Passes signals on to the command; those that come before it runs, as soon as it does."""

    def __init__(self) -> None:
        # Before the command is started: one that came between would end us and not the command.
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        for number in heeded(_FORWARDED):
            signal.signal(number, self._arrived)

    def aim_at(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        while self._early:
            child.send_signal(self._early.pop(0))

    def _arrived(self, number: int, _frame: Any) -> None:
        if number in _FROM_TERMINAL and _in_foreground():
            return
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        # No terminal, or no stdin at all.
        return False


def _not_started(error: OSError, code: int) -> int:
    print(f"pytest-vmports: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pytest_vmports.leases", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="show who holds which port")
    runner = actions.add_parser("run", help="hold ports for as long as a command runs")
    runner.add_argument(
        "--port",
        action="append",
        required=True,
        metavar="NAME",
        help="a port to lease; {NAME} in the command and $VMPORTS_PORT_NAME are its number",
    )
    runner.add_argument("--udp", action="store_true", help="the ports are for UDP")
    runner.add_argument(
        "--guard",
        action="store_true",
        help="keep other programs off until the command ends; the command's server must set"
        " SO_REUSEADDR, as most do",
    )
    runner.add_argument("command", nargs="+", metavar="CMD", help="after --, the command")
    return parser

"""``pytest-vmports ports | doctor``: who holds which port, and what this machine can do."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_vmports.errors import HostError, VmPortsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 well, 1 something is missing or wrong."""
    parser = argparse.ArgumentParser("pytest-vmports", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ports = commands.add_parser("ports", help="list the host ports that tests hold now")
    ports.set_defaults(run=_ports)
    doctor = commands.add_parser("doctor", help="say what works here and what is missing")
    doctor.set_defaults(run=_doctor)
    options = parser.parse_args(arguments)
    try:
        return int(options.run())
    except VmPortsError as error:
        sys.stderr.write(f"pytest-vmports: {error}\n")
        return 1


def _ports() -> int:
    from pytest_vmports.leases import PortAllocator

    with PortAllocator() as allocator:
        for info in allocator.leases():
            sys.stdout.write(f"{info.host}:{info.port}/{info.protocol}  {info.describe()}\n")
    return 0


def _doctor() -> int:
    from pytest_vmports.guests.alpine import find_images
    from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu

    checks: dict[str, Callable[[], object]] = {
        "QEMU": find_qemu,
        "accelerator": lambda: choose_accel("auto", find_qemu().path),
        "gvproxy": find_gvproxy,
        "bundled guest": lambda: find_images()[0],
    }
    answers = [_answer(name, check) for name, check in checks.items()]
    return 0 if all(answers) else 1


def _answer(name: str, check: Callable[[], object]) -> bool:
    try:
        sys.stdout.write(f"{name}: {check()}\n")
    except HostError as error:
        sys.stdout.write(f"{name}: {error}\n")
        return False
    return True

"""``pytest-vmports``: ports held now, what works here, saved guests, a VM from the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_vmports.cli import tables
from pytest_vmports.cli.refusal import refuse
from pytest_vmports.errors import VmPortsError
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.reader import to_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

# Settings that ``run`` takes; all others by their environment variables.
_RUN_SETTINGS = (
    "guest", "allow_network", "setup", "files", "kernel", "initrd", "append", "memory", "cpus",
    "accel", "wait_for", "boot_timeout", "fresh_boot",
)  # fmt: skip
_SWITCHES = {"fresh_boot"}
# The same, and with a value another one.
_SWITCHES_OR_MORE = {"allow_network"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status.

    0: well; 1: something is wrong; 2: no VM can be started, or the command is misspelled.
    """
    return to_reader(lambda: _main(arguments))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the words of a command."""
    parser = argparse.ArgumentParser("pytest-vmports", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ports = commands.add_parser("ports", help="list the host ports that tests hold now")
    ports.set_defaults(run=lambda _: _ports())
    doctor = commands.add_parser("doctor", help="say what works here and what is missing")
    doctor.add_argument("--boot", action="store_true", help="also start a VM, and time it")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)
    _add_run(commands.add_parser("run", help="start a VM and show its console until Ctrl-C"))
    cache = commands.add_parser("cache", help="list, remove, or move the saved states of guests")
    cache.add_argument(
        "action", choices=("list", "clear", "export", "import"),
        help="clear removes those not in use; export FILE [KEY ...] and import FILE move them",
    )  # fmt: skip
    cache.add_argument("words", nargs="*", metavar="FILE or KEY", help="see export and import")
    cache.add_argument(
        "--cache-dir", metavar="DIR",
        help="where they are kept, if not in the user's cache folder",
    )  # fmt: skip
    cache.set_defaults(run=_cache)
    _add_report(commands.add_parser("report", help="join what the runs of shards have told"))
    ci = commands.add_parser("ci", help="print what a CI runs this project's tests with VMs by")
    ci.add_argument("kind", choices=("github", "gitlab"))
    ci.add_argument("--shards", type=int, default=2, help="on how many machines, by pytest-split")
    ci.set_defaults(run=_ci)
    images = commands.add_parser("images", help="list, fetch or remove disk images")
    images.add_argument(
        "action", choices=("list", "pull", "clear"), help="clear removes those not in use"
    )
    images.add_argument(
        "names", nargs="*", metavar="NAME", help="to pull: as debian-13, or an address"
    )
    images.add_argument(
        "--sha256", metavar="DIGITS", help="what the one that is pulled has to have"
    )
    images.add_argument(
        "--arch",
        metavar="NAME",
        help="of the VMs, by QEMU's name; else its own",
    )
    images.set_defaults(run=_images)
    kept = commands.add_parser("kept", help="list or stop the VMs that --vmports-keep left alive")
    kept.add_argument("action", nargs="?", choices=("list", "stop"), default="list")
    kept.add_argument("names", nargs="*", metavar="NAME", help="which to stop; all for all")
    kept.set_defaults(run=_kept)
    explain = commands.add_parser("explain", help="say what an error means, and what to do")
    explain.add_argument("name", nargs="?", metavar="NAME", help="as messages end with; none: all")
    explain.set_defaults(run=_explain)
    return parser


def _main(arguments: Sequence[str] | None) -> int:
    options = command_line().parse_args(arguments)
    try:
        return int(options.run(options))
    except VmPortsError as error:
        sys.stderr.write(f"pytest-vmports: {error}\n")
        return 1


def _explain(options: argparse.Namespace) -> int:
    from pytest_vmports.cli.explain import explain

    return explain(options.name)


def _ports() -> int:
    from pytest_vmports.leases.cli import held_ports

    tables.write(held_ports())
    return 0


def _images(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import images

    return images.run(options)


def _doctor(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import doctor

    return doctor.show(doctor.examine(boot=options.boot), as_json=options.json)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("merge",))
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="of --vmports-timeline or --vmports-report"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="for their timeline: ends in .html, .svg or .json"
    )
    parser.add_argument("--report", metavar="FILE", help="for their report: ends in .json")
    parser.set_defaults(run=_report)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", action="append", default=[], metavar="PORT",
        help="guest port to forward, e.g. 8080, 3000:80, 53/udp; again for more",
    )  # fmt: skip
    for name in _RUN_SETTINGS:
        flag = f"--{name.replace('_', '-')}"
        if name in _SWITCHES:
            parser.add_argument(flag, action="store_const", const="yes", help=_help_of(name))
        elif name in _SWITCHES_OR_MORE:
            parser.add_argument(flag, nargs="?", const="yes", metavar="LIST", help=_help_of(name))
        else:
            parser.add_argument(flag, metavar="VALUE", help=_help_of(name))
    parser.add_argument(
        "--raw", action="store_true",
        help="write the console as it is, control sequences and all: for guests that you trust",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _help_of(name: str) -> str:
    from pytest_vmports.settings.table import BY_NAME

    return BY_NAME[name].help.replace("%", "%%")


def _run(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import run

    return run.run(options)


def _kept(options: argparse.Namespace) -> int:
    from pytest_vmports.pool.kept import all_kept, strays

    for line in strays():
        sys.stderr.write(f"pytest-vmports: left alone, it is no kept VM: {line}\n")
    there = {kept.name: kept for kept in all_kept()}
    if options.action == "list":
        blocks = ["\n".join(kept.lines()) for kept in there.values()]
        sys.stdout.write(printable("\n\n".join(blocks or ["no VM is kept"]) + "\n"))
        return 0
    names = list(there) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in there]
    if unknown or not options.names:
        known = ", ".join(there) or "none"
        what = f"no VM is kept as {unknown[0]}" if unknown else "name the VMs to stop, or all"
        return refuse(f"{what}; kept are: {known}", 2)
    for name in names:
        there[name].stop()
        sys.stdout.write(printable(f"stopped {name} ({there[name].test})\n"))
    return 0


def _report(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import report

    return report.run(options)


def _ci(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import ci

    return ci.run(options)


def _cache(options: argparse.Namespace) -> int:
    from pytest_vmports.cli import cache

    return cache.run(options)


if __name__ == "__main__":
    sys.exit(main())

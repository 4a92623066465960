"""``pytest-vmports report``: table, picture and report of several runs, as of one test suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.cli.refusal import refuse
from pytest_vmports.report import as_json, timeline
from pytest_vmports.report.record import Run
from pytest_vmports.report.recorded import RecordError, read
from pytest_vmports.report.summary import Summary
from pytest_vmports.settings.parse import json_file, picture
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    _Wanted = tuple[str, Callable[[Run, Path], None], Path]


def run(arguments: argparse.Namespace) -> int:
    """Join what shards have drawn or reported; return the exit status."""
    paths = [Path(file) for file in arguments.files]
    joined = Run(tests=[], vms=[])
    try:
        wanted = _wanted(arguments)
        for path, shard in zip(paths, _names(paths), strict=True):
            one = read(path, shard)
            joined.tests += one.tests
            joined.vms += one.vms
    except (ValueError, RecordError) as error:
        return refuse(str(error))
    for line in Summary(joined).lines():
        sys.stdout.write(printable(f"{line}\n"))
    for what, write, path in wanted:
        try:
            write(joined, path)
        except OSError as error:
            return refuse(f"{path} cannot be written: {error.strerror or error}")
        sys.stdout.write(printable(f"the {what} is in {path}\n"))
    return 0


def _wanted(arguments: argparse.Namespace) -> list[_Wanted]:
    """Return what is to be written, how, and where.

    Raises:
        ValueError: a name does not end as it has to.
    """
    wanted: list[_Wanted] = []
    if arguments.output is not None:
        _check("--output", picture, arguments.output)
        wanted.append(("timeline", timeline.write, Path(arguments.output)))
    if arguments.report is not None:
        _check("--report", json_file, arguments.report)
        wanted.append(("report", as_json.write, Path(arguments.report)))
    return wanted


def _check(option: str, read: Callable[[str], str | None], name: str) -> None:
    try:
        read(name)
    except ValueError as error:
        raise ValueError(f"{option}={name}: write {error}") from None


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names of the shards: their files', or else their paths, where two are alike."""
    stems = [path.stem for path in paths]
    return stems if len({*stems}) == len(stems) else [str(path) for path in paths]

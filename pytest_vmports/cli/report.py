"""``pytest-vmports report``: the table and the picture of several runs, as of one test suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.cli.refusal import refuse
from pytest_vmports.report.record import summary_of, timeline_of
from pytest_vmports.report.recorded import RecordError, read
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_vmports.report.record import Phase


def run(arguments: argparse.Namespace) -> int:
    """Join what shards have drawn; return the exit status."""
    paths = [Path(file) for file in arguments.files]
    phases: list[Phase] = []
    try:
        for path, shard in zip(paths, _names(paths), strict=True):
            phases += read(path, shard)
    except RecordError as error:
        return refuse(str(error))
    for line in summary_of(phases).lines():
        sys.stdout.write(printable(f"{line}\n"))
    if arguments.output is not None:
        try:
            timeline_of(phases).write(Path(arguments.output))
        except OSError as error:
            return refuse(f"{arguments.output} cannot be written: {error.strerror or error}")
        sys.stdout.write(printable(f"the timeline is in {arguments.output}\n"))
    return 0


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names of the shards: their files', or else their paths, where two are alike."""
    stems = [path.stem for path in paths]
    return stems if len({*stems}) == len(stems) else [str(path) for path in paths]

"""What a record of a run has to look like: it may come from anywhere."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_vmports.report.record import BEGIN, END
from pytest_vmports.system.small_file import parse_object, read_small

if TYPE_CHECKING:
    from pathlib import Path

_MOST: Final = 256 << 20
_LONGEST: Final = 200
_Moment = Annotated[float, Field(ge=0, le=1e12)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Machine(_Strict):
    origin: str
    template: bool
    ports: list[str]
    guest: str
    wiring: str
    leased: _Moment
    start: _Moment | None
    refused: _Moment | None
    ready: _Moment | None
    stopped: _Moment | None


class _Facts(_Strict):
    machines: list[_Machine]
    waited: int
    host: str = ""


class _Phase(_Strict):
    test: str
    worker: str
    when: Literal["setup", "call", "teardown"]
    outcome: str
    begin: _Moment
    end: _Moment
    seconds: _Moment
    facts: _Facts | None


class _Record(_Strict):
    format: Literal[1]
    phases: list[_Phase]


class RecordError(Exception):
    """A file has no record of a run; its text says which and why."""


def read(path: Path, shard: str) -> list[dict[str, Any]]:
    """Return the phases that a picture was made of; see `record.phases_of`.

    Args:
        path: of the picture.
        shard: is put before the names of tests and workers, which others may have too.

    Raises:
        RecordError: it cannot be read, or is no picture of a run by this version of the package.
    """
    try:
        text = read_small(path.resolve(), _MOST).decode("utf-8", "replace")
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    found = re.search(f"{re.escape(BEGIN)}([^<]*){re.escape(END)}", text)
    if found is None:
        raise RecordError(f"{path} is no timeline that pytest-vmports has drawn")
    try:
        record = _Record.model_validate(parse_object(html.unescape(found[1]).encode()))
    except ValueError as error:
        why = " ".join(str(error).split())[:_LONGEST]
        raise RecordError(f"what {path} says of its run cannot be read: {why}") from error
    for phase in record.phases:
        phase.test, phase.worker = f"{shard} {phase.test}", f"{shard} {phase.worker}"
    return [phase.model_dump() for phase in record.phases]

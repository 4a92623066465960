"""The record of a run in a file: put into its pictures, and read again, whoever wrote it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_vmports.report.record import Run, Strict
from pytest_vmports.system.small_file import parse_object, read_small

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_vmports.report.record import Case, Vm

FORMAT: Final = "pytest-vmports report"
VERSION: Final = 1
NAME: Final = "vmports-run"
"""By this name a record stands in a picture."""
_MOST: Final = 256 << 20
_MOST_UNPACKED: Final = 64 << 20
_LONGEST: Final = 200
_IN_MARKUP: Final = re.compile(rf'<(metadata|template) id="{NAME}">([A-Za-z0-9+/=]*)</\1>')
# Read as a part of a page, or by whoever shows the file in a CI's log, nothing is obeyed.
_TOUCHY: Final = {sign: f"\\u{ord(sign):04x}" for sign in "<>&#\x7f"}
_COMMAND: Final = re.compile(r"(section_(?:start|end)|travis_\w+):")


class _Head(Strict):
    format: Literal["pytest-vmports report"]
    version: Literal[1]


class RecordError(Exception):
    """A file has no record of a run; its text says which and why."""


def json_of(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return JSON of ASCII alone, in which no name is a part of a page or a CI's command."""
    text = json.dumps(value, indent=indent, separators=None if indent else (",", ":"))
    for sign, escaped in _TOUCHY.items():
        text = text.replace(sign, escaped)
    # Both are within names: we write no list in a list, and no colon behind a letter.
    return _COMMAND.sub(r"\1\\u003a", text.replace("[[", "[\\u005b"))


def pack(run: Run) -> str:
    """Return a run as letters and digits, to be put into a picture of it."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **run.model_dump()})
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def read(path: Path, shard: str) -> Run:
    """Return the run that a picture or a report is of.

    Args:
        path: of the file.
        shard: is put before the names of tests and workers, which others may have too.

    Raises:
        RecordError: it cannot be read, or was not written by this version of the package.
    """
    try:
        content = read_small(path.resolve(), _MOST)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        found = _found(content)
        if found is None:
            raise RecordError(f"{path} is no timeline or report that pytest-vmports has written")
        _Head.model_validate(found)
        run = Run.model_validate(found)
    except (ValueError, zlib.error) as error:
        why = " ".join(str(error).split())[:_LONGEST]
        raise RecordError(f"what {path} says of its run cannot be read: {why}") from error
    named: list[Case | Vm] = [*run.tests, *run.vms]
    for entry in named:
        entry.test, entry.worker = f"{shard} {entry.test}", f"{shard} {entry.worker}"
    return run


def _found(content: bytes) -> dict[str, Any] | None:
    if content.lstrip()[:1] == b"{":
        document = parse_object(content)
        if "traceEvents" not in document:
            return document
        packed = document.get(NAME)
        return _unpacked(packed) if isinstance(packed, str) else None
    markup = _IN_MARKUP.search(content.decode("utf-8", "replace"))
    return None if markup is None else _unpacked(markup[2])


def _unpacked(packed: str) -> dict[str, Any]:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(base64.b64decode(packed, validate=True), _MOST_UNPACKED)
    if unpacking.unconsumed_tail:
        raise ValueError(f"it is larger than {_MOST_UNPACKED} bytes")
    return parse_object(text)

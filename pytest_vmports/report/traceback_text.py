"""Tracebacks that are text already, as in pytest's warning of a thread that ended with an error."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from pytest_vmports.report.traceback import file_is_ours, file_is_users

if TYPE_CHECKING:
    from collections.abc import Iterator

# As Python's traceback writes them; "Exception Group Traceback" has columns before each line.
_HEAD = re.compile(r"^Traceback \(most recent call last\):\n", re.MULTILINE)
_FRAME = re.compile(r'  File "(?P<file>[^"\n]+)", line \d+.*\n(?:    .*\n)*')
_CHAIN = re.compile(
    r"^(?:During handling of the above exception, another exception occurred"
    r"|The above exception was the direct cause of the following exception):\n\n",
    re.MULTILINE,
)


def pruned(text: str) -> str:
    """Return a text without the frames that no report shows, in each traceback that it holds."""
    parts = _CHAIN.split(text)
    links = [*_CHAIN.findall(text), ""]
    shown = ""
    for part, link in zip(parts, links, strict=True):
        head = _HEAD.search(part)
        before, frames = (part[: head.start()], part[head.end() :]) if head else (part, "")
        found = list(_frames(frames))
        told = frames[sum(map(len, found)) :]
        users = any(file_is_users(_file(frame)) for frame in found)
        if any(file_is_ours(_file(frame)) for frame in found) and not users and link:
            shown += before  # it never left our code, and something else did
            continue
        found = _shown(found)
        shown += before + (head[0] if head and found else "") + "".join(found) + told + link
    return shown


def _frames(text: str) -> Iterator[str]:
    at = 0
    while (match := _FRAME.match(text, at)) is not None:
        yield match[0]
        at = match.end()


def _file(frame: str) -> str:
    match = _FRAME.match(frame)
    assert match is not None
    return match["file"]


def _shown(frames: list[str]) -> list[str]:
    shown: list[str] = []
    for users, group in itertools.groupby(frames, lambda frame: file_is_users(_file(frame))):
        run = list(group)
        if users or not any(file_is_ours(_file(frame)) for frame in run):
            shown += run
    return shown

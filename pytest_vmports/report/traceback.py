"""Which frames a report shows: the user's own, up to the line that met the error, and none of ours.

What a person can change stands in files of theirs. So a run of frames with one of ours in it goes,
with those of the libraries around it: contextlib above, subprocess below. A callback of the user's
that our code called stays. Where nothing of the user's is left, as when a fixture of ours fails,
the test's own ``def`` line takes the place: it asked for the fixture.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import linecache
import os
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import doctest
    from collections.abc import Iterator, Sequence
    from typing import TypeGuard

    import pytest

    Node = pytest.Item | pytest.Collector | None

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = {"site-packages", "dist-packages"}
_PYTESTS = {"_pytest", "pytest", "pluggy"}
# Stands in the frames that we make.
_MADE = "__made_by_pytest_vmports__"
_STANDARD = {
    Path(spelled)
    for name in ("stdlib", "platstdlib")
    for spelled in (sysconfig.get_path(name), os.path.realpath(sysconfig.get_path(name)))
}


def prune(config: pytest.Config, node: Node, excinfo: pytest.ExceptionInfo[Any]) -> bool:
    """Take the frames that no report shows out of an exception, and out of those it chains.

    With ``--full-trace`` nothing is taken.

    Args:
        config: pytest's.
        node: the test, or what was collected; None before there is one.
        excinfo: of the exception, which keeps type and message.

    Returns:
        whether that changed something.
    """
    if config.getoption("fulltrace", False):
        return False
    if changed := _prune_all(node, excinfo.value, set()):
        # pytest has made its list from the traceback as it was.
        excinfo.traceback = type(excinfo.traceback)(excinfo.value.__traceback__)
    return changed


def _prune_all(node: Node, error: BaseException, seen: set[int]) -> bool:
    """Prune an exception, those it carries, and those before it, where ours alone are let go."""
    if id(error) in seen:
        return False
    seen.add(id(error))
    changed = had_ours = _prune_one(node, error)
    for member in _carried(error):
        changed |= _prune_all(node, member, seen)
    if _is_doctests(error):
        kind, value, _ = error.exc_info
        if value.__traceback__ is not None:
            error.exc_info = kind, value, value.__traceback__
    earlier, skipped = _earlier(error), False
    while earlier is not None and id(earlier) not in seen and _is_inner(node, earlier, had_ours):
        seen.add(id(earlier))
        earlier, skipped = _earlier(earlier), True
    if skipped:
        # As a context, whichever it was: to the user it is what was under way.
        error.__cause__, error.__context__ = None, earlier
        error.__suppress_context__ = earlier is None
    if earlier is not None:
        changed |= _prune_all(node, earlier, seen)
    return changed or skipped


def _carried(error: Any) -> Iterator[BaseException]:
    """Yield what an exception is about: those of a group, or what doctests met."""
    for name in ("exceptions", "failures"):
        several = getattr(error, name, ())
        yield from (one for one in several if isinstance(one, BaseException))
    if _is_doctests(error):
        yield error.exc_info[1]


def _is_doctests(error: object) -> TypeGuard[doctest.UnexpectedException]:
    loaded = sys.modules.get("doctest")  # whoever raised its error has loaded it
    return loaded is not None and isinstance(error, loaded.UnexpectedException)


def _prune_one(node: Node, error: BaseException) -> bool:
    """Take frames out of one exception's traceback; return whether it had some of ours."""
    entries = list(_entries(error.__traceback__))
    shown = _shown(node, entries)
    if len(shown) == len(entries):
        return False
    if hasattr(node, "collect"):
        # Below how it was imported, as pytest shows it of modules, and not of a folder's conftest.
        shown = [*itertools.dropwhile(lambda entry: not _is_own(node, entry), shown)]
    if not any(_is_own(node, entry) for entry in shown):
        if node is None:
            return False
        shown = [_entry_of(node)]
    # In place: whoever holds the first of them, as unittest or a fixture's cache, has the rest.
    for entry, following in itertools.zip_longest(shown, shown[1:]):
        entry.tb_next = following
    error.__traceback__ = shown[0]
    return True


def _earlier(error: BaseException) -> BaseException | None:
    """Return the exception that is printed above another."""
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _is_inner(node: Node, error: BaseException, followed_ours: bool) -> bool:
    """Whether an exception never left our frames; one that was never raised has none."""
    entries = list(_entries(error.__traceback__))
    ours = any(map(_is_ours, entries)) if entries else followed_ours
    return ours and not any(_is_own(node, entry) for entry in entries)


def _shown(node: Node, entries: Sequence[TracebackType]) -> list[TracebackType]:
    shown = []
    for own, group in itertools.groupby(entries, lambda entry: _is_own(node, entry)):
        run = list(group)
        if own or not any(map(_is_ours, run)):
            shown += run
    return shown


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_ours(entry: TracebackType) -> bool:
    """Whether a frame is ours; what stands for another test, too, whose fixture failed for both."""
    return file_is_ours(_file(entry)) or _MADE in entry.tb_frame.f_globals


def file_is_ours(file: str) -> bool:
    """Whether a file is one of this package."""
    return _PACKAGE in Path(file).parents


def file_is_users(file: str) -> bool:
    """Whether a file is neither ours, Python's nor installed."""
    if file_is_ours(file) or file.startswith("<"):
        return file.startswith("<doctest ")
    path = Path(file)
    return not (_INSTALLED & set(path.parts) or _STANDARD & set(path.parents))


def _is_own(node: Node, entry: TracebackType) -> bool:
    """Whether a frame is the user's: of a file that is neither ours, Python's nor installed."""
    file = _file(entry)
    if _MADE in entry.tb_frame.f_globals:
        return False
    if node is not None and file == str(node.path):  # tests may be installed as well
        return True
    package = str(entry.tb_frame.f_globals.get("__name__")).partition(".")[0]
    # pytest may run from a checkout of its own.
    return file_is_users(file) and package not in _PYTESTS


def _file(entry: TracebackType) -> str:
    """Return a frame's file; for made code, as a dataclass has, that of its module."""
    file = entry.tb_frame.f_code.co_filename
    if file.startswith("<"):
        file = entry.tb_frame.f_globals.get("__file__") or file
    return str(file)


def _entry_of(node: pytest.Item | pytest.Collector) -> TracebackType:
    """Return a traceback's entry at the line where a test is defined."""
    path, line, name = _place(node)
    # Jinja's way: code that raises, said to stand in that line.
    code = compile("raise LookupError", path, "exec")
    try:
        exec(code.replace(co_name=name, co_firstlineno=line), {"__name__": name, _MADE: True}, {})  # noqa: S102
    except LookupError as error:
        (*_, entry) = _entries(error.__traceback__)
        # No instruction: whose columns would be underlined.
        return TracebackType(None, entry.tb_frame, -1, line)
    raise AssertionError("it raises")


def _place(node: pytest.Item | pytest.Collector) -> tuple[str, int, str]:
    """Return file, line, from 1 on, and name of a test."""
    path, line, name = str(node.path), 1, node.name
    with contextlib.suppress(Exception):  # another plugin's item may have none
        found, number, _ = node.reportinfo()  # type: ignore[union-attr]
        path, line = os.fspath(found), (number or 0) + 1
    # A decorated function begins with its decorators.
    with contextlib.suppress(SyntaxError, ValueError):
        for one in ast.walk(ast.parse("".join(linecache.getlines(path)))):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and line in {
                one.lineno, *(decorator.lineno for decorator in one.decorator_list)
            }:  # fmt: skip
                return path, one.lineno, one.name
    return path, line, name

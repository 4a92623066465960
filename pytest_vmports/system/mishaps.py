"""What goes wrong beside a test: it changes no result, and is told all the same.

A report is gathered from a VM in any state, on a host in any state: a disk may be full, a name may
have no encoding, a file may vanish meanwhile. When a hook raises, pytest ends the whole session; so
what happens there is held at one boundary, `noting`, and becomes a line for people.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGE = str(Path(__file__).parents[1])
# An error of a VM may bring its whole console along.
_LONGEST = 300
printable: Callable[[str], str] = shown.printable


@contextlib.contextmanager
def noting(what: str, note: Callable[[str], None]) -> Iterator[None]:
    """Run the ``with`` block; an exception that leaves it is noted and not raised.

    What ends the run passes: Ctrl-C, ``pytest.exit``, ``sys.exit``.

    Args:
        what: comes first in the line, as ``artifact failed: qemu.sh``.
        note: is given the line: what, then type, message and place of the exception.
    """
    try:
        yield
    except BaseException as error:
        # As broad as can be on purpose: no list of what may fail is complete (the assertion of a
        # wiring that had stopped was in none), and what is missed costs all tests that follow.
        # A fault of ours is as visible as any: the line says where it was raised.
        if not _held(error):
            raise
        note(f"{what}: {told(error)}")


def told(error: BaseException) -> str:
    """Return type and message of an exception and where it was raised, in one line."""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]}…"
    frames = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    places = [f"{file}:{line}" for file, line in frames[-1:]]
    # The standard library's line, as of a write, does not tell which of ours it was.
    ours = [place for place in frames if place[0].startswith(_PACKAGE) and place[0] != __file__]
    if ours[-1:] != frames[-1:]:
        places += [f"from {file}:{line}" for file, line in ours[-1:]]
    return printable(f"{said} (at {', '.join(places) or 'an unknown place'})")


def plain(value: Any) -> Any:
    """Return a value made of what xdist can send: mappings, lists, numbers and printable text."""
    if value is None or type(value) in {bool, int, float}:
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return printable(str(value))


def _held(error: BaseException) -> bool:
    # Whoever raised an error of pytest's has loaded it; without pytest it stays unloaded.
    pytest = sys.modules.get("pytest")
    if pytest is not None and isinstance(error, pytest.exit.Exception):
        return False
    # A timeout's `pytest.fail`, called from a signal, may come at any moment: it is no Exception.
    outcomes = () if pytest is None else (pytest.fail.Exception, pytest.skip.Exception)
    return isinstance(error, (Exception, *outcomes))

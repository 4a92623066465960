"""What was found out of files, kept for this user's later processes while nothing has changed.

It is of one machine, until its temporary files go. Whatever is odd about it is asked anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import StateDirError
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.private_folder import WRITE_ACCESS, make_private, user_id
from pytest_vmports.system.run_dir import REMEDY, default_base
from pytest_vmports.system.small_file import read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KIND = "asked"


def remembered(
    question: list[Any], files: Iterable[str], ask: Callable[[], tuple[list[str], bool]]
) -> list[str]:
    """Return the real paths of the files that a program names.

    Args:
        question: what is asked, as JSON has it.
        files: what the answer depends on beside the files that it names.
        ask: returns their names, and whether these are all; else they are not kept.
    """

    def asked() -> tuple[Any, bool]:
        names, all_of_them = ask()
        real = {name: os.path.realpath(name) for name in names}
        return [[*one, _state(one[0])] for one in real.items()], all_of_them

    def holds(found: Any) -> bool:
        return all(isinstance(real, str) and _state(name) == state for name, real, state in found)

    return [real for _, real, _ in answer(question, files, asked, holds)]


def answer(
    question: list[Any],
    files: Iterable[str],
    ask: Callable[[], tuple[Any, bool]],
    holds: Callable[[Any], bool],
) -> Any:
    """Return what is known of some files, and ask where nothing is, or where they have changed.

    Args:
        question: what is asked, as JSON has it.
        files: what the answer depends on.
        ask: returns the answer, as JSON has it, and whether it may be kept.
        holds: whether a kept answer still holds; may raise what odd JSON brings.
    """
    try:
        file = _place(question)
    except StateDirError:
        file = None
    # Before it is asked: what changes meanwhile is asked again.
    seen = [question, [[name, _state(name)] for name in files]]
    found = None if file is None else _known(file, seen, holds)
    if found is None:
        found, may_be_kept = ask()
        if file is not None and may_be_kept:
            _keep(file, {"seen": seen, "found": found})
    return found


def _place(question: list[Any]) -> Path:
    folder = default_base(KIND)
    make_private(folder, remedy=REMEDY)
    return folder / f"{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]}.json"


def _state(name: str) -> list[int] | None:
    """Return what shows whether a file, or what a folder lists, has changed; None for none."""
    try:
        return fingerprint(Path(name))
    except OSError:
        return None


def _known(file: Path, seen: list[Any], holds: Callable[[Any], bool]) -> Any:
    """Return what was found, where that still holds; else None."""
    try:
        facts = file.lstat()
        if facts.st_uid != user_id() or facts.st_mode & WRITE_ACCESS:
            return None
        kept = read_object(file)
        return kept["found"] if kept["seen"] == seen and holds(kept["found"]) else None
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or another version's
        return None


def _keep(file: Path, what: dict[str, Any]) -> None:
    # Where it cannot be kept, the next one asks.
    with contextlib.suppress(OSError), contextlib.ExitStack() as unless_it_is_there:
        number, name = tempfile.mkstemp(dir=file.parent)
        unless_it_is_there.callback(Path(name).unlink)
        with os.fdopen(number, "w", encoding="ascii") as new:
            json.dump(what, new)
        Path(name).replace(file)
        unless_it_is_there.pop_all()

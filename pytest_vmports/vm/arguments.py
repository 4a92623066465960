"""What a test gives to its VM's methods: what means nothing is refused before it is sent."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing import Any

# Linux takes no longer argument (MAX_ARG_STRLEN); a shell is given its text as one.
LONGEST_COMMAND = 128 * 1024
_SHOWN = 80
# No test waits for years, and what waits in the end takes no number that large.
_FOR_EVER = 1e8
_SIZE = re.compile(r"0*(\d{1,15})\s*([KMG])i?B?", re.ASCII | re.IGNORECASE)
_SIZES = 'give bytes as a number above 0, or a text like "500 KiB", "64M" or "2 GiB"'


def seconds(value: Any) -> float:
    """Return a timeout.

    Raises:
        TypeError: it is no number.
        ValueError: it is none above 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _refuse("timeout", value, "give seconds as a number")
    exact: Any = value
    if not exact > 0:  # nor is NaN
        raise ValueError(f"timeout is {_short(value)}: give seconds above 0")
    return float(min(exact, _FOR_EVER))  # not the other way round: some integers are no float


def seconds_or_none(value: Any) -> float | None:
    """Return a timeout; None waits for ever, as does one of years.

    Raises:
        TypeError: it is neither a number nor None.
        ValueError: it is none above 0.
    """
    if value is None:
        return None
    found = seconds(value)
    return None if found >= _FOR_EVER else found


def size(value: Any, what: str, otherwise: int) -> int:
    """Return a number of bytes: one, or a text with a unit, as ``"2 GiB"``; for None the other.

    Raises:
        TypeError: it is neither a whole number nor a text.
        ValueError: it is none above 0.
    """
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | str):
        _refuse(what, value, _SIZES)
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        number = int(found[1]) << 10 * (1 + "KMG".index(found[2].upper())) if found else 0
    else:
        number = int(value)
    if number <= 0:
        raise ValueError(f"{what} is {_short(value)}: {_SIZES}")
    return number


def most_bytes(value: Any) -> int:
    """Return a limit of bytes.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        _refuse("max_output", value, "give bytes as a whole number")
    if value < 0:
        raise ValueError(f"max_output is {_short(value)}: give bytes, 0 at least")
    return int(value)


def text(value: Any, what: str) -> str:
    """Return a text that can be sent into a guest.

    Raises:
        TypeError: it is no text.
        ValueError: no program could be given it.
    """
    if not isinstance(value, str):
        hint = "; os.fsdecode makes a text of bytes" if isinstance(value, bytes) else ""
        _refuse(what, value, f"give a text{hint}")
    if "\0" in value:
        raise ValueError(f"{what} has a NUL in it, which no program can be given: {_short(value)}")
    encoded(value, what)
    return value


def encoded(value: str, what: str) -> bytes:
    """Return a text's bytes: UTF-8, and the others that `Completed` has brought.

    Raises:
        ValueError: it has half a character that is no byte.
    """
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise ValueError(f"{what} has {half!r} in it, which is no character") from None


def path_text(value: Any, what: str) -> str:
    """Return a path as a text, one in the guest too.

    Raises:
        TypeError: it is neither a text nor a path of text.
        ValueError: it is empty, or no system call could be given it.
    """
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        hint = "; os.fsdecode makes a text of bytes" if isinstance(found, bytes) else ""
        _refuse(what, value, f"give a path, as a text or a Path{hint}")
    if not found:
        raise ValueError(f"{what} is empty: name a file or folder")
    return text(found, what)


def host_path(value: Any, what: str) -> Path:
    """Return a path on the host.

    Raises:
        TypeError: it is none.
        ValueError: it is empty, or no system call could be given it.
    """
    return Path(path_text(value, what))


def command_text(command: Any) -> str:
    """Return a command as a text for the shell; each word of a list stays one, as it is.

    Raises:
        TypeError: it is neither a text nor a list of words.
        ValueError: no shell could be given it.
    """
    if isinstance(command, str | bytes | bytearray | memoryview) or not isinstance(
        command, Sequence
    ):
        if not isinstance(command, str):
            hint = "; os.fsdecode makes a text of bytes" if isinstance(command, bytes) else ""
            _refuse("the command", command, f"give a text for the shell, or a list of words{hint}")
        return text(command, "the command")
    if not command:
        raise ValueError("the command is an empty list: give a word at least")
    return " ".join(quoted(_word(word, number)) for number, word in enumerate(command, 1))


def short_enough(whole: str) -> None:
    """See that a text can be given to a shell.

    Raises:
        ValueError: it cannot.
    """
    if len(whole.encode("utf-8", "surrogateescape")) >= LONGEST_COMMAND:
        raise ValueError(
            "the command, with its environment, is longer than 128 KiB: put a script and run that"
        )


def quoted(word: str) -> str:
    """Return a word that no shell takes for anything else.

    `shlex.quote` leaves ``A=b`` and ``if`` as they are, which mean something as a first word.
    """
    return "'" + word.replace("'", "'\"'\"'") + "'"


def given_input(value: Any) -> bytes:
    """Return the bytes of a command's input.

    Raises:
        TypeError: it is neither a text nor bytes.
        ValueError: it is a text that has no bytes.
    """
    if value is None:
        return b""
    if isinstance(value, str):
        return encoded(value, "input")
    try:
        return bytes(memoryview(value))
    except TypeError:
        _refuse("input", value, "give a text or bytes")


def environment(env: Any) -> str:
    """Return shell text that sets variables.

    Raises:
        TypeError: it is no mapping of texts.
        ValueError: a name or a value is none that a shell could have.
    """
    if env is None:
        return ""
    if not isinstance(env, Mapping):
        _refuse("env", env, "give a mapping of names to texts")
    whole = ""
    for name, value in env.items():
        if not isinstance(name, str):
            _refuse("a name in env", name, "give a text")
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(f"{name!r} is no name of an environment variable")
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        whole += f"export {name}={quoted(text(plain, f'env[{name!r}]'))}\n"
    return whole


def folder(cwd: Any) -> str:
    """Return shell text that goes to a folder.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, or no system call could be given it.
    """
    if cwd is None:
        return ""
    return f"unset CDPATH; cd {quoted(anchored(path_text(cwd, 'cwd')))} || exit\n"


def anchored(path: str) -> str:
    """Return a path that nothing takes for an option, nor ``cd`` for the folder of before."""
    return path if path.startswith("/") else f"./{path}"


def _word(value: Any, number: int) -> str:
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    return text(plain, f"word {number} of the command")


def _refuse(what: str, value: Any, remedy: str) -> NoReturn:
    raise TypeError(f"{what} is {_short(value)}, of type {type(value).__name__}: {remedy}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"

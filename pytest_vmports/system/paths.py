"""Paths as people write them: the one place that expands ``~``, makes absolute, and encodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from typing import Any


def absolute(written: str | os.PathLike[str], root: Path | None = None) -> Path:
    """Return a path as it was written in a setting, ``~`` and ``~user`` expanded, absolute.

    Args:
        written: the path.
        root: what it is relative to; None means the current folder.

    Raises:
        ValueError: nobody knows that home, or no path can be so.
    """
    text = os.fsdecode(as_bytes(os.fspath(written)))
    if "\0" in text:
        raise ValueError("a path without a NUL character")
    if text.startswith("~"):
        expanded = os.path.expanduser(text)  # noqa: PTH111 - this tells by its answer, not by an error
        if expanded.startswith("~"):
            whose = text.partition("/")[0]
            raise ValueError(f"no home is known for {whose}: write an absolute path, or ./{text}")
        text = expanded
    return (root or Path.cwd()).absolute() / text


def existing_file(written: Any, root: Path | None = None) -> Path | None:
    """Return the file that a text names, or None where it is a text and no such file's name."""
    try:
        path = absolute(written, root)
    except ValueError:
        return None
    # Unlike Path.is_file, this takes a text that is too long for a path.
    return path if os.path.isfile(path) else None  # noqa: PTH113


def as_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return a path's bytes, also where the locale's encoding has no room for it.

    Raises:
        UnicodeEncodeError: it holds half of a surrogate pair, which has no bytes.
    """
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return text_bytes(os.fspath(path))


def text_bytes(text: str) -> bytes:
    """Return a text as UTF-8; what Python kept as surrogates are the bytes that it was made of.

    Raises:
        UnicodeEncodeError: it holds half of a surrogate pair, which has no bytes.
    """
    return text.encode("utf-8", "surrogateescape")


def unix_url(path: str | os.PathLike[str], scheme: str = "unix") -> str:
    """Return the address of a Unix socket: what has a meaning in URLs is quoted."""
    return f"{scheme}://{quote(as_bytes(path))}"

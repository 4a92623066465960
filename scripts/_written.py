"""What scripts share that write a file, or a part of one, from the code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path


def between(name: str) -> re.Pattern[str]:
    """Return what finds the part of a page that stands between comments of a name."""
    return re.compile(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", re.DOTALL)


def write_or_check(file: Path, made: Callable[[str], str]) -> int:
    """Write a file; with ``--check`` among the command's words, only compare.

    Args:
        file: which.
        made: returns what it has to hold, given what it holds; "" where it is not there.

    Returns:
        1 where it is compared, and found out of date.
    """
    old = file.read_text() if file.exists() else ""
    new = made(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    file.write_text(new)
    return 0

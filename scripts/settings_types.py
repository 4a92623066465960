"""Write the types of settings as keywords from the table in the code; ``--check`` only compares."""

import subprocess
import sys
from pathlib import Path

from _written import write_or_check

from pytest_vmports.settings.table import OPTIONS, Option

PAGE = Path(__file__).parents[1] / "pytest_vmports" / "settings" / "keywords.py"
HEAD = '''\
"""What each setting takes as a keyword, for type checkers; nothing loads this while tests run.

Written by scripts/settings_types.py from the table of settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from os import PathLike

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import PortMapping

Path: TypeAlias = "str | PathLike[str]"
Port: TypeAlias = "int | str | PortMapping"
YesNo: TypeAlias = "bool | Literal['yes', 'no', 'true', 'false', 'on', 'off', '1', '0']"


class SettingKeywords(TypedDict, total=False):
    """The settings that the marker ``vmports`` and ``vm_factory`` take as keywords."""

'''
# What a reader takes of Python's types, and of texts all: those that it refuses it tells of.
TAKES = {
    "ports": "Port | Sequence[Port] | None",
    "reach": "bool | str | Collection[str]",
    "host_ports": "Mapping[int, int] | str | Sequence[str] | None",
    "network_name": "str | None",
    "boolean": "YesNo",
    "guest": "str | PathLike[str] | Guest | Callable[[], Guest]",
    "path": "Path | None",
    "program": "Path | None",
    "words": "str | Sequence[str]",
    "files": "Mapping[str, str] | Mapping[PathLike[str], str] | str | Sequence[str] | None",
    "text_or_none": "Path | None",
    "memory": "int | str",
    "whole": "int | str",
    "nics": "int | str | None",
    "cpu": "str | None",
    "disks": "str | Sequence[Path] | None",
    "qemu_args": "str | Sequence[str] | None",
    "seconds": "float | str",
    "kept_ready": "int | str",
    "wait_for": "int | str | Sequence[int] | Sequence[str] | None",
    "ipv4": "str",
}


def type_of(option: Option) -> str:
    """Return the type of a setting's keyword."""
    words = ", ".join(repr(word) for word in option.among)
    if option.reader == "choice":
        return f"Literal[{words}]"
    if option.reader == "yes_no_or":
        return f"YesNo | Literal[{words}]"
    return TAKES[option.reader]


def module() -> str:
    """Return the module, as the formatter leaves it."""
    lines = []
    for option in OPTIONS:
        if option.marker:
            lines += [f"    {option.name}: {type_of(option)}", f'    """{sentence(option)}"""']
    ruff = Path(sys.executable).parent / "ruff"
    command = [ruff, "format", "-q", "--stdin-filename", PAGE, "-"]
    text = HEAD + "\n".join(lines) + "\n"
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout


def sentence(option: Option) -> str:
    """Return what a setting is, with its default, as lines of a docstring."""
    default = "" if option.default in {None, ""} else f" (default: {option.default})"
    text = f"{option.help[0].upper()}{option.help[1:]}{default}."
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > 86:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    more = "\n    ".join([*lines, line])
    return more if not lines else f"{more}\n    "


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, lambda _: module()))

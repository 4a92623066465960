"""``pytest-vmports ci``: what a CI needs to run this project's tests with VMs, to be copied."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from pytest_vmports.cli.refusal import refuse

if TYPE_CHECKING:
    import argparse

_OURS: Final = ("pytest-vmports[alpine,store]", "pytest-xdist", "pytest-split")
# What projects call that which their tests need, the most telling first.
_WORDS: Final = ("test", "tests", "testing", "dev")
_REQUIREMENTS: Final = ("requirements.txt", *(f"requirements-{word}.txt" for word in _WORDS))


def run(arguments: argparse.Namespace) -> int:
    """Print it; return the exit status."""
    if arguments.shards < 1:
        return refuse("--shards is 1 or more", 2)
    try:
        sys.stdout.write(workflow(arguments.kind, Path.cwd(), arguments.shards))
    except (OSError, tomllib.TOMLDecodeError) as error:
        return refuse(f"pyproject.toml cannot be read: {error}")
    return 0


def workflow(kind: str, project: Path, shards: int) -> str:
    """Return what a CI runs a project's tests by.

    Args:
        kind: ``github`` or ``gitlab``.
        project: its folder.
        shards: on how many machines.

    Raises:
        OSError: its ``pyproject.toml`` cannot be read.
        tomllib.TOMLDecodeError: it is broken.
    """
    text = Path(__file__).with_name(f"ci_{kind}.yml").read_text("utf-8")
    declared = _declared(project)
    lines = _install(project, declared)
    words = {
        "INSTALL": "\n".join(f"{' ' * (10 if kind == 'github' else 6)}{line}" for line in lines),
        "PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "SHARDS": str(shards),
        "SHARDS_LISTED": ", ".join(map(str, range(1, shards + 1))),
    }
    for word, found in words.items():
        text = text.replace(f"@{word}@", found)
    return text


def _declared(project: Path) -> dict[str, Any]:
    file = project / "pyproject.toml"
    return tomllib.loads(file.read_text("utf-8")) if file.exists() else {}


def _install(project: Path, declared: dict[str, Any]) -> list[str]:
    """Return the lines that install a project and what its tests need."""
    install = "python -m pip install"
    lines = [f"{install} {' '.join(shlex.quote(name) for name in _OURS)}"]
    if "project" in declared:
        extras = _known(_table(declared, "project", "optional-dependencies"))
        lines.append(f"{install} {shlex.quote(f'.[{extras}]') if extras else '.'}")
    if group := _known(_table(declared, "dependency-groups")):
        lines += [f"{install} --upgrade 'pip>=25.1'", f"{install} --group {group}"]
    lines += [f"{install} -r {name}" for name in _REQUIREMENTS if (project / name).exists()]
    return lines


def _known(names: dict[str, Any]) -> str | None:
    return next((word for word in _WORDS if word in names), None)


def _table(declared: dict[str, Any], *names: str) -> dict[str, Any]:
    found: Any = declared
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}

"""Runs a page of the docs as its reader would: files are written, commands typed, top to bottom.

A block with a title is a file; one called ``console`` is what a terminal shows: behind each ``$ ``
a command, below it lines that are to be among its output, in that order, with ``…`` for whatever
stands there and ``===`` for a rule of any length. What installs is not typed: what it names is
looked at instead. A title that begins with ``examples/`` is a part of that file, which tests of its
own run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INSTALLS = re.compile(r"(?:sudo )?(?:pip|python3? -m venv|apt-get|\. \.venv)\b")
EXTRAS = re.compile(r"pytest-vmports\[([\w,]+)\]")
SECONDS = 1800


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        line: where it begins.
        kind: its language.
        title: the file that it is, or "".
        text: what stands in it, without the page's indent.
    """

    line: int
    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks in their order."""
    text = page.read_text()
    return [
        Block(
            text.count("\n", 0, match.start()) + 1, match["kind"], match["title"] or "",
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
        )
        for match in BLOCK.finditer(text)
    ]  # fmt: skip


def sessions(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a ``console`` block, each with the lines that stand below it."""
    typed: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            typed.append((line[2:], []))
        elif typed and typed[-1][0].endswith("\\"):
            typed[-1] = (typed[-1][0] + "\n" + line.removeprefix("> "), [])
        elif typed and line.strip():
            typed[-1][1].append(line)
    return typed


def follow(page: Path, folder: Path, **environment: str) -> int:
    """Do what a page says in a folder; return how many commands were run.

    Raises:
        AssertionError: something else comes out; it has the page's line and the output.
    """
    done = 0
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title.startswith("examples/"):
            assert block.text in (ROOT / block.title).read_text(), f"{where} is not in it"
        elif block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.kind == "console":
            for command, expected in sessions(block.text):
                if INSTALLS.match(command):
                    _look_at_extras(command, where)
                else:
                    _type(command, expected, folder, where, environment)
                    done += 1
    return done


def _look_at_extras(command: str, where: str) -> None:
    there = set(metadata.metadata("pytest-vmports").get_all("Provides-Extra") or ())
    for named in EXTRAS.findall(command):
        assert set(named.split(",")) <= there, f"{where}: no such extra: {command}"


def _type(
    command: str, expected: list[str], folder: Path, where: str, environment: dict[str, str]
) -> None:
    path = environment.get("PATH", os.environ["PATH"])
    programs = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False,
        env={**os.environ, "COLUMNS": "100", **environment, "PATH": programs},
    )  # fmt: skip
    told = f"{where}: $ {command}\n{done.stdout}"
    rest = iter(done.stdout.splitlines())
    for line in expected:
        if line.strip() != "…":
            assert any(_is(found, line) for found in rest), f"no line {line!r} after\n{told}"
    wrong = any(re.search(r"\b(failed|errors?|FAILED|ERROR)\b", line) for line in expected)
    assert bool(done.returncode) == wrong, f"it ended with {done.returncode}\n{told}"


def _is(found: str, line: str) -> bool:
    """Tell whether a line of the output is one that a page shows."""
    parts = re.split(r"(…|={3,}|-{3,})", line.strip())
    pattern = "".join(
        ".*" if part == "…" else f"{part[0]}+" if part[:3] in {"===", "---"} else re.escape(part)
        for part in parts
    )
    return re.fullmatch(pattern, found.strip()) is not None

"""Draw what a terminal shows, for the docs: `.venv/bin/python tests/draw_pictures.py`.

Runs a failing test and the doctor on a terminal of their own, and writes docs/pictures/*.svg. The
environment's and the temporary folders' paths are shortened.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from pseudo_terminal import on_a_terminal
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WIDTH = 110
SUITE = """\
import pytest


@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat & echo serving")
def test_greeting(vm_with_ports):
    with vm_with_ports.connect(8080) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"welcome"
"""
# An SVG in a page may load nothing, and this one need not.
FONTS = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)


def shown(command: list[str], folder: Path) -> str:
    """Return what a command writes to a terminal."""
    _, written = on_a_terminal(command, folder, COLUMNS=str(WIDTH))
    text = written.replace("\r\n", "\n")
    text = re.sub(r"\x1bD\x1bM\x1b7\n.*?\x1b8", "", text, flags=re.DOTALL)  # progress, gone again
    for path, short in ((sys.prefix, ".venv"), (str(folder), "/tmp/suite")):
        text = text.replace(path, short)
    text = re.sub(r"/tmp/pytest-of-\w+/pytest-\d+", "/tmp/pytest", text)
    return re.sub(r"/(?:root|home/\w+)/\.cache", "~/.cache", text)


def draw(name: str, title: str, command: str, text: str) -> None:
    """Write one picture."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}\n", style="bold"), end="")
        console.print(Text.from_ansi(text))
        svg = console.export_svg(title=title)
    PICTURES.joinpath(name).write_text(FONTS.sub("", svg))


def main() -> None:
    """Draw all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_greeting.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        programs = Path(sys.executable).parent
        words = ["-p", "no:randomly", "-p", "no:cacheprovider", "--vmports-report"]
        pytest = [str(programs / "pytest"), "--color=yes", *words]
        shown(pytest, folder)  # makes the template
        text = shown(pytest, folder)
        draw("report.svg", "A failing test", "pytest --vmports-report", text)
        text = shown([str(programs / "pytest-vmports"), "doctor"], folder)
        draw("doctor.svg", "The set-up", "pytest-vmports doctor", text)


if __name__ == "__main__":
    main()

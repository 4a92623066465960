"""Draw what a terminal shows, for the docs: `.venv/bin/python tests/draw_pictures.py`.

Runs a failing test and the doctor on a terminal of their own, and a suite with two workers, whose
timeline draws itself, and writes docs/pictures/*.svg. The environment's and the temporary folders'
paths are shortened.
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
PARALLEL = """\
import pytest
from pytest_vmports import PortMapping

ECHO = "nc -lk -p 8080 -e cat &"


@pytest.mark.vmports(8080, setup=ECHO)
@pytest.mark.parametrize("number", range(6))
def test_echo(vm_with_ports, number):
    assert vm_with_ports.run("echo hello").stdout == ("hello\\n" if number != 4 else "welcome\\n")


@pytest.mark.vmports(8080, PortMapping(internal=53, protocol="udp"), setup=ECHO, memory=128)
@pytest.mark.parametrize("number", range(2))
def test_names(vm_with_ports, number):
    vm_with_ports.run("true")


@pytest.mark.vmports(8080, setup=ECHO)
def test_two(vm_factory):
    with vm_factory(ports=[8080], setup=ECHO), vm_factory(ports=[8080], setup=ECHO):
        pass
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


def draw_timeline(folder: Path, pytest: list[str]) -> None:
    """Let a run draw itself whose guests are booted in it."""
    (folder / "test_parallel.py").write_text(PARALLEL)
    picture = PICTURES / "timeline.svg"
    words = ["test_parallel.py", f"--vmports-timeline={picture}", "--vmports-cache-dir=cache"]
    shown([*pytest, *words], folder)
    # What it was made of is of use to nobody here.
    text = re.sub("(<metadata[^>]*>)[^<]*", r"\1", picture.read_text(encoding="utf-8"))
    picture.write_text(text, encoding="utf-8")


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
        draw_timeline(folder, [*pytest, "-n2"])


if __name__ == "__main__":
    main()

"""Rows on standard output, looked at by somebody or read by a program."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
from pytest_vmports import tables
tables.write(
    [("ok", "one", "[red]text[/red]"), ("", "", "-> two\\nlines"), ("missing", "a", "b " * 60)],
    header=("STATE", "NAME", "TEXT"), styles={"ok": "green"},
)
tables.write([], header=("NOTHING",))
"""
PLAIN = f"""\
STATE    NAME  TEXT
ok       one   [red]text[/red]
               -> two
               lines
missing  a     {("b " * 60).strip()}
"""


@pytest.fixture
def on_a_terminal():
    """Return a function that runs the program on a terminal and returns what it wrote."""

    def run(program=PROGRAM):
        ours, its = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=its, stdout=its, stderr=its,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "70"},
        ):  # fmt: skip
            os.close(its)
            written = b""
            with contextlib.suppress(OSError):  # nothing can be read of one that is closed
                while True:
                    written += os.read(ours, 4096)
        os.close(ours)
        return written.decode().replace("\r\n", "\n")

    return run


def test_a_program_reads_plain_columns():
    assert subprocess.check_output([sys.executable, "-c", PROGRAM], text=True) == PLAIN


def test_somebody_sees_colours_and_wrapped_cells_and_no_markup(on_a_terminal):
    written = on_a_terminal()
    assert "\x1b[1mSTATE" in written
    assert "\x1b[32mok" in written
    assert "[red]text[/red]" in written
    assert "b " * 60 not in written
    assert "NOTHING" not in written


def test_without_rich_a_terminal_gets_plain_columns_too(on_a_terminal):
    blocked = "import sys, importlib.util as u; f = u.find_spec\n"
    blocked += "u.find_spec = lambda name, *more: None if name == 'rich' else f(name, *more)\n"
    assert on_a_terminal(blocked + PROGRAM) == PLAIN

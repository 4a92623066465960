"""Rows on standard output, looked at by somebody or read by a program."""

from __future__ import annotations

import subprocess
import sys

from pseudo_terminal import on_a_terminal

PROGRAM = """
from pytest_vmports.cli import tables
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


def seen(program=PROGRAM):
    """Return what somebody at a terminal sees of the program."""
    _, written = on_a_terminal([sys.executable, "-c", program], COLUMNS="70")
    return written.replace("\r\n", "\n")


def test_a_program_reads_plain_columns():
    assert subprocess.check_output([sys.executable, "-c", PROGRAM], text=True) == PLAIN


def test_somebody_sees_colours_and_wrapped_cells_and_no_markup():
    written = seen()
    assert "\x1b[1mSTATE" in written
    assert "\x1b[32mok" in written
    assert "[red]text[/red]" in written
    assert "b " * 60 not in written
    assert "NOTHING" not in written


def test_without_rich_a_terminal_gets_plain_columns_too():
    blocked = "import sys, importlib.util as u; f = u.find_spec\n"
    blocked += "u.find_spec = lambda name, *more: None if name == 'rich' else f(name, *more)\n"
    assert seen(blocked + PROGRAM) == PLAIN

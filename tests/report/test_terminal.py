"""What is written to the terminal while tests run, on a terminal and elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pseudo_terminal import on_a_terminal
from vm_helpers import until

from pytest_vmports.report.console_stream import ConsoleStream
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.machine import State

SLOW = """
import threading
from pytest_vmports.plugin import session_of
from pytest_vmports.system.progress import slowly

def test_slow(request):
    terminal = session_of(request.config).terminal
    drawn = threading.Event()

    def detail():
        lines.append(1)
        if len(lines) == 3:
            drawn.set()
        return f"line {len(lines)}"

    lines = []
    with slowly(terminal, "working", detail, first=0.01, again=0.01):
        assert drawn.wait(30)
    terminal("and it stays")
"""


@pytest.fixture
def run(pytester):
    """Return a function that runs a suite on a terminal and returns what was written there."""
    pytester.makepyfile(SLOW)

    def ran(*words, term="xterm"):
        command = [sys.executable, "-m", "pytest", "--color=no", *words]
        status, written = on_a_terminal(command, TERM=term)
        assert status == 0, written
        return written

    return ran


WORKING = "vmports: working, 0 s so far: line"


def test_on_a_terminal_progress_is_redrawn_in_place_and_goes_away(run):
    written = run("-p", "no:xdist")
    assert f"\x1b7\r\n{WORKING} 1\r\x1b[2K{WORKING} 2" in written
    assert written.count("\n") < 20
    # Erased, and back to where pytest goes on; what stays comes after that.
    assert re.search(r"line \d+\r\x1b\[2K\x1b8\r\nand it stays\r\n\.", written)


@pytest.mark.parametrize(
    ("words", "term"), [(["-n1"], "xterm"), (["-p", "no:xdist", "-s"], "xterm"),
                        (["-p", "no:xdist"], "dumb")],
)  # fmt: skip
def test_where_others_write_too_or_nothing_can_be_redrawn_lines_stay(run, words, term):
    written = run(*words, term=term)
    assert "\x1b7" not in written
    assert written.count("vmports: working, 0 s so far") >= 3
    assert "and it stays" in written


def test_quiet_is_quiet_on_a_terminal_too(run):
    written = run("-p", "no:xdist", "-q")
    assert "working" not in written and "stays" not in written and "\x1b7" not in written


LINES = """
import pytest
from pytest_vmports.plugin import session_of

@pytest.mark.parametrize("test", range(6))
def test_it(request, test):
    if test % 3:
        for number in range(2):
            session_of(request.config).terminal.write(f"vmports: line {number} of {test}")
"""
TOLD = {f"vmports: line {number} of {test}" for test in (1, 2, 4, 5) for number in range(2)}
ALONE = ["-p", "no:xdist"]


@pytest.mark.parametrize(
    ("where", "more"),
    [("one pipe", ALONE), ("one pipe", [*ALONE, "-v"]), ("one pipe", [*ALONE, "-s"]),
     ("one pipe", ["-n2"]), ("one pipe", ["-n2", "-v"]), ("one pipe", ["-n1", "-q"]),
     ("two pipes", [*ALONE, "-q"]), ("two pipes", ["-n1", "-v"]),
     ("terminal", [*ALONE, "-v"]), ("terminal", ["-n2"]), ("terminal", ["-n1", "-v"])],
    ids=str,
)  # fmt: skip
def test_each_line_stands_alone_and_none_is_blank(pytester, where, more):
    pytester.makepyfile(LINES)
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "--color=no", *more]
    if where == "terminal":
        _, written = on_a_terminal(command)
    else:
        err = subprocess.STDOUT if where == "one pipe" else subprocess.PIPE
        done = subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE, stderr=err)
        written = done.stdout if where == "one pipe" else done.stderr
    lines = written.replace("\r", "").splitlines()
    ours = [at for at, line in enumerate(lines) if "vmports: line" in line]
    assert {lines[at] for at in ours} == TOLD and len(ours) == len(TOLD), written
    around = [lines[at - 1] for at in ours[1:]] + [lines[at + 1] for at in ours[:-1]]
    assert all(line.strip() for line in around), written
    if where == "two pipes":
        assert len([line for line in lines if line.strip()]) == len(TOLD)


@pytest.fixture
def shown():
    """Return a stream of consoles, its lines, and a function that makes a machine."""
    lines = []
    stream = ConsoleStream(lines.append, "gw1 ")
    yield stream, lines
    stream.close()


def machine(folder, state=State.READY):
    console = Console(folder / "console.log")
    plan = SimpleNamespace(guest=SimpleNamespace(name="alpine"))
    return SimpleNamespace(console=console, state=state, plan=plan)


def test_the_console_is_shown_by_whole_lines_without_control_characters(shown, tmp_path):
    stream, lines = shown
    guest = machine(tmp_path)
    stream.follow(guest)
    guest.console.path.write_text("one\r\n\x1b[1mtwo\x1b[0m\r\nlogin: ")
    stream.close()
    texts = [line.removeprefix("gw1 alpine| ") for line in "\n".join(lines).splitlines()]
    assert texts == ["one", "two", "login: "]


def test_a_console_that_was_there_briefly_is_shown_all_the_same(shown, tmp_path):
    stream, lines = shown
    guest = machine(tmp_path)
    guest.console.begin_with("of the template\n")
    guest.console.path.write_text("short\n")
    guest.console.keep()
    guest.console.path.unlink()
    guest.state = State.STOPPED
    stream.follow(guest)
    stream.close()
    assert lines == ["gw1 alpine| short"]


def test_a_console_that_begins_anew_is_shown_anew(shown, tmp_path):
    stream, lines = shown
    guest = machine(tmp_path)
    guest.console.path.write_text("a long first life\n")
    stream.follow(guest)
    until(lambda: lines, 60, "the first")
    guest.console.path.write_text("second\n")
    stream.close()
    assert lines == ["gw1 alpine| a long first life", "gw1 alpine| second"]


def test_consoles_of_a_real_run_are_shown_and_only_when_asked(pytester, qemu_binary):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.vmports(setup="echo set up")
        def test_it(vm_with_ports):
            vm_with_ports.run("echo from the test >/dev/console")
        """
    )
    result = pytester.runpytest_subprocess("-n1", "--vmports-console", "-q")
    result.stderr.fnmatch_lines(["gw0 alpine| set up", "gw0 alpine| from the test"])
    plain = pytester.runpytest_subprocess("-n0")
    plain.stderr.no_fnmatch_line("*from the test*")

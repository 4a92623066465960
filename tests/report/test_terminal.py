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


PIPED = """
from pytest_vmports.plugin import session_of

def test_one(request):
    for number in range(3):
        session_of(request.config).terminal(f"vmports: line {number}")

def test_two(request):
    session_of(request.config).terminal("vmports: line 3")
"""


@pytest.mark.parametrize("more", [[], ["-v"], ["-s"], ["-n1"]], ids=str)
@pytest.mark.parametrize("together", [True, False], ids=["one pipe", "two pipes"])
def test_in_a_pipe_there_are_no_blank_lines_and_no_line_is_torn(pytester, more, together):
    pytester.makepyfile(PIPED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", *more], text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if together else subprocess.PIPE,
    )  # fmt: skip
    lines = (done.stdout if together else done.stderr).splitlines()
    ours = [at for at, line in enumerate(lines) if "vmports: line" in line]
    assert len(ours) == 4
    assert not [at for at in ours if not lines[at - 1].strip() and at > ours[0]]
    if "-n1" not in more:  # a worker cannot know where its controller is
        assert [lines[at] for at in ours] == [f"vmports: line {number}" for number in range(4)]
    if not together:
        assert "\n" not in done.stderr.rstrip("\n").replace("\nvmports: line", "")


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

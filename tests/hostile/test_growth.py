"""What a guest can make grow: its console, as far as that is read, kept and shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest
from folded import folded
from vm_helpers import until

from pytest_vmports.cli import run
from pytest_vmports.guests import cloud_init
from pytest_vmports.network import handshake, udp_frames
from pytest_vmports.network.links import Pump
from pytest_vmports.report.console_stream import _Followed
from pytest_vmports.system import clock, growing
from pytest_vmports.system.growing import Bounds, Follower, Looks, free_middle
from pytest_vmports.vm import crashes, hints, last_words
from pytest_vmports.vm.console import MIB, Console
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.milestones import State
from pytest_vmports.vm.qmp_thread import FewEvents

REPORT = f"vmports-cloud-init: {json.dumps({'v1': {'errors': []}})} :vmports"
STAGE = "Failed to start cloud-config.service"


def reports(*parts):
    found = cloud_init.Reports()
    for part in parts:
        found.feed(part)
    return found


NOISE = {
    "begun": "vmports-cloud-init: {",
    "ended": "} :vmports",
    "torn": "vmports-cloud-init: {\n",
    "services": "Failed to start ",
    "one line": "x" * 1000,
    "CRs": "\r",
    "NULs": "\0",
    "colours": "\x1b[1m",
    "no UTF-8": "\ufffd",
}


@folded("noise", NOISE)
def test_cloud_inits_report_and_failure_are_found_behind_any_noise(noise):
    text = NOISE[noise] * (300_000 // len(NOISE[noise]))
    for size in (len(text), 65_537, 4096):
        for words in (REPORT, STAGE):
            whole = f"{text}{words}\nmore\n"
            found = reports(*(whole[at : at + size] for at in range(0, len(whole), size)))
            if words == REPORT:
                assert found.verdict == cloud_init.Verdict()
            else:
                assert found.failure is not None and found.failure.endswith(STAGE)


def test_cloud_inits_words_are_found_wherever_a_look_tears_them():
    whole = f"[FAILED] {STAGE} - Apply.\r\n{REPORT}\r\n"
    for at in range(len(whole)):
        found = reports(whole[:at], whole[at:])
        assert found.verdict == cloud_init.Verdict()
        assert found.failure is not None and STAGE in found.failure


def test_each_part_of_a_console_is_looked_at_once(monkeypatch):
    """Or at most thrice: what a line or report that goes on has had before is looked at again."""
    looked = []
    real = cloud_init.failure
    monkeypatch.setattr(cloud_init, "failure", lambda line: looked.append(len(line)) or real(line))
    text = "".join(f"Failed to start the line number {number}\n" for number in range(10_000))
    reports(*(text[at : at + 4096] for at in range(0, len(text), 4096)))
    assert len(text) * 0.9 < sum(looked) < 3 * len(text)


def test_a_console_is_searched_for_a_crash_once(tmp_path, monkeypatch):
    fed = []
    real = crashes.Watch.feed
    monkeypatch.setattr(
        crashes.Watch, "feed", lambda self, text: fed.append(len(text)) or real(self, text)
    )
    console = Console(tmp_path / "console.log")
    with console.path.open("a") as file:
        for number in range(20):
            file.write(f"line {number} of the guest's\n" * 50)
            file.flush()
            assert not console.crashes() and console.panic() is None
    assert sum(fed) == console.size


@folded("text", ["vmports-cloud-init: {", "Failed to start ", "} :vmports", "x", "x\n"])
def test_what_is_remembered_of_a_console_is_bounded(text):
    found = cloud_init.Reports()
    for _ in range(40):
        found.feed(text * (100_000 // len(text)))
    assert len(found._line) + len(found._report) < 300_000


def test_a_follower_tells_of_what_is_new_and_bounded(tmp_path):
    path = tmp_path / "console.log"
    new = Follower(path, most=1000)
    assert new.read() == growing.Piece()
    path.write_bytes("é".encode()[:1])
    assert new.read().text == ""
    path.write_bytes("éx".encode())
    assert new.read().text == "éx"
    with path.open("ab") as file:
        file.write(b"y" * 5000 + b"z" * 1000)
    assert new.read() == growing.Piece("z" * 1000, 5000)
    path.write_bytes(b"anew")
    assert new.read() == growing.Piece("anew", anew=True)


def disk_use(path):
    return path.stat().st_blocks * 512


@pytest.fixture
def flood(tmp_path):
    """Return a console's file that was written as QEMU does, and kept below 4 MiB all the time."""
    path = tmp_path / "console.log"
    writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(writer, b"the first line\r\n")
    for number in range(40):
        os.write(writer, (f"{number:07}\r\n" * (MIB // 9)).encode())
        free_middle(path, 4 * MIB)
        assert disk_use(path) <= 4 * MIB
    os.write(writer, b"the last line\r\n")
    os.close(writer)
    return path


def test_of_a_console_without_end_the_begin_and_the_end_stay_on_the_disk(flood):
    assert flood.stat().st_size > 35 * MIB
    console = Console(flood, 4 * MIB)
    text = console.text()
    assert text.startswith("the first line\n0000000\n") and text.endswith("39\nthe last line\n")
    assert len(text) < 5 * MIB and "\0" not in text
    note = next(line for line in text.splitlines() if line.startswith("(vmports: "))
    assert "bytes in the middle of this console are left out" in note
    assert "console_limit = 4" in note
    assert note in console.tail() and console.tail().endswith("the last line")
    assert console.last_line() == "the last line"


def test_a_console_that_was_removed_tells_the_same(flood):
    console = Console(flood, 4 * MIB)
    before = console.text(), console.tail(), console.crashes(), console.says
    console.keep()
    flood.unlink()
    assert (console.text(), console.tail(), console.crashes(), console.says) == before


def test_a_console_in_its_limit_is_whole(tmp_path):
    path = tmp_path / "console.log"
    path.write_text("x\n" * MIB)
    free_middle(path, 4 * MIB)
    console = Console(path, 4 * MIB)
    assert console.text() == "x\n" * MIB
    assert "vmports: " not in console.tail()


def test_a_console_grows_within_bounds_while_nobody_calls_us(tmp_path):
    """A test may sleep for an hour."""
    console = Console(tmp_path / "console.log", 2 * MIB)
    logs = [tmp_path / f"{name}.log" for name in ("qemu", "gvproxy", "passt", "share0")]
    for log in logs[:3]:
        log.write_bytes(b"a warning\n" * MIB)
    console.path.write_bytes(b"y\n" * 4 * MIB)
    console.keep_in_bounds()
    try:
        until(lambda: disk_use(console.path) <= 2 * MIB, 60, "the console")
        logs[3].write_bytes(b"one that begins later\n" * MIB)
        until(lambda: all(disk_use(log) <= 4 * MIB for log in logs), 60, "the logs")
    finally:
        console.let_grow()
    assert console.problems == []


def test_where_a_file_cannot_be_kept_in_bounds_that_is_told_once(tmp_path, monkeypatch):
    path = tmp_path / "console.log"
    path.write_bytes(b"y\n" * MIB)

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(growing, "_punch", refuse)
    bounds = Bounds({path: MIB})
    until(lambda: bounds.problems, 60, "a problem")
    bounds.close()
    (told,) = bounds.problems
    assert told.startswith(f"console.log is not kept below {MIB} bytes: ")
    assert "Operation not supported" in told


def test_a_test_that_replaces_what_we_call_ends_no_look(tmp_path, monkeypatch):
    path = tmp_path / "console.log"
    path.write_bytes(b"y\n" * 2 * MIB)
    tried = threading.Event()

    def mock(*_, **__):
        tried.set()
        raise TypeError("as a mock of a test's own")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", mock)
        bounds = Bounds({path: MIB})
        assert tried.wait(60)
    until(lambda: path.stat().st_blocks * 512 <= MIB, 60, "a look")
    bounds.close()
    assert bounds.problems == []


def test_a_look_that_fails_by_itself_is_an_error(monkeypatch):
    found = []
    monkeypatch.setattr(threading, "excepthook", lambda told: found.append(told.exc_value))

    def look(_last):
        raise TypeError("it is broken")

    Looks("vmports-test", 0.0, look).close()
    assert [str(error) for error in found] == ["it is broken"]


def test_a_file_that_is_too_large_all_the_same_is_read_by_its_ends(tmp_path):
    """Where no hole can be made: another system, or another file system."""
    console = Console(tmp_path / "console.log", MIB)
    console.path.write_bytes(b"first\n" + b"y\n" * 4 * MIB + b"last\n")
    text = console.text()
    assert len(text) < MIB + 1000
    assert text.startswith("first\n") and text.endswith("last\n") and "left out" in text


def test_the_end_of_a_vm_takes_little_memory_whatever_it_wrote(tmp_path):
    """A passing test with a console of 524 MB took a GB."""
    script = """
        import pathlib, resource, sys
        from pytest_vmports.vm.console import Console
        path = pathlib.Path(sys.argv[1])
        console = Console(path)
        console.tail(), console.crashes(), console.last_line(), console.says
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with path.open("wb") as file:
            for _ in range(300):
                file.write(b"a line of a console\\xff\\n" * 50_000)
        console.crashes(), console.panic(), console.may_be_crashing(), console.passage()
        console.keep()
        path.unlink()
        console.tail(1_000_000), console.last_line(), console.says, console.crashes()
        console.recent()
        for _ in console.pieces():
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "console.log")],
        check=True, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert int(done.stdout) < 150 << 10  # KiB


LINES = {
    "CRs": "\r",
    "times": "[ 1.0] ",
    "times and words": "[ 1.0] BUG: unable to handle ",
    "panics": "[ 1.0] Kernel panic - not syncing: ",
    "tasks": "[ 1.0] INFO: task x:1 blocked a ",
    "traps": "a, [#Oops",
    "sequences": "\x1b[",
    "titles": "\x1b]0;",
    "memory": "Kernel panicout of",
    "menus": "Press any ",
    "boot sectors": "Missing operating system\n Press ",
    "targets": "Reached target ",
}


@folded("line", LINES)
def test_no_pattern_goes_over_a_guests_line_again_and_again(line):
    """One that does needs longer than a test may take; benchmarks/console.py tells how long."""
    text = LINES[line] * (200_000 // len(LINES[line]))
    assert crashes.crashes_in(f"{text}\n[ 1.0] Kernel panic - not syncing: why\n")
    assert crashes.passage(f"{text}\n[ 1.0] Kernel panic - not syncing: why\n")
    hints.of(text)
    assert last_words.last_words(text[-65536:] + "\nx") is None


def test_words_that_may_be_read_in_two_ways_are_read_in_one():
    """It took 2**n steps."""
    text = "Missing operating system\n" + "\nPress a Press a" * 60 + "\nx"
    assert last_words.last_words(text) is None
    row = last_words.last_words("Missing operating system\nPress any key to go on\n")
    assert row is not None and "boot sector" in row.means


def test_a_kernels_words_behind_a_long_line_are_found():
    said = "Kernel panic - not syncing: why"
    (found,) = crashes.crashes_in(f"{'x [ 1.0] ' * 100_000}[ 1.0] {said}\n")
    assert found.said == "why"


class CountedDict(dict):
    """Counts how often it is gone through."""

    walks = 0

    def values(self):
        CountedDict.walks += 1
        return super().values()

    def items(self):
        CountedDict.walks += 1
        return super().items()


def test_a_fragment_costs_the_same_however_many_came_before(monkeypatch):
    monkeypatch.setattr(CountedDict, "walks", 0)
    fragments = udp_frames._Fragments(CountedDict())
    for number in range(1300):
        assert fragments.add(8 * number + 8, b"x" * 8, more=True) is None
    assert not fragments.broken
    assert CountedDict.walks == 0


def test_a_datagram_of_too_many_fragments_is_none():
    fragments = udp_frames._Fragments()
    for number in range(8000):
        fragments.add(8 * number + 8, b"x" * 8, more=True)
        if fragments.broken:
            break
    assert fragments.broken and number < 1400


def test_fragments_that_replace_each_other_are_reckoned_once():
    fragments = udp_frames._Fragments()
    for _ in range(3):
        assert fragments.add(0, b"x" * 16, more=True) is None
    fragments.add(0, b"x" * 8, more=True)
    assert fragments.add(8, b"y" * 8, more=False) == b"x" * 8 + b"y" * 8


def test_each_packet_of_a_guest_is_read_once_while_it_is_asked(tmp_path, monkeypatch):
    read = []
    real = handshake._flags
    monkeypatch.setattr(handshake, "_flags", lambda one, port: read.append(one) or real(one, port))
    file = tmp_path / "handshake.pcap"
    packet = struct.pack("=IIII", 1, 2, 60, 60) + bytes(60)
    answers = handshake._Answers(8080)
    file.write_bytes(bytes(24))
    for _ in range(100):
        with file.open("ab") as more:
            more.write(packet * 10 + packet[:30])
        answers.look(file)
        with file.open("ab") as more:
            more.write(packet[30:])
        answers.look(file)
    assert len(read) == 1100


class Flood:
    """An agent's side of the control channel that answers every command with output for ever."""

    def __init__(self):
        self.sent, self.killed, self.written, self.window = [], 0, 0, None

    def send(self, kind, payload=b""):
        self.sent.append(kind)
        self.killed += kind == "K"

    def receive(self, _deadline, _check):
        last = self.sent[-1]
        if last in "SI":
            self.sent.append("answered")
            return "A", b""
        if self.killed and self.written > 100_000:  # what was under way comes all the same
            return "X", b"9"
        self.written += 4096
        return "OE"[self.written // 4096 % 2], b"x" * 4096


def test_output_by_the_control_channel_is_bounded_and_its_command_killed():
    control = Flood()
    agent = AgentShell(control, lambda: None)
    code, *written = agent.execute("yes", timeout=None, input=b"", most=10_000)
    assert code is None and control.killed == 1
    assert 10_000 < sum(map(len, written)) <= 10_000 + 4096
    assert control.written > 100_000


def test_a_console_that_is_shown_as_it_comes_is_read_in_bounds(tmp_path):
    console = Console(tmp_path / "console.log")
    plan = SimpleNamespace(guest=SimpleNamespace(name="alpine"))
    followed = _Followed(SimpleNamespace(console=console, state=State.READY, plan=plan))
    console.path.write_bytes(b"first\n" + b"x" * 200_000)
    assert followed.lines(last=False) == ["first", "x" * 200_000]  # no memory for its rest
    with console.path.open("ab") as file:
        file.write(b"y\n" * 3 * MIB + b"last\n")
    lines = followed.lines(last=True)
    assert lines[1].startswith("(5") and lines[1].endswith(" bytes are left out)")
    assert sum(map(len, lines)) < MIB and lines[-1] == "last"


def test_the_command_run_shows_what_is_new_and_reads_no_more(tmp_path, monkeypatch, capsys):
    console = Console(tmp_path / "console.log")
    console.begin_with("of the template\n")
    console.path.write_bytes(b"x\n" * 2 * MIB)
    vm = SimpleNamespace(pids={"QEMU": 1}, _machine=SimpleNamespace(console=console))
    lives = [True, True, False]
    monkeypatch.setattr(run, "runs", lambda _pid: lives.pop(0))

    def slept(_seconds):
        with console.path.open("ab") as file:
            file.write(b"a new line\n")

    monkeypatch.setattr(clock, "sleep", slept)
    run._follow(vm)
    shown = capsys.readouterr().out
    assert shown.startswith("of the template\n\n(3145728 bytes are left out)\nx\n")
    assert shown.endswith("x\na new line\na new line\n") and len(shown) < MIB + 200


def test_events_that_a_guest_makes_without_end_are_remembered_by_the_first():
    events = FewEvents("GUEST_CRASHLOADED")

    async def make():
        for _ in range(10_000):
            await events.put({"event": "GUEST_CRASHLOADED"})

    asyncio.run(make())
    assert 0 < len(events.history) < 20 and events._queue.qsize() < 20


def test_a_kernel_that_is_made_to_warn_without_end_is_remembered_by_the_first_words():
    watch = crashes.Watch()
    for number in range(300):
        watch.feed(f"[ 1.0] WARNING: number {number}\n" * 30)
    watch.feed("[ 1.0] Kernel panic - not syncing: at last\n")
    said = [one.said for one in watch.found]
    assert said[0] == "WARNING: number 0" and said[-1] == "at last"
    assert len(said) < 100


def test_frames_that_nobody_reads_take_little_memory_however_long_they_are():
    pump = Pump("test")
    with contextlib.closing(pump), pump.lock:
        link = pump.link(lambda _frame: None)
        for _ in range(1000):
            link.send(bytes(60_000))
        assert link.dropped > 500
        assert sum(map(len, link._waiting)) <= 9 * MIB
        assert link._waiting_bytes == sum(map(len, link._waiting))

"""The agent that guests are given, run here on the host: it needs no more than Linux.

The one for another architecture is run by QEMU's emulator of single programs.
"""

import contextlib
import hashlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from importlib import resources

import agent_program
import psutil
import pytest
from host_shell import Taker
from vm_helpers import alive, until

from pytest_vmports.errors import GuestFileError, MachineError
from pytest_vmports.system import clock, patience
from pytest_vmports.system.architecture import architecture_named, host_architecture
from pytest_vmports.vm.inside.agent_link import AgentLink
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import LARGEST, READY, WARM, Control, Frames
from pytest_vmports.vm.inside.window import SIZE, SLOT, Window

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent is for Linux")
GUESTS = resources.files("pytest_vmports.guests")


def ended():
    """Is called while we wait; there is no VM that could have ended."""


class Agent:
    """An agent as a guest has it, and our end of its channel.

    Args:
        command: the program.
        device: a folder like that of the window's device in a guest.
        window: ours of it.
    """

    def __init__(self, command, device="/nowhere", window=None):
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen([*command, "7", device], stdin=theirs, stdout=theirs)
        self.control = Control(ours, window)
        self.window = window
        self.shell = AgentShell(self.control, ended)

    def run(self, command, given=b"", timeout=60.0, **more):
        return self.shell.execute(command, timeout=timeout, input=given, **more)


@pytest.fixture(params=agent_program.MADE_FOR, ids=lambda architecture: architecture.name)
def program(request, tmp_path, missing):
    """Return the words that run an architecture's agent."""
    return agent_program.words(request.param, tmp_path, missing)


def device(folder, vendor="0x1af4", name="resource2_wc"):
    """Return a folder like that of the window's device, and its memory as a file."""
    folder.mkdir()
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text("0x1110\n")
    (folder / "enable").write_text("0\n")
    (folder / name).write_bytes(bytes(SIZE))
    return folder, (folder / name).open("r+b")


@pytest.fixture(params=["window", "serial"])
def agent(request, program, tmp_path):
    """Return an agent that has a window, and one that has none."""
    folder, window = tmp_path / "nowhere", None
    if request.param == "window":
        folder, memory = device(tmp_path / "device")
        with memory:
            window = Window(memory.fileno())
    agent = Agent(program, folder, window)
    try:
        yield agent
    finally:
        agent.control.close()
        assert agent.process.wait(60) == 1  # its channel has ended


def test_the_executable_was_made_from_the_source_beside_it():
    source = hashlib.sha256((GUESTS / "agent.c").read_bytes()).hexdigest()
    assert (GUESTS / "agent.sha256").read_text().strip() == source, "run scripts/build-agent"


def test_it_says_first_how_the_setup_ended(agent):
    assert agent.control.await_number(READY, float("inf"), ended) == 7


@pytest.fixture
def ready(agent):
    agent.control.await_number(READY, float("inf"), ended)
    return agent


def test_a_command_gives_its_status_and_both_outputs(ready):
    assert ready.run("echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    assert ready.run("kill -TERM $$") == (-signal.SIGTERM, b"", b"")
    assert ready.run(":") == (0, b"", b"")


def test_megabytes_of_any_bytes_go_in_and_come_out_as_they_were(ready):
    data = os.urandom(3 << 20)
    assert ready.run("cat", data) == (0, data, b"")
    assert ready.run("cat >&2", data) == (0, b"", data)


def test_what_a_command_writes_goes_to_who_takes_it_and_is_not_kept(ready):
    taker, data = Taker(), os.urandom(1 << 20)
    done = ready.shell.execute("echo no >&2; cat; exit 3", timeout=60, input=data, sink=taker)
    assert done == (3, b"", b"")
    assert (taker.output, taker.errors) == (data, b"no\n")


def test_a_command_whose_output_nobody_wants_any_more_is_ended(ready, tmp_path):
    taker = Taker(100_000)
    script = f"echo $$ >'{tmp_path}/pid'; exec cat /dev/zero"
    with pytest.raises(GuestFileError, match="enough"):
        ready.shell.execute(script, timeout=None, input=b"", sink=taker)
    pid = int((tmp_path / "pid").read_text())
    assert ready.run("echo the next") == (0, b"the next\n", b"")
    until(lambda: not alive(pid), 60, "the command runs on")
    assert len(taker.output) < 100_000 + 2 * SLOT


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, SLOT, SLOT * 4 + 1])
def test_input_of_every_size_ends_where_it_ends(ready, size):
    assert ready.run("cat", b"x" * size) == (0, b"x" * size, b"")


@pytest.mark.parametrize("command", ["exit 0", "exec <&-; sleep 0.1", "head -c 1 >/dev/null"])
def test_input_that_nobody_reads_does_no_harm(ready, command):
    assert ready.run(command, b"x" * (1 << 20))[0] == 0
    assert ready.run("echo still there") == (0, b"still there\n", b"")


def test_input_and_outputs_of_any_pieces_flow_at_once(ready):
    sizes = (0, 1, 300, 2 * SLOT, 5000, 0, SLOT + 7, 65536, 1, 4096)
    pieces = [os.urandom(size) for size in sizes]
    whole = b"".join(pieces)
    assert ready.run("tee /dev/stderr", iter(pieces)) == (0, whole, whole)
    # Nobody takes the rest, which has no end.
    assert ready.run("head -c 5", itertools.repeat(b"endless "))[:2] == (0, b"endle")


def test_what_raises_while_it_is_read_as_input_ends_the_command(ready):
    def given():
        yield b"begun"
        raise LookupError

    with pytest.raises(LookupError):
        ready.run("cat; sleep 1000", given())
    assert ready.run("echo next") == (0, b"next\n", b"")


def test_output_of_every_size_comes_whole_and_in_its_order(ready):
    sizes = (1, 255, 256, 257, 4096, 65536, SLOT, SLOT + 1)
    script = "".join(f"head -c {n} /dev/zero | tr '\\0' {n % 10}; " for n in sizes)
    assert ready.run(script) == (0, b"".join(b"%d" % (n % 10) * n for n in sizes), b"")


def test_what_is_left_in_a_pipe_by_a_command_that_has_ended_comes_too(ready):
    script = "head -c 65536 /dev/zero; head -c 65536 /dev/zero >&2"
    for _ in range(10):
        assert ready.run(script) == (0, bytes(65536), bytes(65536))


def test_time_by_progress_lasts_as_long_as_something_goes_on(ready):
    def given():
        for _ in range(6):
            clock.sleep(0.5)
            yield bytes(LARGEST)

    # Longer in all than it may be silent.
    speaks = "for n in 1 2 3 4 5 6; do sleep 0.5; echo; done"
    assert ready.run(speaks, timeout=2, per_progress=True)[0] == 0
    assert ready.run("cat >/dev/null", given(), timeout=2, per_progress=True)[0] == 0
    assert ready.run("cat; sleep 1000", b"in", timeout=0.3, per_progress=True)[0] is None
    assert ready.run("echo next") == (0, b"next\n", b"")


def test_a_command_begins_as_in_a_terminal(ready):
    _, environment, _ = ready.run("env; pwd; cat")
    lines = environment.decode().splitlines()
    assert "HOME=/root" in lines and lines[-1] == "/"
    # Writing into a closed pipe ends it, and no error goes on and on.
    assert ready.run("yes | head -n 1") == (0, b"y\n", b"")


def test_a_command_that_does_not_end_is_killed_with_all_it_started(ready, tmp_path):
    script = f"sleep 1000 & echo $! >'{tmp_path}/pid'; echo begun; sleep 1000"
    assert ready.run(script, timeout=1) == (None, b"begun\n", b"")
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), 60, "the command's child runs on")
    assert ready.run("echo next") == (0, b"next\n", b"")


def test_a_command_that_has_no_time_at_all_is_killed_too(ready):
    assert ready.run("sleep 1000", timeout=0)[0] is None
    assert ready.run("echo next") == (0, b"next\n", b"")


def test_a_command_that_writes_without_end_is_killed_too(ready):
    status, written, _ = ready.run("yes", timeout=1)
    assert status is None and set(written) == set(b"y\n")
    assert ready.run("echo next") == (0, b"next\n", b"")


def test_what_a_command_leaves_in_the_background_runs_on_and_may_write(ready, tmp_path):
    script = f"(while :; do echo noise || exit; sleep 0.01; done) & echo $! >'{tmp_path}/pid'"
    for _ in range(3):
        status, _, _ = ready.run(script)
        assert status == 0
    pid = int((tmp_path / "pid").read_text())
    assert ready.run("sleep 0.3; echo done") == (0, b"done\n", b"")
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), 60, "it was killed")


def test_two_threads_take_turns(ready):
    got = []
    threads = [
        threading.Thread(target=lambda n=n: got.append((n, ready.run(f"sleep 0.1; echo {n}"))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(n, (0, b"%d\n" % n, b"")) for n in range(4)]


@pytest.mark.parametrize(
    ("command", "given"),
    [("yes stale", b""), ("cat >/dev/null; sleep 1000", b"x" * (1 << 20)), ("sleep 1000", b"")],
    ids=["output", "input", "silence"],
)
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_after_an_interruption_the_next_command_gets_its_own_answer(ready, command, given, at):
    count = itertools.count(1)

    def interrupt():
        if next(count) == at:
            raise KeyboardInterrupt

    ready.shell.check = interrupt
    seen = set(psutil.Process(ready.process.pid).children())
    with pytest.raises(KeyboardInterrupt):
        # What does not answer is interrupted while it is waited for.
        ready.run(f"echo begun; {command}", given, timeout=None)
    for n in range(2):
        assert ready.run(f"echo {n}; echo err >&2; exit 4") == (4, b"%d\n" % n, b"err\n")
    left = set(psutil.Process(ready.process.pid).children(recursive=True)) - seen
    assert {child.status() for child in left} <= {psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize("words", [{"vendor": "0x1af5"}, {"name": "resource0"}])
def test_what_is_no_window_is_left_alone(program, tmp_path, words):
    folder, memory = device(tmp_path / "device", **words)
    with memory:
        window = Window(memory.fileno())
    agent = Agent(program, folder, window)
    with contextlib.closing(agent.control):
        agent.control.await_number(READY, float("inf"), ended)
        assert agent.control.window is None
        data = os.urandom(10_000)
        assert agent.run("cat", data) == (0, data, b"")
    assert agent.process.wait(60) == 1


def test_a_window_that_leads_elsewhere_is_not_used(program, tmp_path):
    folder, memory = device(tmp_path / "device")
    _, other = device(tmp_path / "other")
    with memory, other:
        window = Window(other.fileno())
    agent = Agent(program, folder, window)
    with contextlib.closing(agent.control):
        agent.control.await_number(READY, float("inf"), ended)
        assert agent.control.window is None
        assert agent.run("cat", b"in") == (0, b"in", b"")
    assert agent.process.wait(60) == 1


def test_long_things_go_by_the_window_and_none_by_the_serial_port(agent, monkeypatch):
    agent.control.await_number(READY, float("inf"), ended)
    kinds = Counter()
    real = Frames.next

    def counted(frames):
        frame = real(frames)
        kinds.update(frame[0] if frame else "")
        return frame

    monkeypatch.setattr(Frames, "next", counted)
    data = os.urandom(10 * SLOT)
    assert agent.run("cat", data) == (0, data, b"")
    small = kinds["O"] * LARGEST
    assert small < SLOT if agent.window else small >= len(data)
    assert (kinds["A"] < 100) == bool(agent.window)


def test_an_agent_that_was_started_anew_is_noticed(ready):
    ours, theirs = socket.socketpair()
    shell = AgentShell(Control(ours), ended)
    with ours, theirs:
        theirs.sendall(b"V\1\0\0" + b"0")
        with pytest.raises(MachineError, match="started anew"):
            shell.execute("true", timeout=5, input=b"")


def test_with_the_time_each_restored_guest_that_needs_one_gets_a_seed_of_its_own():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames = []
        for _ in range(2):
            Control(ours).send_clock(1700000000.5, seed=True)
            frames.append(theirs.recv(100))
    for frame in frames:
        assert frame[:4] == b"C\x30\0\0"
        assert struct.unpack("<qq", frame[4:20]) == (1700000000, 500000000)
    assert len({frame[20:] for frame in frames}) == 2


def test_an_agent_that_hangs_costs_no_more_than_there_is_patience_for(ready):
    os.kill(ready.process.pid, signal.SIGSTOP)
    stopped = psutil.Process(ready.process.pid)
    until(lambda: stopped.status() == psutil.STATUS_STOPPED, 60, "it runs on")
    try:
        for _ in range(2):
            with patience.at_most(0.2), pytest.raises(MachineError, match="does not answer"):
                ready.run("echo old", timeout=10_000)
    finally:
        os.kill(ready.process.pid, signal.SIGCONT)
    assert ready.run("echo next; exit 3") == (3, b"next\n", b"")


def test_it_warms_the_kernels_tcp_and_nothing_of_that_stays(ready):
    sent_before, waiting_before = segments(), waiting()
    for _ in range(3):
        ready.control.send(WARM)
        assert ready.control.await_number(WARM, float("inf"), ended) == 0
    assert segments() >= sent_before + 3 * 6  # it did go over TCP
    assert psutil.Process(ready.process.pid).net_connections("inet") == []
    assert waiting() <= waiting_before
    assert ready.run("echo on") == (0, b"on\n", b"")


class _EndedError(Exception):
    """Raised by what is called while we wait."""


def test_who_asks_for_the_shell_says_when_its_commands_are_given_up(ready):
    """Whoever warmed it before, or had it answer: a reboot is none of theirs."""

    def gone():
        raise _EndedError

    link = AgentLink(ready.control)
    link.warm(clock.now() + 60, ended)
    with pytest.raises(_EndedError):
        link.shell(gone).execute("true", timeout=None, input=b"")
    assert link.shell(ended).execute("echo on", timeout=None, input=b"") == (0, b"on\n", b"")


def waiting():
    """Return how many closed connections this network namespace remembers."""
    with open("/proc/net/sockstat") as table:
        words = next(line.split() for line in table if line.startswith("TCP:"))
    return int(words[words.index("tw") + 1])


def segments():
    """Return how many segments this network namespace has sent by TCP."""
    with open("/proc/net/snmp") as table:
        names, values = (line.split() for line in table if line.startswith("Tcp:"))
    return int(values[names.index("OutSegs")])


def test_without_a_loopback_it_says_so_soon_and_works_on(tmp_path, missing):
    if subprocess.run(["unshare", "--net", "--map-root-user", "true"], check=False).returncode:
        missing("a network namespace (unshare --net)", "allow user namespaces, or run as root")
    program = agent_program.words(architecture_here(), tmp_path, missing)
    agent = Agent(["unshare", "--net", "--map-root-user", *program])
    try:
        agent.control.await_number(READY, float("inf"), ended)
        agent.control.send(WARM)
        assert agent.control.await_number(WARM, float("inf"), ended) != 0
        assert agent.run("echo on") == (0, b"on\n", b"")
    finally:
        agent.control.close()
        agent.process.wait(60)


def architecture_here():
    return architecture_named(host_architecture())

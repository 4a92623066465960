"""What a guest answers late, twice, slowly or out of turn: it is never taken for another's answer.

And no wait goes on for longer than it was given and what it takes to end what has not ended.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import pytest_vmports
from pytest_vmports.errors import CommandTimeoutError, GuestShellError
from pytest_vmports.system import clock
from pytest_vmports.vm.inside import agent_shell, qemu_agent
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import READY, Control
from pytest_vmports.vm.inside.qemu_agent import GuestAgent
from pytest_vmports.vm.inside.shell import MAX_OUTPUT

AGENT = Path(pytest_vmports.__file__).parent / "guests" / f"agent.{platform.machine()}"
SYNC, EXEC, STATUS = "guest-sync-delimited", "guest-exec", "guest-exec-status"


def answer_to(question):
    """Return what QEMU's agent says to a line of ours, of a command that has ended with 7."""
    message = json.loads(question.lstrip(b"\xff"))
    answer = {
        SYNC: message["arguments"].get("id"),
        EXEC: {"pid": 300},
        STATUS: {"exited": True, "exitcode": 7},
    }[message["execute"]]
    start = b"\xff" if message["execute"] == SYNC else b""
    return start + json.dumps({"return": answer}).encode() + b"\n"


def serve(connection, held):
    """Answer each question, but the first of them only when so many have come."""
    waiting = []
    with contextlib.suppress(OSError), connection.makefile("rb") as questions:
        for question in questions:
            waiting.append(answer_to(question))
            held -= 1
            if held <= 0:
                connection.sendall(b"".join(waiting))
                waiting.clear()


@pytest.mark.parametrize("held", [1, 2, 3, 5])
def test_what_a_slow_agent_was_asked_before_is_not_the_answer_to_what_it_is_asked_next(
    monkeypatch, held
):
    monkeypatch.setattr(qemu_agent, "_SYNC_AGAIN_SECONDS", 0.02)
    ours, theirs = socket.socketpair()
    agent = GuestAgent(ours)
    with theirs:
        answering = threading.Thread(target=serve, args=(theirs, held))
        answering.start()
        assert agent.run("exit 7", timeout=20) == (7, b"", b"")
        assert agent.run("exit 7", timeout=20) == (7, b"", b"")
        agent.close()
        answering.join()


class SlowChannel:
    """A channel to an agent that takes so many seconds for each answer, by a clock of its own."""

    def __init__(self, monkeypatch, seconds, answer=answer_to):
        self.seconds, self.answer, self.now = seconds, answer, 1000.0
        self.ready = []
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(clock, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def send(self, data, *_):
        self.ready.append((self.now + self.seconds, self.answer(data)))
        return True

    def receive(self, deadline, _check):
        if not self.ready or self.ready[0][0] >= deadline:
            self.now = max(self.now, deadline)
            return b""
        when, answer = self.ready.pop(0)
        self.now = max(self.now, when)
        return answer


def running_still(question):
    return answer_to(question).replace(b"true", b"false").replace(b', "exitcode": 7', b"")


def one_byte_more(_question):
    return b" "


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4.0, 14.0, 29.0])
@pytest.mark.parametrize("answer", [running_still, one_byte_more])
def test_an_agent_however_slow_holds_no_command_beyond_its_time_and_its_end(
    monkeypatch, seconds, answer
):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent = GuestAgent(ours)
        agent._channel = channel = SlowChannel(monkeypatch, seconds, answer)
        begin = channel.now
        with pytest.raises((GuestShellError, CommandTimeoutError)):
            agent.run("sleep 1000", timeout=2)
        assert channel.now - begin <= 2 + qemu_agent._CALL_SECONDS + 1  # and one look


@pytest.fixture
def real_agent(tmp_path):
    """Return the channel of an agent that runs here. Set no clock by it: it is the host's."""
    program = tmp_path / "agent"
    shutil.copy(AGENT, program)
    program.chmod(0o755)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen([program, "0"], stdin=theirs, stdout=theirs)
        try:
            control = Control(ours)
            assert control.await_number(READY, clock.now() + 20, lambda: None) == 0
            yield control
        finally:
            child.kill()
            child.wait()


def test_a_command_whose_time_is_over_before_it_begins_never_begins(real_agent, monkeypatch):
    monkeypatch.setattr(agent_shell, "_AFTER_KILL", 3.0)
    way = AgentShell(real_agent, lambda: None)
    for command in ("yes", "sleep 9"):
        assert way.execute(command, timeout=0, input=b"", most=1000) == (None, b"", b"")
        assert way.execute("echo next", timeout=20, input=b"") == (0, b"next\n", b"")


def test_what_nobody_named_a_limit_for_is_kept_up_to_the_usual_one(real_agent):
    way = AgentShell(real_agent, lambda: None)
    status, output, _ = way.execute("yes", timeout=60, input=b"")
    assert status is None
    assert MAX_OUTPUT < len(output) < MAX_OUTPUT + (1 << 20)
    assert way.execute("echo next", timeout=20, input=b"") == (0, b"next\n", b"")


def frame(kind, payload=b""):
    return kind.encode() + len(payload).to_bytes(3, "little") + payload


def test_a_command_that_the_first_kill_missed_is_killed_again_although_it_writes(monkeypatch):
    monkeypatch.setattr(agent_shell, "_KILL_AGAIN", 0.05)
    monkeypatch.setattr(agent_shell, "_AFTER_KILL", 5.0)
    ours, guest = socket.socketpair()

    def talk():
        frames, kills = Heard(guest), 0
        with contextlib.suppress(OSError):
            while (kind := frames.next()) != "X":
                guest.sendall(frame("A") if kind in "Ss" else b"")
            while kills < 2:
                guest.sendall(frame("O", b"y\n" * 100))
                kills += frames.kills()
            guest.sendall(frame("X", b"9"))

    with ours, guest:
        talking = threading.Thread(target=talk)
        talking.start()
        way = AgentShell(Control(ours), lambda: None)
        try:
            status, output, _ = way.execute("yes", timeout=1, input=b"", most=1000)
        finally:
            guest.shutdown(socket.SHUT_RDWR)
            talking.join()
    assert status is None
    assert len(output) < 2000


class Heard:
    """What a guest hears of ours."""

    def __init__(self, connection):
        self.connection = connection

    def next(self):
        head = self.connection.recv(4, socket.MSG_WAITALL)
        self.connection.recv(int.from_bytes(head[1:], "little"), socket.MSG_WAITALL)
        return chr(head[0])

    def kills(self):
        with contextlib.suppress(BlockingIOError):
            return self.connection.recv(1 << 16, socket.MSG_DONTWAIT).count(frame("K"))
        return 0

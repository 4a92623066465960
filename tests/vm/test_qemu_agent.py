"""Our side of the QEMU guest agent's protocol, against a stand-in that runs commands here."""

import base64
import contextlib
import glob
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

import psutil
import pytest
from host_shell import Taker
from trees import lay, picture
from vm_helpers import until

from pytest_vmports.errors import CommandTimeoutError, GuestFileError, GuestShellError
from pytest_vmports.vm.inside import copying, qemu_agent_stream
from pytest_vmports.vm.inside.qemu_agent import GuestAgent
from pytest_vmports.vm.inside.shell import RunnerShell


class StandIn:
    """An agent that speaks as qemu-ga does. ``deaf``: messages it drops before it answers any."""

    def __init__(self, connection, deaf=0, forbidden=(), truncated=False):
        self.connection = connection
        self.deaf, self.forbidden, self.truncated = deaf, forbidden, truncated
        self.running, self.files = {}, {}
        self.asked, self.lines = [], []

    def serve(self):
        with contextlib.suppress(OSError, ValueError), self.connection.makefile("rb") as lines:
            for line in lines:
                if self.deaf:
                    self.deaf -= 1
                    continue
                message = json.loads(line.lstrip(b"\xff"))
                self.lines.append(line.decode("latin-1"))
                self.asked.append(message["execute"])
                answer = self.answer(message["execute"], message["arguments"])
                start = b"\xff" if message["execute"] == "guest-sync-delimited" else b""
                self.connection.sendall(start + json.dumps(answer).encode() + b"\n")

    def reap(self):
        for child in self.running.values():
            child.wait(timeout=30)
        for pid in [*self.files]:
            self.close(pid)

    def said(self, child):
        """Return what one has written, which is told once."""
        for file in self.files[child.pid]:
            file.seek(0)
        texts = [file.read() for file in self.files[child.pid][1:]]
        self.close(child.pid)
        return texts

    def close(self, pid):
        for file in self.files.pop(pid):
            file.close()

    def answer(self, name, arguments):
        if name in self.forbidden:
            return {"error": {"class": "CommandNotFound", "desc": f"{name} has been disabled"}}
        if name == "guest-sync-delimited":
            return {"return": arguments["id"]}
        if name == "guest-exec":
            # It reads and writes beside a program that runs, which waits for no answer of its.
            files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 - see close
            files[0].write(base64.b64decode(arguments["input-data"]))
            files[0].seek(0)
            child = subprocess.Popen(
                [arguments["path"], *arguments["arg"]], stdin=files[0], stdout=files[1],
                stderr=files[2],
            )  # fmt: skip
            self.files[child.pid] = files
            self.running[child.pid] = child
            return {"return": {"pid": child.pid}}
        return {"return": self.status(self.running[arguments["pid"]])}

    def status(self, child):
        if child.poll() is None:
            return {"exited": False}
        out, err = self.said(child)
        code = child.returncode
        told = {"exited": True, "out-truncated": self.truncated}
        told |= {"signal": -code} if code < 0 else {"exitcode": code}
        for name, data in (("out", out), ("err", err)):
            if data:
                told[f"{name}-data"] = base64.b64encode(data).decode()
        return told


@pytest.fixture
def agent():
    """Return a function that makes an agent with a stand-in of this kind behind it."""
    with contextlib.ExitStack() as at_end:

        def made(**keywords):
            ours, theirs = socket.socketpair()
            stand_in = StandIn(theirs, **keywords)
            thread = threading.Thread(target=stand_in.serve)
            thread.start()
            agent = GuestAgent(ours)
            agent.stand_in = stand_in
            at_end.callback(stand_in.reap)
            at_end.callback(thread.join)
            at_end.callback(theirs.close)
            at_end.callback(agent.close)
            return agent

        yield made


def test_a_command_gives_status_output_and_errors(agent):
    found = agent().run("cat; echo wrong >&2; exit 7", timeout=30, input=b"\x00in\xff")
    assert found == (7, b"\x00in\xff", b"wrong\n")


def test_a_command_is_a_text_for_the_shell(agent):
    assert agent().run('printf "%s" "it\'s $((1 + 1))"', timeout=30)[1] == b"it's 2"


def test_bytes_that_are_no_text_reach_the_shell_as_they_are(agent):
    one = agent()
    command = "printf '%s' \"'\udcff%'\\\\ä\"; cat; exit 3"
    assert one.run(command, timeout=30, input=b"in") == (3, b"'\xff%'\\\xc3\xa4in", b"")
    assert not any("\\udc" in line for line in one.stand_in.lines)


def test_a_command_that_grows_too_long_on_its_way_is_refused(agent):
    one = agent()
    with pytest.raises(ValueError, match="put a script"):
        one.run("echo \udcff" + " " * (100 << 10), timeout=30)
    assert one.stand_in.asked == []


def test_files_go_both_ways(agent, tmp_path):
    lay(tmp_path / "source", {b"\xff'": b"\0\xff", b"folder": {b"link": ("link", b"nowhere")}})
    way = RunnerShell(agent())
    copying.put(way, tmp_path / "source", os.fsdecode(os.fsencode(tmp_path) + b"/in\xfe"), 30)
    assert picture(os.fsencode(tmp_path) + b"/in\xfe") == picture(tmp_path / "source")
    copying.get(way, str(tmp_path / "source"), tmp_path / "out", 30)
    assert picture(tmp_path / "out") == picture(tmp_path / "source")


class Sums:
    """Takes what a command writes, and remembers how much and in how large pieces."""

    def __init__(self):
        self.sums, self.sizes = [hashlib.sha256(), hashlib.sha256()], [[], []]

    def out(self, data):
        self.take(0, data)

    def err(self, data):
        self.take(1, data)

    def take(self, stream, data):
        self.sums[stream].update(data)
        self.sizes[stream].append(len(data))

    def saw(self, stream, data):
        return self.sums[stream].digest() == hashlib.sha256(data).digest()


def test_more_than_the_agent_keeps_goes_through_in_pieces(agent):
    one, sums, whole = agent(), Sums(), os.urandom(20 << 20)
    chunks = (whole[at : at + 3_000_000] for at in range(0, len(whole), 3_000_000))
    script = "cat; echo wrong >&2; exit 7"
    assert one.run(script, timeout=100, input=chunks, sink=sums, per_progress=True)[0] == 7
    assert sums.saw(0, whole) and sums.saw(1, b"wrong\n")
    assert max(sums.sizes[0]) <= 1 << 20
    assert max(map(len, one.stand_in.lines)) < 3 << 19
    assert one.run("echo on", timeout=30) == (0, b"on\n", b"")
    assert glob.glob("/tmp/.vmports-*/in") == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 3", 3), ("head -c 100 >/dev/null; exit 4", 4), ("exec <&-; echo x; exit 5", 5),
        ("exec >&-; cat >/dev/null; exit 6", 6), ("kill -KILL $$", 128 + 9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_a_command_that_takes_no_more_of_its_input_ends_all_the_same(agent, script, code, size):
    found = agent().run(script, timeout=60, input=iter([bytes(size)]), sink=Sums())
    assert found == (code, b"", b"")


def test_a_large_input_without_a_taker_brings_the_output_itself(agent):
    data = os.urandom(3 << 20)
    assert agent().run("tee /dev/stderr", timeout=60, input=data) == (0, data, data)
    code, *written = agent().run("cat", timeout=60, input=data, most=1 << 20)
    assert code == 128 + 9 and 1 << 20 < sum(map(len, written)) <= 3 << 20


def test_a_timeout_ends_what_goes_piece_by_piece_and_leaves_nothing(agent):
    one = agent()
    for chunks in ((), iter([bytes(3 << 20)])):
        with pytest.raises(CommandTimeoutError, match=r"after 0\.5 s"):
            one.run("sleep 9871 & exec sleep 9872", timeout=0.5, input=chunks, sink=Sums())
        until(lambda: not sleeping(), 60, lambda: str(sleeping()))
    assert one.run("echo again", timeout=30) == (0, b"again\n", b"")
    until(lambda: not glob.glob("/tmp/.vmports-*/in"), 60, "its pipes stay")


def test_who_wants_no_more_ends_the_command(agent):
    one = agent()
    with pytest.raises(GuestFileError, match="enough"):
        one.run("exec cat /dev/zero", timeout=60, sink=Taker(100_000))
    assert one.run("echo again", timeout=30) == (0, b"again\n", b"")


def test_a_guest_that_can_make_no_pipes_says_so(agent, monkeypatch):
    monkeypatch.setattr(qemu_agent_stream, "_MAKE", "echo Read-only file system >&2; exit 1")
    with pytest.raises(GuestShellError, match="no pipes can be made in /tmp: Read-only"):
        agent().run("true", timeout=60, sink=Sums())


def test_an_archive_of_the_agents_is_held_to_the_limit_too(agent, tmp_path):
    (tmp_path / "source").write_bytes(bytes(1000))
    with pytest.raises(GuestFileError, match="the most that is copied is 999 bytes"):
        copying.get(RunnerShell(agent()), str(tmp_path / "source"), tmp_path / "out", 30, 999)
    assert not (tmp_path / "out").exists()


def test_a_command_ended_by_a_signal_has_a_shells_status_for_it(agent):
    assert agent().run("kill -TERM $$", timeout=30)[0] == 128 + 15


def test_two_commands_one_after_the_other_do_not_mix(agent):
    one = agent()
    assert [one.run(f"echo {n}", timeout=30)[1] for n in range(3)] == [b"0\n", b"1\n", b"2\n"]


def test_a_timeout_ends_the_command_with_its_children(agent):
    one = agent()
    with pytest.raises(CommandTimeoutError, match=r"after 0\.5 s and was killed") as caught:
        one.run("echo begun; sleep 9871 & sleep 9872", timeout=0.5)
    assert caught.value.stdout == b"begun\n"
    until(lambda: not sleeping(), 60, lambda: str(sleeping()))
    assert one.run("echo again", timeout=30) == (0, b"again\n", b"")


@pytest.mark.parametrize(("home", "seen"), [(None, b"/root\n"), ("/home/x", b"/home/x\n")])
def test_a_command_has_a_home_also_where_the_agent_has_none(agent, monkeypatch, home, seen):
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    assert agent().run("sh -c 'echo $HOME'", timeout=30) == (0, seen, b"")


def test_two_threads_take_turns(agent):
    one, got = agent(), []
    threads = [
        threading.Thread(target=lambda n=n: got.append((n, one.run(f"echo {n}", timeout=30))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(n, (0, b"%d\n" % n, b"")) for n in range(6)]


def test_an_interrupted_command_is_killed_and_the_next_gets_its_own_answer(agent, monkeypatch):
    one = agent()

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pytest_vmports.vm.inside.qemu_agent.clock.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            one.run("echo stale; sleep 9873 & sleep 9874", timeout=30)
    assert one.run("echo mine", timeout=30) == (0, b"mine\n", b"")
    until(lambda: not sleeping(), 10, lambda: str(sleeping()))


# A command that makes its session's group when it is told to, and children then.
LATE = "echo $$; read -r go; exec setsid sh -c 'sleep 9875 & sleep 9876'"
# The first of the kills is done; before the next one, the command has made its group.
BETWEEN = """
kill() {
    command kill "$@"; set -- $?
    if [ -z "$told" ]; then told=yes; echo go; until pgrep -g GROUP sleep >/dev/null; do :; done; fi
    return "$1"
}
"""


def test_a_command_that_makes_its_group_while_it_is_killed_leaves_no_child():
    with subprocess.Popen(
        ["sh", "-c", LATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as late:
        pid = int(late.stdout.readline())
        kill = BETWEEN.replace("GROUP", str(pid)) + qemu_agent_stream.KILL.format(pid=pid)
        subprocess.run(["sh", "-c", kill], stdout=late.stdin, timeout=60, check=False)
        try:
            until(lambda: not sleeping(), 10, lambda: str(sleeping()))
        finally:
            for process in sleeping():
                process.kill()


def sleeping():
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] == ["sleep"] and process.cmdline()[1].startswith("987"):
                found.append(process)
    return found


def test_an_agent_that_starts_late_is_asked_again(agent, monkeypatch):
    monkeypatch.setattr("pytest_vmports.vm.inside.qemu_agent._SYNC_AGAIN_SECONDS", 0.05)
    one = agent(deaf=3)
    assert one.answers(time.monotonic() + 30)
    # Answers to what was asked before are not taken for the command's.
    assert one.run("echo x", timeout=30)[1] == b"x\n"


def test_an_agent_that_never_starts_is_given_up_at_the_deadline(agent):
    assert not agent(deaf=1000).answers(time.monotonic() + 0.2)


def test_waiting_ends_when_it_has_become_pointless(agent):
    def check():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        agent(deaf=1000).answers(time.monotonic() + 30, check)


def test_an_agent_that_may_run_nothing_says_so_with_the_remedy(agent):
    with pytest.raises(GuestShellError, match=r"guest-exec has been disabled; .*block-rpcs"):
        agent(forbidden=["guest-exec"]).run("true", timeout=30)


def test_output_that_was_cut_short_is_no_output(agent):
    with pytest.raises(GuestShellError, match="longer than it keeps; write it to a file"):
        agent(truncated=True).run("echo x", timeout=30)


def test_a_qemu_that_is_gone_is_an_error(agent):
    one = agent()
    one.stand_in.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match=r"QEMU closed the guest agent's channel|Broken pipe"):
        one.run("true", timeout=30)

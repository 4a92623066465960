"""What a guest says that is malformed, too long, or without end: an error that names it, at once.

`test_fuzz.py` tries each parser with thousands of inputs; here is what one guest would do.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import mmap
import os
import pickle
import socket
import threading
import time

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.errors import (
    CommandTimeoutError,
    GuestSaidError,
    GuestShellError,
    MachineError,
    VmPortsError,
)
from pytest_vmports.guests import cloud_init
from pytest_vmports.network import gvproxy_api
from pytest_vmports.pool import blame
from pytest_vmports.system.said import Answer, json_said, malformed, number_said, said_by, shaped
from pytest_vmports.vm import failures, readiness
from pytest_vmports.vm.inside import qemu_agent, ssh
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import CLOCK, READY, Control
from pytest_vmports.vm.inside.qemu_agent import GuestAgent
from pytest_vmports.vm.inside.window import SIZE, open_window
from pytest_vmports.vm.monitor import Monitor

SECONDS = 20


def alive():
    """Is called while we wait; the VM lives."""


def frame(kind, payload=b"", size=None):
    length = len(payload) if size is None else size
    return kind.encode("latin-1") + length.to_bytes(3, "little") + payload


def soon():
    return time.monotonic() + SECONDS


@pytest.fixture
def pair():
    ours, guest = socket.socketpair()
    with ours, guest:
        yield ours, guest


class Pid(Answer):
    pid: int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, [3], {}, math.nan])
def test_only_the_very_type_is_taken(value):
    with pytest.raises(GuestSaidError, match="the agent gave a malformed answer: pid"):
        shaped("the agent", {"pid": value}, Pid)


def test_members_that_nobody_knows_are_passed_over():
    assert shaped("the agent", {"pid": 3, "new": 1}, Pid) == Pid(pid=3)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[" * 100_000, '{"pid": NaN}', '{"pid": 1e999}', '{"pid": 1, "pid": 2}', "3",
        '{"pid": ' + "9" * 5000 + "}", b'{"pid": \xff}', '{"pid": "\\ud800"}', '{"pid": 1} x',
    ],
)  # fmt: skip
def test_what_is_no_json_of_that_shape_is_refused(text):
    with pytest.raises(GuestSaidError):
        json_said("the agent", text, Pid)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"01", "١".encode(), b"256", b"9" * 5000, b"0x1",
        b"1.0", b"1\n", b"\xff",
    ],
)  # fmt: skip
def test_a_number_is_decimal_digits_up_to_its_most(text):
    with pytest.raises(GuestSaidError, match="no number from 0 to 255"):
        number_said("the guest", text, 255)
    assert [number_said("the guest", one, 255) for one in (b"0", b"255")] == [0, 255]


def test_the_error_shows_a_little_of_it_and_nothing_that_moves_a_cursor():
    for said in (
        b"\x1b[2J\xff" + bytes(9 << 20),
        "\x1b[2J\ud800" + "x" * (9 << 20),
        [["\x1b"] * 9],
    ):
        error = malformed("the guest", "\x1b" * 900, said)
        assert len(str(error)) < 2500 and "\x1b" not in str(error)
        str(error).encode()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    nested = []
    for _ in range(10_000):
        nested = [nested]
    assert "nested too deep" in str(malformed("the guest", "deep", nested))


def test_what_the_host_fails_at_is_not_the_guests_word():
    with pytest.raises(PermissionError), said_by("the guest"):
        raise PermissionError


BROKEN = [
    frame("?"), frame("\xff"), frame("\0"), frame("V"), frame("V", b"-1"), frame("V", b"256"),
    frame("V", b"x"), frame("V", "١".encode()), frame("C", b"9" * 5), frame("C", b"4096"),
    frame("X", b""), frame("X", b"65536"), frame("X", b"4991"),  # stopped by a signal
    frame("X", b"127"), frame("X", b"12_1"), frame("A", b"x"), frame("O", size=4097),
    frame("E", size=0xFFFFFF), frame("X", size=0xFFFFFF), frame("C", size=5000),
    frame("o", b"1048577"), frame("e", b"-1"), frame("o"), frame("e", size=8),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda one: repr(one[:12]))
def test_a_broken_frame_is_told_at_once_and_nothing_after_it_is_believed(pair, broken):
    ours, guest = pair
    control = Control(ours)
    guest.sendall(broken + frame(READY, b"0") * 3)
    for _ in range(2):
        with pytest.raises(GuestSaidError, match="the guest's control channel gave a malformed"):
            control.await_number(READY, soon(), alive)


UNASKED = {
    "output before the command": frame("O", b"x"),
    "an end before the command": frame("X", b"0"),
    "an end in the place of a confirmation": frame("A") + frame("X", b"0") + frame("O", b"x"),
    "one confirmation too many": frame("A") * 3,
    "two ends": frame("A") + frame("X", b"0") * 2,
}


@pytest.mark.parametrize("said", UNASKED.values(), ids=UNASKED)
def test_what_nobody_asked_the_agent_for_is_refused(pair, said):
    ours, guest = pair
    shell = AgentShell(Control(ours), alive)
    guest.sendall(said)
    for _ in range(2):
        with pytest.raises(GuestSaidError, match="nobody asked for"):
            shell.execute("true", timeout=SECONDS, input=b"in")


def test_a_guest_that_confirms_and_does_not_read_cannot_hold_a_command_for_ever(pair):
    ours, guest = pair
    guest.sendall(frame("A") * 400)
    with pytest.raises(MachineError, match="does not read"):
        AgentShell(Control(ours), alive).execute("cat", timeout=None, input=bytes(1 << 20))


def test_frames_without_end_end_at_the_deadline(pair):
    ours, guest = pair
    over = threading.Event()

    def talk():
        with contextlib.suppress(OSError):
            while not over.is_set():
                guest.sendall(frame(CLOCK, b"0") * 500)

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        assert Control(ours).await_number(READY, time.monotonic() + 0.2, alive) is None
    finally:
        over.set()
        ours.close()
        talking.join()


@pytest.mark.parametrize("deadline", [None, math.inf])
def test_a_qemu_that_hangs_up_ends_each_wait(pair, deadline):
    ours, guest = pair
    guest.close()
    with pytest.raises(ConnectionError, match="QEMU closed the guest's control channel"):
        Control(ours).receive(deadline, alive)


SEEN = frame(READY, b"0")
LIES = {
    "more than has room": frame("o", b"1048577"),
    "less than nothing": frame("e", b"-1"),
    "no number": frame("o"),
    "by who sees none": frame("o", b"1"),
}


@pytest.fixture
def window():
    with contextlib.ExitStack() as until_spawned:
        window, file = open_window(until_spawned)
        with mmap.mmap(file, SIZE) as of_guest:
            yield window, of_guest


def see(of_guest):
    """Show that the guest sees the window, as our agent does."""
    of_guest[16:32] = of_guest[:16]


@pytest.fixture
def seen(pair, window):
    """Return our end of a channel whose guest has shown that it sees the window, and its end."""
    ours, guest = pair
    control = Control(ours, window[0])
    see(window[1])
    guest.sendall(SEEN)
    control.await_number(READY, soon(), alive)
    return control, guest


@pytest.mark.parametrize("lie", LIES)
def test_who_lies_about_the_window_is_refused(pair, window, lie):
    ours, guest = pair
    control = Control(ours, window[0])
    guest.sendall(SEEN)
    if lie != "by who sees none":
        see(window[1])
    control.await_number(READY, soon(), alive)
    guest.sendall(LIES[lie])
    with pytest.raises(GuestSaidError):
        AgentShell(control, alive).execute("true", timeout=SECONDS, input=b"")


def test_what_the_guest_writes_in_the_window_later_changes_nothing_that_was_read(seen, window):
    control, guest = seen
    window[1][2 << 20 : (2 << 20) + 5] = b"first"
    guest.sendall(frame("o", b"5"))
    got = control.receive(soon(), alive)
    window[1].seek(0)
    window[1].write(b"\xff" * SIZE)
    assert got == ("O", b"first")


def test_output_without_end_by_the_window_ends_where_no_more_is_kept(seen):
    control, guest = seen
    guest.sendall(frame("o", b"1048576") * 40 + frame("X", b"9"))
    status, output, _ = AgentShell(control, alive).execute("x", timeout=None, input=b"")
    assert status is None
    assert 16 << 20 < len(output) <= 17 << 20  # `MAX_OUTPUT`, and no more than has room


def test_an_agent_that_comes_after_one_that_saw_the_window_is_not_believed_for_it(seen, window):
    control, guest = seen
    assert control.window is window[0]
    guest.sendall(SEEN)
    control.await_number(READY, soon(), alive)
    assert control.window is None


def test_nobody_who_has_the_window_can_cut_it_short(window):
    with contextlib.ExitStack() as until_spawned:
        _, file = open_window(until_spawned)
        for size in (0, SIZE - 1, SIZE + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(file, size)


@pytest.fixture
def agent(pair):
    """Return an agent's channel on which ids are counted from 7, and the guest's end."""
    ours, guest = pair
    agent = GuestAgent(ours)
    agent._numbers = itertools.count(7)
    return agent, guest


def line(value, start=b""):
    return start + json.dumps(value).encode() + b"\n"


SYNCED = line({"return": 7}, b"\xff")
STARTED = line({"return": {"pid": 300}})
RIGHT = {"exited": True, "exitcode": 0}
WRONG_STATUS = [
    {"exited": 1}, {"exited": "yes"}, {}, {"exited": True}, {**RIGHT, "signal": 9},
    {**RIGHT, "exitcode": True}, {**RIGHT, "exitcode": -1}, {**RIGHT, "exitcode": 256},
    {**RIGHT, "exitcode": 1.0}, {**RIGHT, "exitcode": "0"}, {"exited": True, "signal": 0},
    {"exited": True, "signal": 65}, {**RIGHT, "out-data": "QUJ"}, {**RIGHT, "out-data": "QU JD"},
    {**RIGHT, "err-data": "ÄÖ=="}, {**RIGHT, "out-data": 5}, {**RIGHT, "out-data": None},
    {**RIGHT, "out-truncated": "no"}, {**RIGHT, "exitcode": 10**400}, [], None, 3, "x",
]  # fmt: skip
WRONG_ANSWERS = [
    [line({"return": "7"}, b"\xff")], [line({"return": True}, b"\xff")], [line([], b"\xff")],
    [b"\xff{\n"], [b"\xff\xff\n"], [b'\xff{"return": 7, "return": 7}\n'],
    [line({"return": 7, "error": {"desc": "x"}}, b"\xff")],
    *([SYNCED, line({"return": pid})] for pid in (
        {"pid": True}, {"pid": -1}, {"pid": 0}, {"pid": 1 << 31}, {"pid": "3"}, {"pid": 3.0}, {},
        [], None, 3, {"pid": None},
    )),
    [SYNCED, line({"error": None})], [SYNCED, line({"error": {"desc": 3}})], [SYNCED, line({})],
    [SYNCED, b"\n"], [SYNCED, b"[" * 100_000 + b"\n"],
    *([SYNCED, STARTED, line({"return": status})] for status in WRONG_STATUS),
]  # fmt: skip


@pytest.mark.parametrize("said", WRONG_ANSWERS, ids=lambda said: repr(said[-1][:50]))
def test_an_agent_that_answers_otherwise_than_qemus_is_named(agent, said):
    agent, guest = agent
    guest.sendall(b"".join(said))
    with pytest.raises(GuestSaidError, match="the QEMU guest agent gave a malformed answer"):
        agent.run("true", timeout=SECONDS)
    # Its stream can be taken up again: the next command begins with a mark.
    guest.sendall(line({"return": 8}, b"\xff") + STARTED + line({"return": RIGHT}))
    assert agent.run("true", timeout=SECONDS) == (0, b"", b"")


def test_a_line_without_end_is_given_up_when_it_is_longer_than_any_answer(agent, monkeypatch):
    monkeypatch.setattr(qemu_agent, "_LONGEST_ANSWER", 100_000)
    agent, guest = agent
    guest.sendall(SYNCED + b'{"return": "')

    def talk():
        with contextlib.suppress(OSError):  # nobody reads on
            for _ in range(1000):
                guest.sendall(b"A" * 1000)

    talking = threading.Thread(target=talk)
    talking.start()
    with pytest.raises(GuestSaidError, match="a line of more than 100000 bytes"):
        agent.run("true", timeout=SECONDS)
    agent.close()
    talking.join()


def test_an_agent_that_does_not_read_is_waited_for_until_the_timeout(agent):
    agent, guest = agent
    guest.sendall(SYNCED)
    with pytest.raises(CommandTimeoutError):
        agent.run("cat", timeout=0.2, input=bytes(1 << 20))


def test_a_complaint_is_a_refusal_and_shows_no_control_characters(agent):
    agent, guest = agent
    desc = "\x1b]0;pwned\x07" + "x" * 100_000
    guest.sendall(SYNCED + line({"error": {"class": "GenericError", "desc": desc}}))
    with pytest.raises(GuestShellError) as caught:
        agent.run("true", timeout=SECONDS)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    "result",
    [
        "{}", '{"v1": null}', '{"v1": []}', '{"v1": {}}', '{"v1": {"errors": "x"}}', "{x}",
        '{"v1": {"errors": [1]}}', '{"v1": {"errors": null}}', '{"v1": {"errors": {}}}',
        '{"v1": {"errors": []}, "v1": {"errors": []}}', '{"v1": ' + "9" * 5000 + "}",
        '{"v1": ' + "[" * 50_000 + "}",
    ],
    ids=lambda one: one[:40],
)  # fmt: skip
def test_a_result_that_is_not_cloud_inits_is_told_at_once(result):
    console = f"vmports-cloud-init: {result} :vmports\r\n"
    with pytest.raises(GuestSaidError, match="cloud-init gave a malformed answer"):
        cloud_init.verdict(console)
    # Where a message of the kernel has torn it, it comes again.
    torn = console.replace("{", "{[ 9.1] random: crng init done\r\n", 1)
    assert cloud_init.verdict(torn) is None


def test_the_complaints_of_cloud_init_are_few_short_and_printable():
    errors = ["\x1b[2J" + "x" * 9000] * 9000
    console = f"vmports-cloud-init: {json.dumps({'v1': {'errors': errors}})} :vmports\r\n"
    told = cloud_init.verdict(console).errors
    assert sum(map(len, told)) < 200_000 and told[-1] == "(and 8950 more)"
    assert "\x1b" not in "".join(told)


@pytest.mark.parametrize(
    "end", [b"", b"00", "٠٠٠".encode(), b"256", b"1_0", b" 10", b"-10", b"+10"]
)
def test_an_exit_status_by_ssh_is_three_digits(end):
    with pytest.raises(GuestSaidError, match="the shell that ssh reached"):
        ssh.status_at_the_end(end)
    assert ssh.status_at_the_end(b"output255") == 255


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 \xb2\xb2\xb2 OK", b"HTTP/1.1 " + b"9" * 5000, b"HTTP/1.1 099", b"HTTP/1.1 20",
        "HTTP/1.1 ٢٠٠".encode(), b"HTTP/1.1  2000 OK", b"HTTP/ 200", b"http/1.1 200 OK",
    ],
)  # fmt: skip
def test_what_is_no_line_of_http_has_no_status(said):
    assert readiness.http_status(said) is None
    assert readiness.http_status(b"HTTP/1.0 204 No Content") == 204


GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}, "capabilities": []}}\n'
GREETINGS = [
    b"x\n", b"[]\n", b'{"QMP": 3}\n', b'{"QMP": {"version": {}, "capabilities": []}}\n',
    b'{"a": ' + b"9" * 5000 + b"}\n", b"[" * 100_000 + b"\n", GREETING.replace(b"7", b'"7"'),
    GREETING.replace(b"7", b"-7"),
]  # fmt: skip


@pytest.mark.parametrize("said", GREETINGS, ids=lambda said: repr(said[:70]))
def test_a_qemu_that_greets_in_a_wrong_way_is_named(pair, said):
    ours, qemu = pair

    def talk():
        qemu.sendall(said)
        with contextlib.suppress(OSError):
            if qemu.recv(4096):
                qemu.sendall(line({"return": {}}))

    talking = threading.Thread(target=talk)
    talking.start()
    monitor = Monitor(ours)
    try:
        with pytest.raises(GuestSaidError, match="QEMU's monitor gave a malformed answer"):
            monitor.connect(SECONDS)
    finally:
        monitor.close()
        talking.join()


@pytest.mark.parametrize("greeted", [b"", GREETING])
def test_a_qemu_that_ends_at_its_greeting_is_no_liar(pair, greeted):
    ours, qemu = pair
    qemu.sendall(greeted)
    qemu.close()
    monitor = Monitor(ours)
    assert not monitor.connect(SECONDS)
    monitor.close()


PORT = ExposedPort(internal=80, external=20417, host="127.0.0.1", protocol="tcp")
HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"Content-Length: "
WRONG_HTTP = {
    "nothing": b"",
    "no HTTP": b"\x00\x01",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "less than it says": LENGTH + b"99\r\n\r\n[]",
    "more digits than int() takes": HEAD + b"Transfer-Encoding: chunked\r\n\r\nXYZ\r\n",
    "a header without end": HEAD + b"X: " + b"A" * 70_000,
    "headers without end": HEAD + b"X: y\r\n" * 10_000,
    "its own forwards in another shape": LENGTH + b'7\r\n\r\n{"a":1}',
    "a forward of numbers": HEAD + b'\r\n[{"local": 1, "remote": 2, "protocol": 3}]',
    "half a forward": HEAD + b'\r\n[{"local": "x"}]',
    "no JSON": HEAD + b"\r\nnope",
    "JSON without an end": HEAD + b"\r\n" + b"[" * 100_000,
    "much more than it has to say": HEAD + b"\r\n" + b"[" + b" " * (3 << 20),
}


@contextlib.contextmanager
def gvproxy_that_says(tmp_path, talk):
    """Yield the API of one; ``talk`` is given each connection."""
    path, over = tmp_path / "api.sock", threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            while not over.is_set():
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    talk(connection)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield gvproxy_api.Api(path)
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last, contextlib.suppress(OSError):
                last.connect(str(path))
            serving.join()


@pytest.mark.parametrize("said", WRONG_HTTP.values(), ids=WRONG_HTTP)
def test_a_gvproxy_that_answers_otherwise_is_named(tmp_path, said):
    def talk(connection):
        connection.recv(4096)
        connection.sendall(said)

    with (
        gvproxy_that_says(tmp_path, talk) as api,
        pytest.raises(GuestSaidError, match="gvproxy gave a malformed answer"),
    ):
        api.forwards()


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b""])
def test_a_gvproxy_that_answers_without_end_is_given_up(tmp_path, monkeypatch, said):
    monkeypatch.setattr(gvproxy_api, "_CALL_SECONDS", 0.3)

    def talk(connection):
        connection.recv(4096)
        while said:  # until the other side hangs up
            connection.sendall(said)
            time.sleep(0.001)
        connection.recv(4096)

    with gvproxy_that_says(tmp_path, talk) as api, pytest.raises(TimeoutError):
        api.expose(PORT)


def test_a_refusal_of_gvproxys_is_short_and_printable(tmp_path):
    said = b"HTTP/1.1 500 x\r\nConnection: close\r\n\r\n\x1b[2J" + b"x" * 100_000

    def talk(connection):
        connection.recv(4096)
        connection.sendall(said)

    with gvproxy_that_says(tmp_path, talk) as api, pytest.raises(MachineError) as caught:
        api.expose(PORT)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 2000


class Living:
    """Stands for a VM that lives, whatever its programs close."""

    qemu = helpers = console = None
    first_dead = panic = crash = None

    class monitor:  # noqa: N801
        disk_full = False

    def await_ending(self, *, sure):
        """Wait in vain."""


def test_a_program_that_hangs_up_and_lives_is_told_as_such():
    with pytest.raises(VmPortsError, match="closed a channel"), failures.cause_first(Living()):
        raise ConnectionResetError("QEMU closed the guest's control channel")
    with pytest.raises(PermissionError), failures.cause_first(Living()):
        raise PermissionError


def test_a_guest_that_says_nonsense_is_to_blame_and_not_the_host():
    error = malformed("the guest", "nonsense")
    assert not blame.host_may_be(error)
    assert blame.state_may_be(error)  # it may have been saved so

"""The gate by itself: what is asked, what becomes of the answers, and of a gate in trouble."""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from confined import tries

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.system import calls, gate, seccomp
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.gate import Asked, Gate
from pytest_vmports.system.process import spawn
from pytest_vmports.system.run_dir import RunDir

BOTH = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@pytest.fixture
def folder():
    with RunDir() as run_dir:
        yield run_dir.path


def asking(decide, *calls):
    return Confinement(None, Gate(decide, *([calls] if calls else [])))


def test_each_call_is_asked_with_what_it_names(folder):
    heard, bound = [], []
    code = """
        one = tcp(); one.bind(("127.0.0.1", 0)); one.listen()
        there = one.getsockname()[1]
        tcp().connect(("127.0.0.1", there))
        tcp(socket.AF_INET6).connect(("::ffff:127.0.0.1", there))
        udp().bind(("127.0.0.2", 0))
        tcp(protocol=262).bind(("127.0.0.3", 0))
        unix(path); unix("\\0none")
        said["port"] = there
    """
    path = str(folder / "a.sock")

    def decide(asked):
        heard.append(replace(asked, bound=None))
        bound.append(asked.bound)
        return 0

    port = tries(asking(decide), folder, code, path=path)["port"]
    assert heard == [
        Asked("bind", ("127.0.0.1", 0), "tcp"),
        Asked("listen", ("127.0.0.1", port), "tcp"),
        Asked("connect", ("127.0.0.1", port), "tcp"),
        Asked("connect", ("::ffff:127.0.0.1", port), "tcp"),
        Asked("bind", ("127.0.0.2", 0), "udp"),
        Asked("bind", ("127.0.0.3", 0), "tcp"),
        Asked("bind", os.fsencode(path), "unix"),
        Asked("bind", b"\0none", "unix"),
    ]
    nowhere = ("0.0.0.0", 0)
    assert bound[:3] == [nowhere, ("127.0.0.1", port), nowhere]


def test_what_the_host_answers_is_what_the_child_hears(folder):
    code = """
        attempt("taken", lambda: tcp().bind(("127.0.0.1", port)))
        attempt("nobody's", lambda: tcp().bind(("203.0.113.1", 0)))
        attempt("refused", lambda: tcp().connect(("127.0.0.1", 1)))
        one = tcp(); one.setblocking(False)
        said["begun"] = one.connect_ex(("127.0.0.1", port))
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = tries(asking(lambda _: 0), folder, code, port=server.getsockname()[1])
    assert said == {
        "taken": "EADDRINUSE", "nobody's": "EADDRNOTAVAIL", "refused": "ECONNREFUSED",
        "begun": errno.EINPROGRESS,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_a_connect_may_be_led_elsewhere(folder, family):
    host = {"AF_INET": "198.51.100.1", "AF_INET6": "2001:db8::1"}[family]
    code = f"""
        one = tcp(socket.{family}); one.connect(("{host}", 53)); one.sendall(b"a question")
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        tries(asking(lambda _: server.getsockname(), "connect"), folder, code)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"a question"


def descriptors_and_threads():
    """Return what there is when every gate whose child has ended is gone."""
    for thread in threading.enumerate():
        if thread.name in {"vmports-gate", "vmports-connect"}:
            thread.join(30)
    return len(os.listdir("/proc/self/fd")), sorted(one.name for one in threading.enumerate())


MALFORMED = """
import itertools
one, two = udp(), socket.socket(socket.AF_UNIX)
room = ctypes.create_string_buffer(b"\\x02\\0" + bytes(126), 128)
for name in ("bind", "connect"):
    for what, address, size in (
        ("null", None, 16), ("null of none", None, 0), ("none", room, 0), ("a byte", room, 1),
        ("a family", room, 2), ("a port", room, 4), ("half a host", room, 6),
        ("too long", room, 129), ("negative", room, -1), ("huge", room, 1 << 40),
        ("out of reach", 0xFFFF800000000000, 16), ("odd", 1, 16),
    ):
        for socket_ in (one, two):
            attempt(f"{name} {what} {socket_.family}",
                    lambda: call(name, socket_.fileno(), address, size))
    for number in (-1, 77, 1 << 31, sys.stdout.fileno()):
        attempt(f"{name} {number}", lambda: call(name, number, room, 16))
for number in (-1, 77, sys.stdout.fileno()):
    attempt(f"listen {number}", lambda: call("listen", number, 1))
attempt("asked for", lambda: udp().bind(("127.0.0.1", 0)))
"""


def test_what_names_no_address_is_an_error_of_the_child_and_the_gate_goes_on(folder):
    def decide(asked):
        return 0 if asked.address == ("127.0.0.1", 0) else errno.EACCES

    before = descriptors_and_threads()
    said = tries(asking(decide), folder, MALFORMED)
    assert said.pop("asked for") == "done"
    assert set(said.values()) <= {"EFAULT", "EINVAL", "EBADF", "ENOTSOCK", "EACCES"}, said
    assert descriptors_and_threads() == before  # of what is no socket no copy is left


@pytest.mark.parametrize(
    "decide",
    [lambda _: 1 / 0, lambda _: None, lambda _: "yes", lambda _: ("no address", 1), lambda _: ()],
    ids=["raises", "none", "a text", "no address", "an empty one"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_policy_that_fails_refuses_that_call_and_no_other(folder, decide):
    first = threading.Event()

    def fails_once(asked):
        if first.is_set():
            return 0
        first.set()
        return decide(asked)

    code = """
        for name in "123":
            attempt(name, lambda: udp().connect(("127.0.0.1", 9)))
    """
    assert tries(asking(fails_once), folder, code) == {"1": "EACCES", "2": "done", "3": "done"}


def test_a_test_that_replaces_threads_closes_no_gate(folder, monkeypatch):
    def decide(_asked):
        monkeypatch.setattr(threading, "Thread", None)  # as a mock of a test's own
        return 0

    code = """
        attempt("bind", lambda: udp().bind(("127.0.0.1", 0)))
        for name in "12":
            attempt(name, lambda: udp().connect(("127.0.0.1", 9)))
    """
    said = tries(asking(decide), folder, code)
    assert said == {"bind": "done", "1": "done", "2": "done"}


@pytest.fixture
def full():
    """Return the address of a server that lets a connect wait: its queue is full."""
    with socket.socket() as server, socket.socket() as one, socket.socket() as two:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (one, two):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


def test_a_connect_that_waits_keeps_nobody_else_waiting(folder, full):
    """As by a resolver of the C library's."""
    code = """
        waiting = tcp()
        thread = threading.Thread(target=waiting.connect_ex, args=(("127.0.0.1", port),),
                                  daemon=True)
        thread.start()
        while not open(f"/proc/self/task/{thread.native_id}/syscall").read().startswith("42 "):
            pass
        attempt("meanwhile", lambda: udp().bind(("127.0.0.1", 0)))
        said["still"] = thread.is_alive()
        print("SAID", json.dumps(said), flush=True)
        os._exit(0)
    """
    said = tries(asking(lambda _: 0), folder, code, port=full[1])
    assert said == {"meanwhile": "done", "still": True}


def test_no_more_connects_wait_than_we_have_threads_to_spare(folder, full):
    """Each is one of ours; who lets many wait is refused, and the others of its calls are not."""
    code = """
        from time import sleep
        heard = []
        def one():
            heard.append(tcp().connect_ex(there))
        threads = [threading.Thread(target=one, daemon=True) for _ in range(most + 20)]
        for thread in threads: thread.start()
        while len(heard) < 20: sleep(0.01)
        attempt("meanwhile", lambda: udp().bind(("127.0.0.1", 0)))
        said["heard"] = heard
        print("SAID", json.dumps(said), flush=True)
        os._exit(0)
    """
    said = tries(asking(lambda _: 0), folder, code, there=full, most=gate._MOST_WAITING)
    assert said == {"meanwhile": "done", "heard": [errno.EAGAIN] * 20}


def test_many_ask_at_once(folder):
    code = """
        def one():
            for _ in range(20):
                with udp() as mine:
                    mine.bind(("127.0.0.1", 0))
        threads = [threading.Thread(target=one) for _ in range(50)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    heard = []
    assert tries(asking(lambda asked: heard.append(asked) or 0), folder, code) == {}
    assert len(heard) == 1000


def test_where_nobody_minds_it_the_gate_is_closed(folder, monkeypatch):
    """As in a VM that was kept, when its run is over."""
    monkeypatch.setattr(Gate, "mind", lambda self, _pidfd: self.close())
    code = """
        attempt("bind", lambda: udp().bind(("127.0.0.1", 0)))
        attempt("listen", lambda: tcp().listen())
        attempt("connect", lambda: udp().connect(("127.0.0.1", 9)))
    """
    said = tries(asking(lambda _: 0, "bind", "listen"), folder, code)
    assert said == {"bind": "ENOSYS", "listen": "ENOSYS", "connect": "done"}


def test_a_start_that_fails_leaves_nothing(folder, monkeypatch):
    program = folder / "program"
    program.write_text("#!/nowhere/sh\n")
    program.chmod(0o755)
    tries(None, folder, "")  # so that what stays is there
    before = descriptors_and_threads()
    child = spawn("it", [str(program)], log=folder / "log", confinement=asking(lambda _: 0))
    child.wait(30)
    child.kill()
    program.unlink()

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    for module, name in ((gate.os, "dup"), (gate.seccomp, "install")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(ProgramStoppedError, match="Too many"):
                spawn("it", ["cat"], log=folder / "log", confinement=asking(lambda _: 0))
    assert not [child for child in psutil.Process().children() if child.name() == "cat"]
    assert descriptors_and_threads() == before


def test_a_forked_child_of_ours_keeps_no_gate_from_closing(folder):
    descriptors_and_threads()
    assert gate._listeners == set()
    child = spawn("it", ["sleep", "60"], log=folder / "log", confinement=asking(lambda _: 0))
    try:
        (listener,) = gate._listeners
        pid = os.fork()
        if pid == 0:
            closed = not gate._listeners and not os.path.exists(f"/proc/self/fd/{listener}")
            os._exit(0 if closed else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert gate._listeners == {listener}
    finally:
        child.kill()


def test_within_another_such_filter_there_is_none_and_that_is_said(folder):
    """As where pytest itself runs behind one, of a container's: there can be one alone."""
    code = (
        "from pytest_vmports.system import gate, landlock; "
        "print(gate.problem(), landlock.problem())"
    )
    child = spawn(
        "nested", [sys.executable, "-c", code], log=folder / "log", confinement=asking(lambda _: 0)
    )
    assert child.wait(60) == 0, child.output
    child.kill()
    assert child.output.split("(EBUSY)")[1].strip() == "None"
    assert "there can be one alone" in child.output


def test_a_host_that_does_not_let_us_says_so(monkeypatch):
    """Faked: what a container, another system and another processor answer."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, "pidfd_getfd: Operation not permitted")

    ask = gate.problem.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(gate.foreign, "memory", refuse)
        assert "not permitted" in ask()
    with monkeypatch.context() as patch:
        patch.setattr(gate.foreign, "fetch", refuse)
        assert "not permitted" in ask()
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert "riscv64" in ask()
    monkeypatch.setattr(gate.sys, "platform", "darwin")
    assert "darwin" in ask()


def test_a_limit_that_passes_is_no_missing_gate(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(gate.tools, "start", refuse)
    with pytest.raises(ProgramStoppedError, match="ulimit"):
        gate.problem.__wrapped__()


def followed(steps, architecture, number, *arguments):
    """Return what a filter comes to for one call."""
    data = {0: number, 4: architecture}
    for at, argument in enumerate(arguments):
        data[16 + 8 * at], data[20 + 8 * at] = argument & 0xFFFFFFFF, argument >> 32
    at = value = 0
    while True:
        code, if_true, if_false, k = steps[at]
        at += 1
        if code == seccomp._LOAD:
            value = data.get(k, 0)
        elif code == seccomp._AND:
            value &= k
        elif code == seccomp._RETURN:
            return k
        else:
            is_so = {
                seccomp._IF_EQUAL: value == k, seccomp._IF_LEAST: value >= k,
                seccomp._IF_ANY: bool(value & k),
            }[code]  # fmt: skip
            at += if_true if is_so else if_false


@BOTH
@pytest.mark.parametrize("also", [(), ("sendto",)], ids=["", "sendto too"])
def test_the_filter_leads_nowhere_but_to_a_return(machine, monkeypatch, also):
    """Followed by hand for every call and argument that it looks at."""
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    held = ("bind", "listen", "connect")
    steps = list(seccomp._STEP.iter_unpack(seccomp.program(held + also)))

    verdict = partial(followed, steps)
    ours = calls.architecture()
    allowed, denied = seccomp._ALLOW, seccomp._ERRNO | errno.EPERM
    by_name = {calls.number(name): name for name in calls.NUMBERS}
    for number in range(600):
        name = by_name.get(number)
        if name in {"socket", "socketpair", "prctl", "prlimit64"}:
            continue
        got = verdict(ours, number)
        assert (got == seccomp._NOTIFY) == (name in held)
        assert (got == denied) == (name in calls.NEVER), name
    foreign = 0x40000003
    assert verdict(foreign, calls.number("bind")) == verdict(ours, 0x40000031) == seccomp._KILL
    kinds = {
        (family, kind) for family in range(50) for kind in range(16) for flags in (0, 0o2004000)
        if verdict(ours, calls.number("socket"), family, kind | flags) == allowed
    }  # fmt: skip
    assert kinds == {(1, 1), (1, 5), (2, 1), (2, 2), (10, 1), (10, 2)}
    for kind, may in ((1, True), (2, False), (5, True)):
        assert (verdict(ours, calls.number("socketpair"), 1, kind) == allowed) == may
    fast = 0x20004000
    for name, at in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        number = calls.number(name)
        assert verdict(ours, number, *[0] * at, fast) == seccomp._ERRNO | errno.EOPNOTSUPP
        assert verdict(ours, number, *[0] * at, 0x4000) == allowed
    for address in (1, 1 << 32, 1 << 63):
        got = verdict(ours, calls.number("sendto"), 0, 0, 0, 0, address)
        assert got == (seccomp._NOTIFY if also else allowed)
    prctl, limit = calls.number("prctl"), calls.number("prlimit64")
    assert [verdict(ours, prctl, 1, one) for one in (9, 0, 15)] == [allowed, denied, denied]
    assert verdict(ours, prctl, 38, 1) == allowed
    assert [verdict(ours, limit, one) for one in (0, 1)] == [allowed, denied]


@BOTH
def test_what_is_refused_by_name_never_passes(machine, monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    asked = ("connect", seccomp.ATTRIBUTES)
    steps = list(seccomp._STEP.iter_unpack(seccomp.program((), asked)))
    numbers = {calls.number(name) for name in ("connect", *calls.ATTRIBUTES)} - {-1}
    denied = seccomp._ERRNO | errno.EPERM
    assert {followed(steps, calls.architecture(), one) for one in numbers} == {denied}


@BOTH
def test_sockets_that_nobody_needs_are_not_made(machine, monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    of_one = [((seccomp.TCP,), True), ((seccomp.TCP,), False), ((seccomp.UDP, seccomp.UNIX), True)]
    for refused, sandboxes in (*of_one, (tuple(seccomp._SOCKETS), True)):
        program = seccomp.program((), refused, sandboxes=sandboxes)
        steps = list(seccomp._STEP.iter_unpack(program))
        for name, kinds in seccomp._SOCKETS.items():
            got = {followed(steps, calls.architecture(), calls.number("socket"), *one)
                   for one in kinds}  # fmt: skip
            none = seccomp._ERRNO | errno.EAFNOSUPPORT
            not_made = name in refused or (name == seccomp.ROUTES and not sandboxes)
            assert got == {none if not_made else seccomp._ALLOW}


@BOTH
def test_who_makes_a_sandbox_of_its_own_may_give_up_rights_and_nothing_else(machine, monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    steps = list(seccomp._STEP.iter_unpack(seccomp.program(("bind",), sandboxes=True)))
    verdict = partial(followed, steps, calls.architecture())
    for name in calls.NEVER:
        number = calls.number(name)
        if number >= 0:
            denied = verdict(number) == seccomp._ERRNO | errno.EPERM
            assert denied == (name not in calls.SANDBOXES), name
    prctl = calls.number("prctl")
    # It is told that nobody may look into it, and we do.
    assert verdict(prctl, 4, 0) == seccomp._ERRNO
    assert [verdict(prctl, 1, one) == seccomp._ALLOW for one in (9, 0, 15)] == [True, False, False]
    assert verdict(prctl, 38, 1) == seccomp._ALLOW


@BOTH
def test_each_call_has_the_number_that_the_kernels_headers_say(machine, monkeypatch, missing):
    header = Path({
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }[machine])  # fmt: skip
    if not header.exists():
        missing("the kernel's headers", f"there is no {header}")
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    lines = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    real = {name: int(number) for name, number in lines}
    known = {name: calls.number(name) for name in calls.NUMBERS if name in real}
    assert known == {name: real[name] for name in known}
    # Those headers may be older than the latest calls, or name one by a macro.
    later = {"fchmodat2", "setxattrat", "removexattrat", "file_setattr", "quotactl_fd"}
    missing = {name for name in calls.NUMBERS if name not in real and calls.number(name) >= 0}
    assert missing <= {*later, "open_by_handle_at", "clock_adjtime"}


def test_a_child_that_waits_for_answers_has_no_more_threads_than_go_bears(folder):
    """Each call that is held is one on an open socket, and keeps a thread waiting."""
    child = spawn("it", ["sleep", "60"], log=folder / "log", confinement=asking(lambda _: 0))
    try:
        soft, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        assert soft <= hard <= 4096
    finally:
        child.kill()

"""What a VM's methods refuse before anything is asked of the VM: odd arguments, forked children."""

import array
import contextlib
import copy
import os
import pickle
import re
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from folded import folded

from pytest_vmports import ExposedPort
from pytest_vmports.errors import ForkedProcessError, NetworkUnseenError
from pytest_vmports.pool.handle import VM
from pytest_vmports.vm.inside import copying
from pytest_vmports.vm.machine import Machine
from pytest_vmports.vm.milestones import Milestones
from pytest_vmports.vm.owner import Owner
from pytest_vmports.vm.saved import Snapshot


class Asked(Exception):  # noqa: N818 - no error, but what must not happen
    """Something was asked of the VM."""


class Sensitive:
    """Cannot be touched."""

    def __getattr__(self, name):
        raise Asked(name)


def ended(*_):
    raise Asked("end")


@pytest.fixture
def vm():
    """A VM whose machine must not be asked for anything but whether it lives."""
    machine = SimpleNamespace(
        owner=Owner(), vitals=None, ports=(ExposedPort(internal=8080, external=20080),),
        monitor=Sensitive(), shell=Sensitive(), cards=Sensitive(), workdir=Path("/nowhere"),
        kind=SimpleNamespace(ssh=Sensitive()), plan=Sensitive(), finish=ended,
        state=SimpleNamespace(value="ready"), ram=None,
    )  # fmt: skip
    machine.check_alive = machine.owner.check
    return VM(machine, SimpleNamespace(pass_fds=(), declare=""), lambda _mappings: Sensitive())


NO_TEXTS = [None, 5, 1.5, True, b"bytes", bytearray(b"x"), {"a": 1}, {"a"}, object(), iter(())]
PATHS = [None, 5, True, b"bytes", [], ["a"], object()]
SECONDS = ["5", b"5", True, False, [], {}, object(), 0, -1, 0.0, -0.5, float("nan"), 1j, -(10**400)]
CALLS = {
    "command": (lambda vm, odd: vm.run(odd), [*NO_TEXTS, [], (), "a\0b", "\ud800"]),
    "path-command": (lambda vm, odd: vm.run(odd), [Path("/bin/true"), PurePosixPath("a")]),
    "word": (
        lambda vm, odd: vm.run(["echo", odd]),
        [None, 5, True, b"bytes", [], "a\0b", "\ud800", Path("a\0b")],
    ),
    "input": (
        lambda vm, odd: vm.run("cat", input=odd), [5, 1.5, True, [1], {}, object(), "\ud800"],
    ),
    "env": (
        lambda vm, odd: vm.run("env", env=odd),
        ["A=b", ["A=b"], [("A", "b")], 5, {"A": None}, {"A": 1}, {"A": b"b"}, {"A": "a\0b"},
         {"A": "\ud800"}, {"": "x"}, {"A=": "x"}, {"A\0": "x"}, {1: "x"}, {None: "x"}],
    ),
    "cwd": (lambda vm, odd: vm.run("pwd", cwd=odd), [*PATHS[1:], "", "a\0b", "\ud800"]),
    "timeout": (lambda vm, odd: vm.run("true", timeout=odd), SECONDS),
    "put-source": (lambda vm, odd: vm.put(odd, "/srv"), [*PATHS, "", "a\0b", "\ud800"]),
    "put-target": (lambda vm, odd: vm.put("/etc/passwd", odd), [*PATHS, "", "a\0b", "\ud800"]),
    "put-timeout": (lambda vm, odd: vm.put("/etc/passwd", "/srv", timeout=odd), SECONDS),
    "get-source": (lambda vm, odd: vm.get(odd, "out"), [*PATHS, "", "a\0b", "\ud800"]),
    "get-target": (lambda vm, odd: vm.get("/srv", odd), [*PATHS, "", "a\0b", "\ud800"]),
    "get-timeout": (lambda vm, odd: vm.get("/srv", "out", timeout=odd), SECONDS),
    "get-size": (
        lambda vm, odd: vm.get("/srv", "out", max_size=odd),
        ["", "5", 0, -1, 1.5, True, b"1M", [], "1T", "-1M", "1.5G", "٣M", "1 000K", float("inf")],
    ),
    "screenshot": (lambda vm, odd: vm.screenshot(odd), [*PATHS, "", "a\0b", "\ud800"]),
    "ssh_config": (lambda vm, odd: vm.ssh_config(odd), [*PATHS, "", "a\0b", "\ud800"]),
    "shutdown": (lambda vm, odd: vm.shutdown(odd), [None, *SECONDS]),
    "connect-timeout": (lambda vm, odd: vm.connect(8080, timeout=odd), [None, *SECONDS]),
    "connect": (lambda vm, odd: vm.connect(odd), [None, 9, True, b"8080", "x", [], 8080.0, ""]),
    "protocol": (lambda vm, odd: vm.connect(8080, protocol=odd), ["sctp", 5, b"tcp", "udp"]),
    "expose": (
        lambda vm, odd: vm.expose(odd),
        [None, True, 0, -1, 70000, "x", b"80", 80.0, [80], "", "a\0"],
    ),
    "unexpose": (lambda vm, odd: vm.unexpose(odd), [None, 8080, b"8080", [], ""]),
    "restore": (lambda vm, odd: vm.restore(odd), [None, "moment", 1, Path("moment")]),
}  # fmt: skip
ODD = [(name, odd) for name, (_, odds) in CALLS.items() for odd in odds]


@folded("name, odd", ODD)
def test_an_argument_that_means_nothing_is_refused_by_name_before_it_is_sent(vm, name, odd):
    call, _ = CALLS[name]
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        call(vm, odd)
    assert not isinstance(caught.value, UnicodeError)
    # What was given stands in the message, or the name of what it was given for.
    inner = next(iter(odd.items())) if isinstance(odd, dict) and odd else (odd,)
    told = [
        repr(odd)[:20],
        "empty",
        "NUL",
        "ud800",
        "is not exposed",
        *(repr(part)[:20] for part in inner),
    ]
    text = str(caught.value).replace("\\\\", "\\")
    assert any(word in text for word in told), text


def test_a_vm_outside_of_a_with_block_is_no_odd_argument(vm):
    assert vm[8080].external == 20080


@pytest.mark.parametrize(
    "attempt",
    [
        copy.copy, copy.deepcopy, pickle.dumps, lambda vm: pickle.dumps(vm.run),
        lambda vm: copy.deepcopy([{"vm": vm}]),
    ],
)  # fmt: skip
def test_a_vm_is_neither_copied_nor_sent_to_another_process(vm, attempt):
    with pytest.raises(TypeError, match="a VM is of the process that started it"):
        attempt(vm)


# --- forked children ----------------------------------------------------------------------------

USES = {
    "run": lambda vm: vm.run("true"), "put": lambda vm: vm.put("/etc/passwd", "/srv"),
    "get": lambda vm: vm.get("/etc/passwd", "out"), "screenshot": lambda vm: vm.screenshot("x"),
    "ssh_config": lambda vm: vm.ssh_config("x"), "expose": lambda vm: vm.expose(80),
    "pause": VM.pause, "resume": VM.resume, "reset": VM.reset, "snapshot": VM.snapshot,
    "reboot": VM.reboot,
    "restore": lambda vm: vm.restore(Snapshot.__new__(Snapshot)), "shutdown": VM.shutdown,
    "connect": lambda vm: vm.connect(8080),
    "unexpose": lambda vm: vm.unexpose(9090), "share": lambda vm: vm.share("/srv", "/srv"),
    "unshare": lambda vm: vm.unshare("/srv"), "wait_ready": VM.wait_ready,
}  # fmt: skip


def in_a_forked_child(do):
    """Return what ``do`` raised, or returned, in a child of this process."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b""
        with contextlib.suppress(BaseException):
            try:
                found = do()
            except BaseException as error:  # noqa: BLE001 - it is what is asked for
                found = error
            answer = pickle.dumps(found)
        os.write(writes, answer)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as told:
        answer = told.read()
    os.waitpid(child, 0)
    return child, pickle.loads(answer)


def test_every_method_is_among_the_uses_of_the_test_below():
    public = {name for name in dir(VM) if callable(getattr(VM, name)) and name[0] != "_"}
    assert public == {*USES, "end"}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_forked_child_is_told_whose_vm_it_is(vm, use):
    vm._added = {ExposedPort(internal=9090, external=20090): SimpleNamespace(pass_fds=(0,))}
    child, found = in_a_forked_child(lambda: use(vm))
    assert isinstance(found, ForkedProcessError), found
    assert re.search(rf"process {os.getpid()}, which forked this one, {child}:", str(found))


def test_a_forked_child_does_not_end_its_parents_vm(vm):
    released = []
    vm._added = {1: SimpleNamespace(release=lambda: released.append(1))}
    _, found = in_a_forked_child(lambda: (vm.end(), released, vm[8080].external))
    assert found == (None, [], 20080)
    with pytest.raises(Asked):
        vm.end()


def test_a_machine_is_stopped_and_removed_by_its_own_process_alone(tmp_path):
    machine = Machine.__new__(Machine)
    machine.owner, machine.state, machine.place = Owner(), None, SimpleNamespace(workdir=tmp_path)
    machine.milestones = Milestones()
    machine.cards = machine.tpm = SimpleNamespace(stop=lambda: None)
    machine.kind = SimpleNamespace(close=lambda: None)
    machine.console = SimpleNamespace(let_grow=lambda: None)
    machine._qemu = SimpleNamespace(kill=ended)
    found = in_a_forked_child(lambda: (machine.stop(), machine.discard(), machine.running))[1]
    assert found == (None, None, False)
    assert tmp_path.is_dir()
    with pytest.raises(Asked):
        machine.stop()


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (b"\xff\0", b"\xff\0"), (bytearray(b"x"), b"x"), (memoryview(b"abcd")[::2], b"ac"),
        (array.array("B", [1, 2]), b"\1\2"), ("\udcff\0ä", b"\xff\0\xc3\xa4"), ("", b""),
        (None, b""),
    ],
)  # fmt: skip
def test_input_is_text_or_anything_that_has_bytes(vm, given, seen):
    got = []

    class Shell:
        def execute(self, _command, *, timeout, input, most):  # noqa: A002
            assert most == 16 << 20
            got.append((input, timeout))
            return 0, b"", b""

    vm._machine.shell = Shell()
    vm.run("cat", input=given, timeout=float("inf"))
    vm.run("cat", input=given, timeout=10**400)
    vm.run("cat", input=given, timeout=1)
    assert got == [(seen, None), (seen, None), (seen, 1.0)]


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [
        (None, 5 << 20), (1, 1), (10**20, 10**20), ("1K", 1024), ("500 KiB", 500 << 10),
        ("64m", 64 << 20), ("2 GiB", 2 << 30), (" 1GB ", 1 << 30),
    ],
)  # fmt: skip
def test_a_size_is_bytes_or_a_text_with_a_unit_and_else_the_settings(
    vm, monkeypatch, given, bytes_
):
    got = []
    monkeypatch.setattr(copying, "get", lambda *words, moved: got.append(words[4]))
    vm._machine.shell, vm._copy_limit = None, 5
    vm.get("/srv/x", "out", max_size=given)
    assert got == [bytes_]


@pytest.mark.parametrize(
    ("kind", "why"),
    [("usernet", "QEMU's user network"), ("none", "none at all"), ("gvproxy", "--vmports-keep")],
)
def test_a_network_that_is_not_looked_at_is_no_network_without_refusals(vm, kind, why):
    cards = SimpleNamespace(
        first=SimpleNamespace(network_log=None), network=SimpleNamespace(kind=kind)
    )
    vm._machine.cards = cards
    with pytest.raises(NetworkUnseenError) as caught:
        _ = vm.network_log
    assert why in str(caught.value)

"""The ways into a guest of a disk image: our agent, run here on the host, or what comes instead."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import time
from importlib import resources

import pytest
from host_shell import Taker

from pytest_vmports import ExposedPort, Guest
from pytest_vmports.errors import GuestSaidError, MachineError
from pytest_vmports.guests import disk_agent
from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.guests.image import Disk
from pytest_vmports.system import clock
from pytest_vmports.system.architecture import (
    X86_64,
    architecture_named,
    host_architecture,
)
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.inside import disk
from pytest_vmports.vm.inside.agent_link import AgentLink
from pytest_vmports.vm.inside.by_weight import ByWeight
from pytest_vmports.vm.inside.control import Control
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.lay_disks import KEY, NOTE, lay_disks
from pytest_vmports.vm.inside.ssh import SshShell
from pytest_vmports.vm.inside.waiting import Place, Waiting

# What firmware writes: it has no frame in it, and parts of one.
FIRMWARE = b"\x1b[2J\x1b[01;01H\x1b[0mBdsDxe: loading Boot0001\r\nV\x01\0\0V\x01\0"
READY = b"V\x01\0\0000"
GETTY = b"\r\nDebian GNU/Linux 12 vmports ttyS1\r\n\r\nvmports login: "


@pytest.fixture
def program(tmp_path, missing):
    name = architecture_named(host_architecture()).agent
    if name is None:
        missing("the agent", "run this on x86-64 or arm64")
    path = tmp_path / "agent.program"
    path.write_bytes((resources.files("pytest_vmports.guests") / name).read_bytes())
    path.chmod(0o755)
    return path


class Booted:
    """A disk's guest whose second serial port is in the hands of a test."""

    def __init__(self, folder, monkeypatch, *, architecture=X86_64, **keywords):
        monkeypatch.setattr(disk_agent, "HOME", str(folder))
        image = Disk(folder / "disk", **{"seed": Seed(), **keywords})
        self.place = Place(folder, folder, folder)
        for name in (KEY, f"{KEY}.pub"):
            (folder / name).write_text("a key")
        self.kind = kind_of(Guest("debian", prepared=False, root_disk=image), architecture)
        port = ExposedPort(internal=22, external=20022, protocol="tcp", host="127.0.0.1")
        with contextlib.ExitStack() as until_spawned:
            fd, _, _ = self.kind.connect(self.place, [port], until_spawned)
            self.port = socket.socket(fileno=os.dup(fd))
        (folder / "console.log").touch()
        console = Console(folder / "console.log")
        deadline = clock.now() + 60
        self.waiting = Waiting(console, lambda: None, deadline, 60.0, probe=self._probe)
        self.asked = []

    def _probe(self, ports):
        self.asked.append([port.internal for port in ports])
        return type("Probe", (), {"done": True, "answers": {}})()

    def shell(self):
        return self.kind.shell(lambda: None)

    def close(self):
        self.kind.close()
        self.port.close()


@pytest.fixture
def booted(tmp_path, monkeypatch):
    with contextlib.ExitStack() as ending:

        def boot(**keywords):
            return ending.enter_context(
                contextlib.closing(Booted(tmp_path, monkeypatch, **keywords))
            )

        yield boot


@pytest.fixture
def agent_of(program):
    """Return a function that starts the agent in a guest, as its unit does."""
    with contextlib.ExitStack() as ending:

        def start(guest):
            agent = subprocess.Popen([program, "0"], stdin=guest.port, stdout=guest.port)
            ending.callback(agent.wait, 60)
            ending.callback(guest.close)
            return agent

        yield start


def pwd(shell):
    return shell.execute("pwd", timeout=60, input=b"")[1].decode().strip()


@pytest.mark.parametrize("before", [b"", FIRMWARE, b"x" * 10_000 + READY[:-1]])
def test_the_agent_is_the_way_in_whatever_was_written_on_its_port_before(
    booted, agent_of, tmp_path, before
):
    guest = booted()
    guest.port.sendall(before)
    agent_of(guest)
    assert guest.shell() is None  # as long as it has not spoken
    guest.kind.await_shell(guest.waiting)
    assert pwd(guest.shell()) == str(tmp_path)
    assert guest.kind.remark is None and guest.kind.why_no_template is None


def test_while_cloud_init_is_waited_for_the_agent_may_speak(booted, agent_of, tmp_path):
    guest = booted()
    guest.port.sendall(FIRMWARE)
    agent_of(guest)
    while guest.shell() is None:
        guest.kind._pause(guest.waiting)
    guest.kind._pause(guest.waiting)  # it speaks once
    guest.kind.await_shell(guest.waiting)
    assert pwd(guest.shell()) == str(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "it has not spoken on its serial port"),
        (FIRMWARE, "it has not spoken"),
        (READY, "it spoke on its serial port, and answers nothing"),
        (READY + GETTY, "its serial port is not its own"),
        (READY + b"C\x0a\0\0" + b"0123456789", "its serial port is not its own"),
        (READY + b"C\x02\0\0-1", "its serial port is not its own"),
    ],
    ids=["silence", "firmware", "deaf", "getty", "too long", "no number"],
)
@pytest.mark.parametrize("ssh", [True, False])
def test_without_the_agent_it_is_said_why_and_what_comes_instead(
    booted, monkeypatch, tmp_path, said, reason, ssh
):
    monkeypatch.setattr(disk, "_AGENT_SECONDS", 0.1)
    (tmp_path / NOTE).touch()  # of the boot before
    guest = booted(ssh=ssh)
    guest.port.sendall(said)
    guest.kind.await_shell(guest.waiting)
    assert reason in guest.kind.remark
    assert ("commands go by ssh" in guest.kind.remark) is ssh
    assert ("nothing in it runs commands" in guest.kind.remark) is not ssh
    assert not (tmp_path / NOTE).exists()
    assert (guest.shell() is None) is not ssh
    if ssh:
        assert guest.kind.why_no_template is None
    else:
        assert "clock" in guest.kind.why_no_template


def test_a_port_that_is_written_to_without_end_is_no_agent_in_the_end(booted, monkeypatch):
    monkeypatch.setattr(disk, "_AGENT_SECONDS", 0.2)
    guest = booted()
    flood = subprocess.Popen(["yes"], stdout=guest.port)
    try:
        guest.kind.await_shell(guest.waiting)
        assert "it has not spoken" in guest.kind.remark
        link_buffer = guest.kind._control._frames._unread
        assert len(link_buffer) < 1 << 17
    finally:
        flood.kill()
        flood.wait()


def test_garbage_after_the_agent_has_answered_is_an_error_and_stays_one(booted, agent_of):
    guest = booted()
    agent = agent_of(guest)
    guest.kind.await_shell(guest.waiting)
    agent.kill()
    agent.wait()
    guest.port.sendall(GETTY)
    for _ in range(2):
        with pytest.raises(GuestSaidError, match="control channel gave a malformed answer"):
            pwd(guest.shell())


def test_an_agent_that_was_killed_comes_back(booted, agent_of, tmp_path):
    guest = booted()
    agent = agent_of(guest)
    guest.kind.await_shell(guest.waiting)
    agent.kill()
    agent.wait()
    agent_of(guest)
    with pytest.raises(MachineError, match="ended and was started anew"):
        pwd(guest.shell())
    assert pwd(guest.shell()) == str(tmp_path)


def test_a_clone_knows_what_its_templates_guest_had_and_asks_nothing(booted, tmp_path):
    (tmp_path / NOTE).touch()
    guest = booted(ssh=True)
    guest.kind.restored(None)
    sent = guest.port.recv(100)
    # The clock is on its way before the guest runs, and what random numbers begin with.
    assert sent[:4] == b"C\x30\0\0" and len(sent) == 4 + 16 + 32
    guest.kind.await_shell(guest.waiting)
    assert guest.asked == []
    guest.port.sendall(b"C\x01\0\0000")
    guest.kind.set_clock(guest.waiting)
    guest.port.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.port.recv(1)  # it was not sent twice
    assert guest.shell() is not None


def test_a_guest_that_refuses_the_time_is_told_of(booted, tmp_path):
    (tmp_path / NOTE).touch()
    guest = booted()
    guest.kind.restored(None)
    guest.port.sendall(b"C\x01\0\0001")
    with pytest.raises(MachineError, match="refused to have its clock set: Operation not"):
        guest.kind.set_clock(guest.waiting)


def test_a_clone_of_a_guest_without_the_agent_goes_by_ssh_and_says_so(booted):
    guest = booted(ssh=True)
    guest.kind.restored(None)
    guest.port.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.port.recv(1)
    guest.kind.await_shell(guest.waiting)
    assert guest.asked == []  # the one that was saved had answered
    assert "commands go by ssh" in guest.kind.remark


def test_a_guest_that_boots_is_asked_by_ssh_beside_the_agent(booted, agent_of):
    guest = booted(ssh=True)
    agent_of(guest)
    guest.kind.await_shell(guest.waiting)
    assert guest.asked == [[22]]
    assert isinstance(guest.kind.ssh, SshShell)


@pytest.mark.parametrize("bare", [{"bare": True}, {"seed": None}], ids=["agent = no", "no seed"])
def test_where_no_agent_is_brought_none_is_waited_for(booted, bare):
    guest = booted(ssh=True, **bare)
    guest.kind.await_shell(guest.waiting)
    assert guest.kind.remark is None
    assert guest.asked == [[22]]
    guest = booted(**bare)
    assert "clock" in guest.kind.why_no_template


def lang(shell):
    return shell.execute('printf %s "$LANG $USER"', timeout=60, input=b"")[1]


@pytest.mark.parametrize(
    ("said", "found"),
    [("C.UTF-8", b"C.UTF-8 root"), ("de_DE.utf8@euro", b"de_DE.utf8@euro root"),
     ("", b" root"), ("a b", b" root"), ("C\\n", b" root"), ("C; exit 1", b" root"),
     ("x" * 65, b" root"), ("x" * 2000, b" root"), ("C'; exit 1; '", b" root")],
    ids=str,
)  # fmt: skip
def test_commands_have_the_systems_language_in_clones_too(
    booted, agent_of, monkeypatch, said, found
):
    monkeypatch.setattr(disk_agent, "ASK_LANG", f"printf %b {shlex.quote(said)}")
    guest = booted()
    agent_of(guest)
    guest.kind.await_shell(guest.waiting)
    assert lang(guest.shell()) == found
    guest.close()
    clone = booted()
    clone.kind.restored(None)
    assert clone.port.recv(4) == b"C\x30\0\0" and len(clone.port.recv(100)) == 48  # its time
    agent_of(clone)
    clone.kind._control.await_begin("V", 0, clock.now() + 60, lambda: None)
    assert lang(clone.shell()) == found


def test_the_note_goes_with_a_template_and_to_its_clones(booted, agent_of, tmp_path):
    guest = booted()
    agent_of(guest)
    guest.kind.await_shell(guest.waiting)
    template, clone = tmp_path / "template", tmp_path / "clone"
    template.mkdir()
    clone.mkdir()
    guest.kind.save_key(guest.place, template)
    lay_disks(template, clone, (), {})
    assert (clone / NOTE).exists()
    (tmp_path / NOTE).unlink()
    (template / NOTE).unlink()
    (clone / NOTE).unlink()
    guest.kind.save_key(guest.place, template)
    lay_disks(template, clone, (), {})
    assert not (clone / NOTE).exists()


class Way:
    """A shell that notes what it was asked."""

    def __init__(self):
        self.asked = []

    def execute(self, command, **keywords):
        self.asked.append(command)
        return 0, b"", b""


def test_what_carries_much_goes_by_the_wide_way():
    quick, wide = Way(), Way()
    shell = ByWeight(quick, wide, lambda: True)
    shell.execute("light", timeout=1, input=b"x" * (64 << 10))
    shell.execute("much", timeout=1, input=b"x" * (64 << 10) + b"x")
    shell.execute("out", timeout=1, input=b"", sink=Taker())
    assert (quick.asked, wide.asked) == (["light"], ["much", "out"])


def test_a_vm_that_ends_ends_the_waiting_for_the_agent():
    ours, guest = socket.socketpair()

    def check():
        raise ProcessLookupError

    with guest, contextlib.closing(Control(ours)) as control:
        link = AgentLink(control)
        waiting = Waiting(None, check, time.monotonic() + 60, 60.0)
        guest.sendall(FIRMWARE)
        with pytest.raises(ProcessLookupError):
            link.missing(0, clock.now() + 60, waiting)

"""What native code in gvproxy's or QEMU's place gets of the host where no path leads.

It is a program of ours behind the same walls: other processes, what they share, what is inherited,
what is left of it, and what it sends.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from confined import PYTHON, tries
from vm_helpers import until

from pytest_vmports import ExposedPort, PortAllocator
from pytest_vmports.network import walls
from pytest_vmports.network.doorman import Doorman
from pytest_vmports.system import calls, libc, seccomp, surroundings
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.process import spawn
from pytest_vmports.system.run_dir import RunDir


@pytest.fixture
def folder():
    """Return a private folder, as a VM's."""
    with RunDir() as run_dir:
        yield run_dir.path


OTHERS = """
import resource
def system(name, *arguments):
    attempt(name, lambda: call("syscall", numbers[name], *arguments))
room = ctypes.create_string_buffer(4096)
info = ctypes.create_string_buffer(struct.pack("=II", 56, 0) + bytes(48), 56)
system("prlimit64", pid, resource.RLIMIT_NOFILE, None, room)
system("setpriority", os.PRIO_PROCESS, pid, 0)
system("sched_setscheduler", pid, os.SCHED_OTHER, bytes(4))
system("sched_setparam", pid, bytes(4))
system("sched_setattr", pid, info, 0)
system("sched_setaffinity", pid, 128, bytes([255]) * 128)
system("ioprio_set", 1, pid, 2 << 13 | 4)
system("ptrace", 16, pid, 0, 0)
system("shmget", 0, 4096, 0o1600)
system("shmat", shared, None, 0o10000)
system("shmctl", shared, 2, room)
system("semget", 0, 1, 0o1600)
system("msgget", 0, 0o1600)
system("mq_open", b"vmports", os.O_RDWR | os.O_CREAT, 0o600, None)
system("mq_unlink", b"vmports")
system("keyctl", 0, ctypes.c_long(-4), 1)
system("add_key", b"user", b"vmports", b"x", 1, ctypes.c_long(-2))
system("inotify_add_watch", os.eventfd(0), b"/usr/bin", 1)
system("unshare", 0x10000000)
system("setns", os.eventfd(0), 0)
system("setresuid", -1, -1, -1)
system("setgroups", 1 << 30, None)
system("chroot", b"/usr")
system("syslog", 10, None, 0)
system("quotactl", 0x80000100, None, 0, None)
system("bpf", 0, room, 0)
for name in files:
    arguments = {
        "chmod": (0o777,), "chown": (-1, -1), "lchown": (-1, -1), "utime": (None,),
        "utimes": (None,), "setxattr": (b"user.x", b"x", 1, 0), "lsetxattr": (b"user.x", b"x", 1),
        "removexattr": (b"user.x",), "lremovexattr": (b"user.x",),
    }.get(name)
    if arguments is not None:
        system(name, own.encode(), *arguments)
    elif name[0] != "f":
        system(name, -100, own.encode(), None, 0)
attempt("outlive us", lambda: call("prctl", 1, 0, 0, 0, 0))
attempt("die later", lambda: call("prctl", 1, signal.SIGTERM, 0, 0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
call("prctl", 1, signal.SIGKILL, 0, 0, 0)
"""


@pytest.mark.parametrize("who", ["gvproxy", "QEMU"])
def test_what_other_processes_have_and_share_is_not_its_to_change(folder, who):
    """No path leads there, so Landlock has no rule on it."""
    own = folder / "own"
    own.write_text("x")
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
    if who == "QEMU":
        around = Confinement(around.walls, refused=(seccomp.ATTRIBUTES,))
    numbers = {name: calls.number(name) for name in calls.NUMBERS}
    files = [name for name in calls.ATTRIBUTES if numbers[name] >= 0]
    shared = libc.call("shmget", 0, 4096, 0o1600)
    try:
        said = tries(around, folder, OTHERS, pid=os.getpid(), shared=shared, own=str(own),
                     numbers=numbers, files=files)  # fmt: skip
    finally:
        libc.call("shmctl", shared, 0, None)
    assert {name: what for name, what in said.items() if what != "EPERM"} == {}
    assert len(said) > 30


@pytest.mark.parametrize("call", [
    "os.fork()", "call('vfork')", "call('syscall', clone, signal.SIGCHLD, 0, 0, 0, 0)",
    "os.posix_spawn('/bin/true', ['true'], {})",
])  # fmt: skip
def test_it_leaves_no_process_behind_for_it_can_make_none(folder, call):
    """A child of its own would die neither with it nor with us."""
    code = f"""
        thread = threading.Thread(target=lambda: said.update(thread="made"))
        thread.start(); thread.join()
        print(said, flush=True)
        {call}
        print("AND MORE", flush=True)
        os._exit(0)
    """
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
    with pytest.raises(AssertionError):  # it was killed
        tries(around, folder, code, clone=calls.number("clone"))
    log = (folder / "tries.log").read_text()
    assert "{'thread': 'made'}" in log and "AND MORE" not in log


@pytest.mark.parametrize("library", [None, (0, 1), (0x7FFF_FFFF_0000, 0x8000_0000_0000)])
def test_where_our_own_start_cannot_be_told_from_a_childs_it_is_left_out(
    folder, library, monkeypatch
):
    """Faked: where our C library lies. Else we would be killed in the child's place."""
    monkeypatch.setattr(libc, "code", lambda: library)
    asked = seccomp.forks_problem.__wrapped__
    assert asked() is not None
    monkeypatch.setattr(seccomp, "forks_problem", asked)
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
    assert seccomp.FORKS not in around.refused
    assert tries(around, folder, "") == {}


def test_a_script_in_its_place_may_start_what_it_stands_for(folder):
    script = folder / "gvproxy"
    script.write_text("#!/bin/sh\n")
    around = walls.around_gvproxy(str(script), PYTHON, Doorman((), ()), folder)
    assert seccomp.FORKS not in around.refused


def test_no_datagram_leaves_by_an_address_that_is_sent_to(folder):
    """Nobody would see a connect; of the test's own services none hears."""
    code = """
        for host in ("127.0.0.1", "::ffff:127.0.0.1", "::1"):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            there = (host, port)
            attempt(host, lambda: udp(family).sendto(b"x", there))
            attempt(host + " by a message", lambda: udp(family).sendmsg([b"x"], [], 0, there))
        one = udp()
        attempt("no address", lambda: one.send(b"x"))
    """
    with socket.socket(type=socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        service.settimeout(0)
        around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
        said = tries(around, folder, code, port=service.getsockname()[1])
        with pytest.raises(BlockingIOError):
            service.recv(1)
    assert said.pop("no address") == "EDESTADDRREQ"
    assert set(said.values()) == {"EACCES", "EPERM"}


def test_a_forward_of_datagrams_that_comes_later_is_answered_from(folder):
    """One byte of it, none, and as many as there can be; and what is no memory is an error."""
    code = """
        one = udp(); one.bind(("127.0.0.1", ours))
        there = ("127.0.0.1", port)
        said["sent"] = [one.sendto(bytes(size), there) for size in (0, 1, 65507)]
        attempt("longer", lambda: one.sendto(bytes(65508), there))
        attempt("longest", lambda: one.sendto(bytes(1 << 17), there))
        host = socket.inet_aton("127.0.0.1")
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, host)
        attempt("nothing", lambda: call("sendto", one.fileno(), None, 10, 0, address, 16))
        attempt("nowhere", lambda: call("sendto", one.fileno(), b"x", 1, 0, 1, 16))
        attempt("no address", lambda: call("sendto", one.fileno(), b"x", 1, 0, address, 3))
        attempt("huge", lambda: call("sendto", one.fileno(), b"x", -1, 0, address, 16))
        one.sendto(b"the last", there)
    """
    with (
        PortAllocator() as allocator, socket.socket(type=socket.SOCK_DGRAM) as service,
    ):  # fmt: skip
        (lease,) = allocator.acquire(protocol="udp")
        lease.release_guard()
        service.bind(("127.0.0.1", 0))
        service.settimeout(30)
        doorman = Doorman((), [ExposedPort(internal=1, external=lease.port, protocol="udp")])
        around = walls.around_gvproxy(sys.executable, PYTHON, doorman, folder)
        said = tries(around, folder, code, port=service.getsockname()[1], ours=lease.port)
        assert [len(service.recv(1 << 16)) for _ in range(3)] == said.pop("sent") == [0, 1, 65507]
        assert service.recv(100) == b"the last"
    assert said == {
        "longer": "EMSGSIZE", "longest": "EMSGSIZE", "nothing": "EFAULT", "nowhere": "EFAULT",
        "no address": "EINVAL", "huge": "EMSGSIZE",
    }  # fmt: skip


@pytest.mark.parametrize("kept", [True, False])
def test_no_variable_of_ours_that_may_be_a_secret_is_inherited(folder, kept, monkeypatch):
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "1", "GITHUB_TOKEN": "2", "GOOGLE_APPLICATION_CREDENTIALS": "3",
        "LD_SDK_KEY": "4", "NIX_CONFIG": "5", "SSH_AUTH_SOCK": "6", "PATHS": "7",
        "DOCKER_HOST": "8", "QEMU_": "9", "LC_TOKEN_1": "10",
    }  # fmt: skip
    needed = {"PATH": os.environ["PATH"], "LC_ALL": "C", "LD_LIBRARY_PATH": "/nowhere", "TZ": "UTC"}
    monkeypatch.setattr(surroundings, "_variables", {**secrets, **needed})
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
    said = tries(around if kept else None, folder, "said.update(os.environ)")
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):  # a shell's own
        said.pop(name, None)
    assert said == (needed if kept else {**secrets, **needed})


@pytest.mark.parametrize("wall", ["landlock", "seccomp"])
def test_of_roots_rights_it_has_those_to_files_and_ports(folder, wall):
    """Root may set up the host's network by any socket, and more."""
    around = walls.around_gvproxy("/bin/sleep", [], Doorman((), ()), folder)
    alone = {"landlock": Confinement(around.walls), "seccomp": Confinement(refused=around.refused)}
    child = spawn("it", ["sleep", "600"], log=folder / "log", confinement=alone[wall])
    try:
        program = Path(f"/proc/{child.pid}/exe")
        until(
            lambda: program.resolve().name in {"sleep", "coreutils", "busybox"},
            30,
            "it is that program",
        )
        status = Path(f"/proc/{child.pid}/status").read_text()
    finally:
        child.kill()
    assert int(status.partition("CapEff:")[2].split()[0], 16) & ~(1 << 1 | 1 << 2 | 1 << 10) == 0

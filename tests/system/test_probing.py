"""Programs that are there and cannot be run for the host's sake are not told to be missing."""

import errno
import os
import subprocess
import sys

import pytest

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.guests import qemu_img
from pytest_vmports.network import seal
from pytest_vmports.system import probing, programs
from pytest_vmports.vm.inside import ssh

ERRNOS = {
    errno.EMFILE: "ulimit -n", errno.ENFILE: "fs.file-max", errno.EAGAIN: "ulimit -u",
    errno.ENOMEM: "ulimit -v", errno.E2BIG: "environment", errno.ETXTBSY: "try again",
}  # fmt: skip
SCRIPTS = {
    "the kernel's kill": ("kill -KILL $$", "ended by SIGKILL", "dmesg"),
    "a crash": ("kill -SEGV $$", "ended by SIGSEGV", "ulimit -v"),
    "a kill below a wrapper": ("exit 137", "ended by SIGKILL", "ulimit -v"),
    "the loader": (
        "echo 'lib.so.1: failed to map segment from shared object' >&2; exit 127",
        "failed to map segment", "ulimit -v",
    ),
    "Go": ("echo 'fatal error: failed to reserve page summary memory' >&2; exit 2", "Go's", ""),
    "glibc": ("echo 'x: Cannot allocate memory'; exit 1", "Cannot allocate", "ulimit -v"),
    "GLib": ("echo 'could not allocate 64 bytes' >&2; exit 133", "could not alloc", "ulimit -v"),
    "threads": ("echo 'qemu: Resource temporarily unavailable'; exit 1", "unavail", "ulimit -u"),
    "descriptors": ("echo 'x: Too many open files'; exit 1", "Too many open", "ulimit -n"),
    "no end": ("read -r forever <&9", "not ended within", "look what it waits for"),
}  # fmt: skip
SCRIPTS["Go"] = (SCRIPTS["Go"][0], "failed to reserve", "ulimit -v")


def ask_qemu(path):
    programs.find_qemu.__wrapped__(path)


def ask_gvproxy(path):
    programs.find_gvproxy.__wrapped__(path)


def ask_qemu_img(path):
    os.environ["PATH"] = os.path.dirname(path)
    qemu_img.qemu_img(["info", "x"], read=())


def ask_ssh_keygen(path):
    os.environ["PATH"] = os.path.dirname(path)
    ssh.session_key(probing_folder(path))


def probing_folder(path):
    from pathlib import Path

    folder = Path(path).parent / "keys"
    folder.mkdir()
    return folder


ASKED = {
    "qemu": ask_qemu, "gvproxy": ask_gvproxy, "qemu-img": ask_qemu_img, "ssh-keygen": ask_ssh_keygen
}  # fmt: skip


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that makes a program of shell text, which may wait for ever."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    for module, name in ((programs, "_PROBE"), (qemu_img, "_TOOL"), (ssh, "_KEY")):
        monkeypatch.setattr(module, f"{name}_SECONDS", 0.2)

    def make(name, text):
        # What waits reads a pipe that nobody writes to, so that no child of it is left.
        (tmp_path / "sh").symlink_to("/bin/sh")
        waits = f'exec 9<>"{tmp_path}/pipe"\n' if "<&9" in text else ""
        if waits:
            os.mkfifo(tmp_path / "pipe")
        (tmp_path / name).write_text(f"#!/bin/sh\n{waits}{text}\n")
        (tmp_path / name).chmod(0o755)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(("text", "said", "remedy"), SCRIPTS.values(), ids=SCRIPTS)
def test_a_program_that_the_host_stops_is_told_to_be_there(
    program, monkeypatch, name, text, said, remedy
):
    if "<&9" not in text:
        for module, seconds in ((programs, "_PROBE"), (qemu_img, "_TOOL"), (ssh, "_KEY")):
            monkeypatch.setattr(module, f"{seconds}_SECONDS", 20)
    path = program(name, text)
    with pytest.raises(ProgramStoppedError) as caught:
        ASKED[name](path)
    assert f"{path} is there, and this host keeps it from running" in str(caught.value)
    assert said in caught.value.reason
    assert remedy in caught.value.remedy
    assert "install" not in str(caught.value)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(("number", "remedy"), ERRNOS.items(), ids=map(errno.errorcode.get, ERRNOS))
def test_a_program_that_cannot_even_be_started_is_told_to_be_there(
    program, monkeypatch, name, number, remedy
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    path = program(name, "exit 0")
    monkeypatch.setattr(probing.tools, "run", refuse)
    with pytest.raises(ProgramStoppedError) as caught:
        ASKED[name](path)
    assert caught.value.reason == os.strerror(number)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("asked", ["--version", "-sandbox"])
def test_a_limit_met_later_is_no_missing_sandbox(program, asked):
    good = "echo 'QEMU emulator version 8.2.1'"
    full = "echo 'Too many open files'; exit 1"
    path = program("qemu", f'case "$*" in *{asked}*) {full};; *) {good};; esac')
    with pytest.raises(ProgramStoppedError):
        programs.find_qemu.__wrapped__(path)


def test_a_qemu_that_its_sandbox_kills_is_used_without(program, monkeypatch):
    monkeypatch.setattr(programs, "_PROBE_SECONDS", 20)
    good = "echo 'QEMU emulator version 8.2.1'"
    path = program("qemu", f'case "$*" in *-sandbox*) kill -SYS $$;; *) {good};; esac')
    assert not programs.find_qemu.__wrapped__(path).has_sandbox


def test_a_limit_that_passes_unseals_nothing_for_the_whole_run(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    seal.problem.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(seal.tools, "start", refuse)
        with pytest.raises(ProgramStoppedError, match="ulimit -n"):
            seal.problem()
    assert "Too many" not in str(seal.problem())


REAL = """
import resource, sys
from pytest_vmports.errors import VmPortsError
from pytest_vmports.system import programs
from pytest_vmports.network import seal
kind, size, find, path = sys.argv[1:]
limit = getattr(resource, kind)
resource.setrlimit(limit, (int(size), int(size)))
try:
    print(getattr(programs, find)(path))
except VmPortsError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("find", ["find_qemu", "find_gvproxy"])
@pytest.mark.parametrize(("kind", "size", "remedy"), [
    ("RLIMIT_NOFILE", 6, "ulimit -n"), ("RLIMIT_AS", 45 << 20, "ulimit -v"),
])  # fmt: skip
def test_real_programs_below_real_limits(qemu_binary, gvproxy_089, find, kind, size, remedy):
    path = qemu_binary if find == "find_qemu" else gvproxy_089
    command = [sys.executable, "-c", REAL, kind, str(size), find, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"ProgramStoppedError {path} is there, and this host keeps it from running" in (
        done.stdout
    ), done.stderr
    assert remedy in done.stdout

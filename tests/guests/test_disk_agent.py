"""The shell text that starts our agent in a distribution's guest, run here on a terminal."""

from __future__ import annotations

import contextlib
import email
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from importlib import resources

import psutil
import pytest

from pytest_vmports import Guest
from pytest_vmports.guests import disk_agent
from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.system import clock
from pytest_vmports.system.architecture import (
    AARCH64,
    RISCV64,
    X86_64,
    architecture_named,
    host_architecture,
)
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import CLOCK, READY, Control

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>'{log}'
[ -e '{loaded}' ] || [ "$1" = daemon-reload ] || exit 5
"""


def alive():
    """Is called while we wait; there is no VM that could have ended."""


class Port:
    """A guest's serial port, and our end of its channel."""

    def __init__(self):
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)
        self.slave = slave  # held, or the master would read an error between two agents
        ours, self._theirs = socket.socketpair()
        self.control = Control(ours)
        self._pump = threading.Thread(target=self._run, daemon=True)
        self._pump.start()

    def _run(self):
        while True:
            for ready in select.select([self.master, self._theirs], [], [])[0]:
                if ready is self._theirs:
                    data = self._theirs.recv(4096)
                    if not data:
                        return
                    os.write(self.master, data)
                else:
                    self._theirs.sendall(os.read(self.master, 4096))

    def ready(self):
        return self.control.await_begin(READY, disk_agent.EXIT_CODE, clock.now() + 60, alive)

    def close(self):
        self.control.close()
        self._pump.join(60)
        self._theirs.close()
        for fd in (self.master, self.slave):
            os.close(fd)


@pytest.fixture
def port():
    with contextlib.closing(Port()) as one:
        yield one


@pytest.fixture
def program(missing):
    name = architecture_named(host_architecture()).agent
    if name is None:
        missing("the agent", "run this on x86-64, arm64 or riscv64")
    return (resources.files("pytest_vmports.guests") / name).read_bytes()


@pytest.fixture
def boot(tmp_path, port, program):
    """Return a function that runs the text as a boot does, and ends with what that left running."""
    begun = []
    (tmp_path / "run").mkdir()

    def run(name=port.name, folders=("agent",), **environment):
        text = disk_agent.text(
            program, name, folders=[f"{tmp_path}/{one}" for one in folders],
            run=f"{tmp_path}/run",
        )  # fmt: skip
        booting = subprocess.Popen(
            ["sh", "-c", text], start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        begun.append(booting.pid)
        said = booting.communicate(timeout=60)[0]
        return booting.returncode, said

    yield run
    for group in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def test_the_agent_is_started_on_the_port_and_serves_it(boot, port, tmp_path):
    assert boot()[0] == 0
    assert port.ready()
    shell = AgentShell(port.control, alive, str(tmp_path))
    assert shell.execute("pwd; cat", timeout=60, input=b"\x03\x04\r\n\xff") == (
        0, f"{tmp_path}\n".encode() + b"\x03\x04\r\n\xff", b"",
    )  # fmt: skip


def test_the_first_folder_that_runs_a_program_is_taken(boot, port, tmp_path):
    (tmp_path / "no folder").touch()
    assert boot(folders=("no\\ folder/agent", "second", "third"))[0] == 0
    assert port.ready()
    assert os.access(tmp_path / "second" / "agent", os.X_OK)
    assert not (tmp_path / "third").exists()


def test_where_no_program_runs_nothing_is_started_and_nothing_left(boot, tmp_path):
    other = tmp_path / "bin"
    other.mkdir()
    (other / "base64").write_text("#!/bin/sh\necho no program\n")
    (other / "base64").chmod(0o755)
    boot(folders=("first", "second"), PATH=f"{other}:{os.environ['PATH']}")
    assert [*(tmp_path / "first").iterdir(), *(tmp_path / "second").iterdir()] == []
    assert not (tmp_path / "run" / "vmports-agent.pid").exists()


@pytest.mark.parametrize("name", ["/dev/absent", "/dev/null"], ids=["missing", "no terminal"])
def test_without_such_a_port_nothing_is_put_into_the_guest(boot, tmp_path, name):
    boot(name)
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_an_agent_that_was_killed_is_started_anew(boot, port, tmp_path):
    boot()
    assert port.ready()
    (agent,) = running(tmp_path)
    agent.kill()
    assert port.ready()
    assert running(tmp_path) != [agent]


def test_a_second_run_in_one_boot_starts_no_second_agent(boot, port, tmp_path):
    boot()
    assert port.ready()
    before = running(tmp_path)
    assert boot()[0] == 0
    port.control.send_mark()
    assert port.control.await_number(CLOCK, clock.now() + 60, alive)
    assert running(tmp_path) == before


def running(folder):
    program = f"{folder}/agent/agent"
    return [
        one for one in psutil.process_iter(["cmdline"]) if program in (one.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("loaded", [True, False])
def test_systemd_is_given_a_unit_whose_command_is_the_agent(boot, port, tmp_path, loaded):
    units, programs = tmp_path / "run" / "systemd" / "system", tmp_path / "bin"
    units.mkdir(parents=True)
    programs.mkdir()
    log, known = tmp_path / "log", tmp_path / "known"
    if loaded:
        known.touch()
    (programs / "systemctl").write_text(SYSTEMCTL.format(log=log, loaded=known))
    (programs / "systemctl").chmod(0o755)
    boot(PATH=f"{programs}:{os.environ['PATH']}")
    start = "--no-block start vmports-agent"
    # An older one does not look into its folders again by itself.
    asked = [start] if loaded else [start, "daemon-reload", start]
    assert log.read_text().splitlines() == asked
    unit = dict(
        line.split("=", 1)
        for line in (units / "vmports-agent.service").read_text().splitlines()
        if "=" in line
    )
    assert unit["Restart"] == "always"
    assert unit["KillMode"] == "process" and unit["OOMPolicy"] == "continue"
    agent = subprocess.Popen(shlex.split(unit["ExecStart"]))
    try:
        assert port.ready()
    finally:
        agent.kill()
        agent.wait()


def test_it_is_shell_text_that_every_shell_reads(tmp_path):
    vendor = tmp_path / "vendor"
    data = Seed().files("key", disk_agent.script(X86_64))["vendor-data"]
    _, script = email.message_from_bytes(data).get_payload()
    vendor.write_text(script.get_payload())
    for shell in ("dash", "bash", "busybox"):
        if path := shutil.which(shell):
            words = [path, "sh"] if shell == "busybox" else [path]
            subprocess.run([*words, "-n", vendor], check=True)


def test_each_architecture_gets_its_own_agent_on_its_own_port():
    intel, arm = disk_agent.script(X86_64), disk_agent.script(AARCH64)
    assert "port='/dev/ttyS1'" in intel and "port='/dev/ttyS0'" in arm
    assert intel != arm.replace("ttyS0", "ttyS1")
    assert "port='/dev/ttyS1'" in (riscv := disk_agent.script(RISCV64)) and riscv != intel
    assert disk_agent.script(architecture_named("loongarch64")) == ""


def test_a_guest_without_the_agent_is_given_what_it_was_given_before(tmp_path):
    (tmp_path / "disk.raw").write_bytes(b"x" * 512)
    guest = Guest.disk(tmp_path / "disk.raw", user_data="#cloud-config\n{}\n", ssh=False)
    with_it, without = (guest.bringing(agent=yes).root_disk for yes in (True, False))
    assert b"vmports-agent" in with_it.seed_files(X86_64)["vendor-data"]
    assert without.seed_files(X86_64) == guest.root_disk.seed.files()
    assert b"vmports-agent" not in without.seed_files(X86_64)["vendor-data"]
    assert with_it.brings_agent(X86_64) and not without.brings_agent(X86_64)
    assert not with_it.brings_agent(architecture_named("loongarch64"))

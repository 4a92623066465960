"""The login that commands by ssh share, with a real sshd on the host in the guest's place."""

import contextlib
import filecmp
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import psutil
import pytest
from vm_helpers import alive, until

from pytest_vmports import ExposedPort
from pytest_vmports.errors import CommandTimeoutError, GuestShellError
from pytest_vmports.system import landlock
from pytest_vmports.vm.inside import copying, ssh, ssh_login
from pytest_vmports.vm.inside.shell import RunnerShell
from pytest_vmports.vm.inside.ssh import HOST, SshShell, public_half, session_key

CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {key}
PidFile none
UsePAM no
StrictModes no
MaxSessions 3
"""


@pytest.fixture(scope="module")
def server(missing, tmp_path_factory):
    """Return a running sshd: its folder, with our key in it, its port and its process."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        missing("sshd", "install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"]
    subprocess.run(make, check=True)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # where it would leave its rights behind
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = public_half(session_key(folder))
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, key=public))
    said = (folder / "said").open("w")
    with (
        said, subprocess.Popen([program, "-D", "-e", "-f", folder / "config"], stderr=said) as sshd,
    ):  # fmt: skip
        until(lambda: "listening" in (folder / "said").read_text(), 60, "sshd does not listen")
        yield folder, port, sshd
        for child in psutil.Process(sshd.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        sshd.kill()


@pytest.fixture
def shell(server, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh, "_USER", getpass.getuser())
    folder, port, _ = server
    with made(ExposedPort(internal=22, external=port), session_key(folder), tmp_path) as way:
        yield way


@contextlib.contextmanager
def made(port, key, folder):
    with contextlib.closing(SshShell(port, key, folder)) as way:
        yield way


def logins(server):
    return (server[0] / "said").read_text().count("Accepted publickey")


def sessions(server):
    """Return the processes of the connections that are open."""
    return psutil.Process(server[2].pid).children()


def test_commands_share_one_login_and_end_as_if_they_had_none(shell, server):
    before = logins(server)
    assert shell.run("cat; echo wrong >&2; exit 7", timeout=60, input=b"\0in\xff") == (
        7, b"\0in\xff", b"wrong\n",
    )  # fmt: skip
    for code in (0, 1, 255):
        assert shell.run(f"exit {code}", timeout=60) == (code, b"", b"")
    data = os.urandom(3 << 20)
    assert shell.run("tee /dev/stderr", timeout=60, input=data) == (0, data, data)
    assert shell.run("kill -KILL $$", timeout=60) == (128 + 9, b"", b"")
    assert logins(server) == before + 1


def test_a_login_that_is_killed_or_closed_is_opened_anew(shell, server):
    for end in (
        lambda: os.kill(shell._login.now.process.pid, signal.SIGKILL),
        lambda: [one.kill() for one in sessions(server)],
    ):
        assert shell.run("echo one", timeout=60)[1] == b"one\n"
        before = logins(server)
        connection = shell._login.now
        end()
        until(lambda: connection.process.returncode is not None, 60, "it does not notice")  # noqa: B023
        assert shell.run("echo two; exit 3", timeout=60) == (3, b"two\n", b"")
        assert logins(server) == before + 1


def test_what_a_killed_login_leaves_in_the_folder_does_not_keep_the_next_from_being_shared(
    server, tmp_path, monkeypatch
):
    """As after a reset of its VM, which has another way in, and a hand-over, which has the same."""
    monkeypatch.setattr(ssh, "_USER", getpass.getuser())
    folder, number, _ = server
    port, key = ExposedPort(internal=22, external=number), session_key(folder)
    for _ in range(2):
        before = logins(server)
        with made(port, key, tmp_path) as way:
            for _ in range(3):
                assert way.run("echo on", timeout=60) == (0, b"on\n", b"")
            assert logins(server) == before + 1
            login = way._login.now
            way.redirect(port)
            assert not alive(login.process.pid) and login.process.returncode is not None
            assert way.run("echo on", timeout=60) == (0, b"on\n", b"")
            assert logins(server) == before + 2


def test_a_command_whose_connection_the_guest_cuts_tells_so_and_the_next_has_another(
    shell, server, tmp_path
):
    def cut():
        until((tmp_path / "begun").exists, 60, "it does not begin")
        for one in sessions(server):
            one.kill()

    cutting = threading.Thread(target=cut)
    cutting.start()
    with pytest.raises(GuestShellError, match="closed by remote host"):
        shell.run(
            f"echo $$ >'{tmp_path}/pid'; touch '{tmp_path}/begun'; exec sleep 600", timeout=60
        )
    cutting.join()
    assert shell.run("echo on", timeout=60) == (0, b"on\n", b"")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_more_commands_than_one_connection_may_have_are_run_all_the_same(shell):
    answers = []

    def ask(number):
        answers.append(shell.run(f"cat; exit {number}", timeout=120, input=b"x" * number)[:2])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(number, b"x" * number) for number in range(8)]


def test_what_runs_on_in_the_background_takes_no_later_commands_login(shell, server, tmp_path):
    """Its session is held by what holds its output; of these there are three."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = logins(server)
    for number in range(5):
        assert shell.run(f"cat <>{fifo} & exit {number}", timeout=60)[0] == number
    between = logins(server)
    assert shell.run("echo here", timeout=60) == (0, b"here\n", b"")
    assert shell._login.now is not None
    assert between - before <= 3 and logins(server) == between
    shell.run(f"fuser -k {fifo} || pkill -f '^cat <>{fifo}' || true", timeout=60)


def test_a_timeout_ends_the_command_with_its_children_and_the_login_stays(shell, server, tmp_path):
    assert shell.run("true", timeout=60)[0] == 0
    before, fifo = logins(server), tmp_path / "held"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(CommandTimeoutError, match="was killed") as caught:
        shell.run(f"exec 9>'{fifo}'; echo begun; sleep 9873 & sleep 9874", timeout=2)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert caught.value.stdout == b"begun\n"
    assert shell.run("true", timeout=60)[0] == 0 and logins(server) == before


def test_a_server_that_does_not_answer_is_given_up_in_time(tmp_path, server):
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        port = ExposedPort(internal=22, external=silent.getsockname()[1])
        with (
            made(port, session_key(server[0]), tmp_path) as way,
            pytest.raises(CommandTimeoutError, match=r"after 0\.5 s"),
        ):
            way.run("true", timeout=0.5)


def test_who_is_not_let_in_is_told_why(tmp_path, server, monkeypatch):
    monkeypatch.setattr(ssh, "_USER", getpass.getuser())
    port = ExposedPort(internal=22, external=server[1])
    (tmp_path / "home").mkdir()
    with (
        made(port, session_key(tmp_path / "home"), tmp_path) as way,
        pytest.raises(GuestShellError, match="Permission denied"),
    ):
        way.run("true", timeout=60)


def test_where_the_path_of_its_socket_would_be_too_long_each_command_logs_in(
    tmp_path, server, monkeypatch
):
    monkeypatch.setattr(ssh, "_USER", getpass.getuser())
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    before = logins(server)
    with made(ExposedPort(internal=22, external=server[1]), session_key(server[0]), folder) as way:
        assert [way.run("echo in", timeout=60)[1] for _ in range(2)] == [b"in\n"] * 2
        assert way._login.now is None
    assert logins(server) == before + 2


def test_a_path_with_what_ssh_takes_for_more_is_a_path(tmp_path, server, monkeypatch):
    monkeypatch.setattr(ssh, "_USER", getpass.getuser())
    monkeypatch.setattr(ssh_login, "_LONGEST_PATH", 107)
    folder = Path("/tmp") / f'a %h "b" {os.getpid()}'
    folder.mkdir(mode=0o700)
    before = logins(server)
    port = ExposedPort(internal=22, external=server[1])
    try:
        with made(port, session_key(server[0]), folder) as way:
            assert [way.run("echo in", timeout=60)[1] for _ in range(2)] == [b"in\n"] * 2
        assert logins(server) == before + 1
    finally:
        shutil.rmtree(folder)


def test_files_of_any_size_go_both_ways_in_little_memory(shell, tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as content:
        content.truncate(100 << 20)
        content.seek(50 << 20)
        content.write(os.urandom(1 << 20))
    tracemalloc.start()
    copying.put(RunnerShell(shell), source, f"{tmp_path}/in", 120)
    copying.get(RunnerShell(shell), f"{tmp_path}/in", tmp_path / "out", 120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert filecmp.cmp(source, tmp_path / "out", shallow=False)


def test_it_ends_with_its_vm_and_with_the_process_that_opened_it(shell, server, tmp_path):
    shell.run("true", timeout=60)
    pid = shell._login.now.process.pid
    shell.close()
    assert not alive(pid)
    program = f"""
import os, signal, sys
from pathlib import Path
from pytest_vmports import ExposedPort
from pytest_vmports.vm.inside import ssh
ssh._USER = {getpass.getuser()!r}
port = ExposedPort(internal=22, external={server[1]})
way = ssh.SshShell(port, Path({str(session_key(server[0]))!r}), Path(sys.argv[1]))
way.run("true", timeout=60)
print(way._login.now.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "other").mkdir()
    command = [sys.executable, "-c", program, tmp_path / "other"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    until(lambda: not alive(pid), 60, "it outlives who opened it")


def test_it_is_kept_from_the_hosts_files(shell, tmp_path, missing):
    if landlock.problem() is not None:
        missing(f"Landlock ({landlock.problem()})")
    shell.run("true", timeout=60)
    status = Path(f"/proc/{shell._login.now.process.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    # Its own files are all that it is given: a configuration elsewhere it cannot read.
    (tmp_path / "secret").write_text("Host vm\n")
    walls = shell._login._walls("/usr/bin/ssh").walls
    assert tmp_path not in (*walls.read, *walls.write, *walls.change)
    assert tmp_path / "ssh" in walls.write


def test_the_configuration_for_others_names_no_login_of_ours(shell, tmp_path):
    """By it a login as another user would be ours, and a tunnel would outlive who asked for it."""
    shell.run("true", timeout=60)
    text = shell.write_config(tmp_path / "config").read_text()
    assert "Control" not in text
    command = ["ssh", "-F", tmp_path / "config", HOST, "echo in"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "in\n"

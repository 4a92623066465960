"""Commands by ssh: the client's arguments and what becomes of its end, with a stand-in for it."""

import contextlib
import os
import stat
import subprocess

import pytest
from host_shell import Taker
from trees import nasty, picture
from vm_helpers import alive, until

from pytest_vmports import ExposedPort
from pytest_vmports.errors import (
    CommandOutputError,
    CommandTimeoutError,
    GuestFileError,
    GuestShellError,
    HostError,
)
from pytest_vmports.vm.inside import copying, ssh
from pytest_vmports.vm.inside.shell import MAX_OUTPUT, RunnerShell
from pytest_vmports.vm.inside.shell import run as run_in
from pytest_vmports.vm.inside.ssh import SshShell, public_half, session_key

PORT = ExposedPort(internal=22, external=20022)
# Runs what it is told here, and writes down how it was called; its last argument is the command.
STAND_IN = """#!/bin/sh
for last; do :; done
printf '%s\\n' "$*" >>'{log}'
exec setsid sh -c "$last"
"""
FAILS = """#!/bin/sh
while [ "$1" != -E ]; do shift; done
echo 'root@127.0.0.1: Permission denied (publickey).' >"$2"
exit 255
"""
# Lets one command in, and none after it.
ANSWERS_ONCE = (
    """#!/bin/sh
mkdir '{once}' 2>/dev/null && exec sleep 30
"""
    + FAILS
)


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a function that puts a program in ssh's place."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(text):
        (folder / "ssh").write_text(text)
        (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    put(STAND_IN.format(log=tmp_path / "called"))
    return put


@pytest.fixture
def shell(tmp_path, client):
    folder = tmp_path / "a vm"
    folder.mkdir()
    with contextlib.closing(SshShell(PORT, tmp_path / "the key", folder)) as way:
        yield way


def test_a_command_gives_status_output_and_errors(shell):
    found = shell.run("cat; echo wrong >&2; exit 7", timeout=30, input=b"\x00in\xff")
    assert found == (7, b"\x00in\xff", b"wrong\n")


def test_quotes_and_newlines_reach_the_guests_shell_as_they_are(shell):
    assert shell.run("printf '%s' \"it's\n$((1 + 1))\"", timeout=30)[1] == b"it's\n2"


def test_bytes_that_are_no_text_reach_the_guests_shell_as_they_are(shell):
    assert shell.run("printf %s '\udcff\udcfe'ä", timeout=30)[1] == b"\xff\xfe\xc3\xa4"


def test_files_go_both_ways(shell, tmp_path):
    source = nasty(str(tmp_path / "source"))
    way = RunnerShell(shell)
    copying.put(way, source, f"{tmp_path}/it's in", 30)
    assert picture(tmp_path / "it's in") == picture(source)
    copying.get(way, source, f"{tmp_path}/out/", 30)
    assert picture(tmp_path / "out" / "source") == picture(source, special_bits=False)


@pytest.mark.parametrize("written", [b"", b"x", b"x" * 60, b"x" * 65, b"\0\xff" * 100_000])
def test_what_a_command_writes_goes_to_who_takes_it_without_its_end(shell, written):
    taker = Taker()
    done = shell.run("tee /dev/stderr; exit 7", timeout=60, input=written, sink=taker)
    assert done == (7, b"", b"")
    assert taker.output == taker.errors == written


def test_a_command_whose_output_nobody_wants_any_more_is_ended(shell, tmp_path):
    script = f"echo $$ >'{tmp_path}/pid'; exec cat /dev/zero"
    with pytest.raises(GuestFileError, match="enough"):
        shell.run(script, timeout=None, sink=Taker(100_000))
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), 60, "the command runs on")


def test_a_command_that_grows_too_long_on_its_way_is_refused(shell):
    with pytest.raises(ValueError, match="put a script"):
        shell.run("'" * (50 << 10), timeout=30)


def test_a_status_of_255_is_the_commands_when_the_client_says_nothing(shell):
    assert shell.run("exit 255", timeout=30) == (255, b"", b"")


def test_a_client_that_fails_is_an_error_with_its_words(shell, client):
    client(FAILS)
    with pytest.raises(GuestShellError, match=r"Permission denied \(publickey\).; the guest needs"):
        shell.run("true", timeout=30)


def test_a_timeout_ends_the_command_with_its_children_in_the_guest(shell, tmp_path):
    fifo = tmp_path / "held"
    os.mkfifo(fifo)
    # Each child holds the pipe's other end: it reads as ended once the last of them is gone.
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(CommandTimeoutError, match=r"after 0\.5 s and was killed") as caught:
        shell.run(f"echo begun; exec 9>'{fifo}'; sleep 9873 & sleep 9874", timeout=0.5)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert caught.value.stdout == b"begun\n"


def test_a_guest_that_cannot_be_asked_to_end_a_command_does_not_hide_why(shell, client, tmp_path):
    client(ANSWERS_ONCE.replace("{once}", str(tmp_path / "once")))
    with pytest.raises(CommandTimeoutError, match=r"after 0\.5 s and was killed"):
        shell.run("sleep 9875", timeout=0.5)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_command_that_writes_without_end_is_killed_in_the_guest(shell, tmp_path, stream):
    words = {"timeout": 60, "check": False, "input": None, "env": None, "cwd": None}
    note = tmp_path / "pid"
    with pytest.raises(CommandOutputError, match="more than 100000 bytes") as caught:
        run_in(
            RunnerShell(shell), f"echo $$ >'{note}'; yes >&{stream}", max_output=100_000, **words
        )
    texts = caught.value.output, caught.value.stderr
    assert texts[int(stream) - 1] == "y\n" * 50_000 and texts[2 - int(stream)] == ""
    pid = int(note.read_text())
    until(lambda: not alive(pid), 60, "it runs on")


@pytest.mark.parametrize("command", ["yes", "yes >&2"])
def test_what_nobody_named_a_limit_for_is_kept_up_to_the_usual_one(shell, command):
    code, *written = shell.run(command, timeout=60)
    assert code == 128 + 9
    assert MAX_OUTPUT <= sum(map(len, written)) < MAX_OUTPUT + (1 << 20)


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000])
def test_a_command_may_write_as_much_as_it_may(shell, size):
    words = {"timeout": 60, "check": True, "input": None, "env": None, "cwd": None}
    command = f"head -c {size} /dev/zero"
    done = run_in(RunnerShell(shell), command, max_output=100_000, **words)
    assert done.stdout == "\0" * size


@pytest.mark.parametrize("code", [0, 1, 9, 77, 126, 255])
@pytest.mark.parametrize("written", ["", "1", "a\n", "\\377\\000", "007"])
def test_whatever_was_written_before_it_a_status_is_told_apart(shell, code, written):
    found = shell.run(f"printf '{written}'; printf '{written}' >&2; exit {code}", timeout=30)
    data = b"\xff\0" if "\\" in written else written.encode()
    assert found == (code, data, data)


def test_a_command_that_shows_all_processes_does_not_show_its_end(shell):
    show = "tr '\\0' ' ' </proc/$PPID/cmdline; cat /proc/[0-9]*/cmdline 2>/dev/null"
    code, output, _ = shell.run(f"{show}; echo end; exit 5", timeout=30)
    assert code == 5 and output.endswith(b"end\n") and b"pass()" in output


def test_megabytes_go_through_as_they_were(shell):
    data = os.urandom(1 << 20)
    assert shell.run("tee /dev/stderr", timeout=60, input=data) == (0, data, data)


def test_what_a_command_leaves_in_the_background_runs_on_and_may_write(shell, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # It goes on when the fifo's other end is opened, writes more than a pipe holds, and tells so.
    script = f"(read x <{fifo}; head -c 300000 /dev/zero; echo late >&2; echo done >{fifo})"
    assert shell.run(f"{script} & echo begun; exit 3", timeout=30) == (3, b"begun\n", b"")
    fifo.write_text("go\n")
    assert fifo.read_text() == "done\n"


def test_a_command_is_given_the_guests_own_umask_and_the_input_and_nothing_more(shell):
    before = os.umask(0o022)
    try:
        found = shell.run("umask; cat; ls /proc/self/fd | grep -c .", timeout=30, input=b"in\n")
    finally:
        os.umask(before)
    assert found == (0, b"0022\nin\n4\n", b"")  # with that of ls


def test_a_command_ended_by_a_signal_has_a_shells_status_for_it_and_no_word_of_ours(shell):
    assert shell.run("kill -KILL $$", timeout=30) == (128 + 9, b"", b"")
    assert shell.run("exec >&- 2>&-; exit 4", timeout=30) == (4, b"", b"")


def test_a_command_leaves_no_note_in_the_guest(shell, monkeypatch):
    token = os.urandom(16).hex()
    monkeypatch.setattr(ssh.secrets, "token_hex", lambda _: token)
    note = f"/tmp/.vmports-{token}"
    assert shell.run(f"stat -c %a {note}", timeout=30) == (0, b"600\n", b"")
    assert not os.path.exists(note)


def test_each_call_asks_for_no_password_and_keeps_its_host_keys_with_the_vm(shell, tmp_path):
    shell.run("true", timeout=30)
    assert f"-F {tmp_path}/a vm/ssh_config" in (tmp_path / "called").read_text()
    options = real_ssh_reads(tmp_path / "a vm" / "ssh_config")
    assert options["batchmode"] == "yes"
    assert options["identitiesonly"] == "yes"
    assert options["userknownhostsfile"] == f"{tmp_path}/a vm/known_hosts"


def real_ssh_reads(config):
    done = subprocess.run(
        ["/usr/bin/ssh", "-G", "-F", config, "vm"], capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_the_written_configuration_is_one_that_ssh_reads(shell, tmp_path):
    path = shell.write_config(tmp_path / "ssh_config")
    assert path == tmp_path / "ssh_config"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    options = real_ssh_reads(path)
    assert (options["hostname"], options["port"], options["user"]) == (
        PORT.host, str(PORT.external), "root",
    )  # fmt: skip
    assert options["identityfile"] == f"{tmp_path}/the key"


def test_a_sessions_key_is_made_once_and_its_own_alone(tmp_path):
    key = session_key(tmp_path)
    content = key.read_bytes()
    assert session_key(tmp_path) == key and key.read_bytes() == content
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    told = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, check=True)
    assert public_half(key).read_bytes().split()[:2] == told.stdout.split()[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ssh_key", "ssh_key.pub"]


def test_without_the_program_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(ssh.surroundings, "which", lambda _: None)
    with pytest.raises(HostError, match="ssh-keygen is not on PATH; install it"):
        session_key(tmp_path)

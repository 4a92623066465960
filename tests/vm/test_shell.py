"""Commands, with the host's own shell in the guest's place."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
from host_shell import HostShell

from pytest_vmports.errors import CommandFailedError, CommandOutputError, CommandTimeoutError
from pytest_vmports.vm.inside import shell


def run(command, **keywords):
    defaults = {"timeout": 10, "check": True, "input": None, "env": None, "cwd": None}
    return shell.run(HostShell(), command, **{**defaults, **keywords})


def test_it_reads_as_what_subprocess_returns():
    done = run("echo out; echo err >&2")
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_any_bytes_can_be_had_back():
    done = run("printf '\\377\\000ok'; printf '\\376' >&2")
    assert (done.stdout_bytes, done.stderr_bytes) == (b"\xff\0ok", b"\xfe")


def test_a_failure_says_what_was_run_and_what_it_said():
    with pytest.raises(CommandFailedError, match=r"'nope' ended with 127 in the guest.*\n.*nope"):
        run("nope")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("echo out; exit 4")
    assert (caught.value.returncode, caught.value.stdout, caught.value.cmd) == (
        4, "out\n", "echo out; exit 4",
    )  # fmt: skip


def test_unchecked_a_failure_is_a_result():
    assert run("exit 4", check=False).returncode == 4


def test_a_timeout_says_how_long_and_keeps_what_was_written():
    with pytest.raises(CommandTimeoutError, match=r"after 0\.5 s and was killed") as caught:
        run("echo begun; exec sleep 100", timeout=0.5)
    assert isinstance(caught.value, subprocess.TimeoutExpired)
    assert caught.value.stdout == "begun\n"


@pytest.mark.parametrize("check", [True, False])
def test_a_command_that_writes_more_than_it_may_is_an_error_that_keeps_the_first(check):
    with pytest.raises(CommandOutputError, match=r"wrote more than 4 bytes.*max_output") as caught:
        run("echo errors >&2; echo output", max_output=4, check=check)
    assert (caught.value.output, caught.value.stderr) == ("outp", "erro")
    assert run("printf 12; printf 34 >&2", max_output=4).stdout == "12"


@pytest.mark.parametrize("limit", [-1, True, 1.5, "1M", None])
def test_a_limit_that_means_nothing_is_refused(limit):
    with pytest.raises((TypeError, ValueError), match="max_output"):
        run("true", max_output=limit)


def test_input_environment_and_folder_reach_the_command(tmp_path):
    odd = tmp_path / "it's a folder"
    odd.mkdir()
    done = run('cat; echo "$A"; pwd', input="in\n", env={"A": "a 'b' $C\nd"}, cwd=str(odd))
    assert done.stdout == f"in\na 'b' $C\nd\n{odd}\n"
    with pytest.raises(CommandFailedError):
        run("echo not reached", cwd=str(tmp_path / "nowhere"))


def test_the_words_of_a_list_reach_a_program_as_they_are(tmp_path):
    words = [
        "a b",
        "$HOME",
        "'",
        '"',
        "\n",
        "",
        "*",
        "-n",
        "\\n",
        "\udcff",
        "ä",
        Path("/x y"),
        "#",
        "~",
    ]
    done = run(["printf", r"%s\0", *words])
    assert done.stdout_bytes == b"".join(os.fsencode(word) + b"\0" for word in words)
    assert done.args == ["printf", r"%s\0", *words]
    assert run(("printf", "x")).args == ("printf", "x")


@pytest.mark.parametrize("name", ["A=b", "if", "-n", "a b", "!", "{", "#", "-", "a=b c", "ä"])
def test_the_first_word_of_a_list_is_a_program_whatever_a_shell_makes_of_it(tmp_path, name):
    program = tmp_path / name
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o755)
    assert run([program, "x"]).stdout == "ran x\n"
    assert run([name, "x"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).stdout == "ran x\n"


@pytest.mark.parametrize("name", ["-x", "-c", "--", "--version", "-", "+x", "-e"])
def test_the_first_word_of_a_text_is_a_program_and_no_option_of_the_shell(
    tmp_path, monkeypatch, name
):
    program = tmp_path / name
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run(f"{name} x").stdout == "ran x\n"
    with pytest.raises(CommandFailedError, match=r"ended with 127 .*\n.*not found"):
        run(f"{name}-that-is-nowhere")


def test_a_failed_list_tells_its_words_between_processes_too():
    with pytest.raises(
        CommandFailedError, match=r"\['ls', PosixPath\('/no where'\)\] ended"
    ) as caught:
        run(["ls", Path("/no where")])
    assert pickle.loads(pickle.dumps(caught.value)).cmd == ["ls", Path("/no where")]


def test_what_came_out_goes_in_again():
    text = run("printf '\\377\\000ok'").stdout
    assert run("cat", input=text).stdout_bytes == b"\xff\0ok"
    assert run(f"printf %s '{text[0]}'").stdout == run(["printf", "%s", text[0]]).stdout == text[0]
    assert run('printf %s "$A"', env={"A": text[0]}).stdout == text[0]


@pytest.mark.parametrize("name", ["-", "--help", "-P", "a b", "$HOME", "\udcff", "new\nline", "~"])
def test_a_folder_of_any_name_can_be_the_working_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLDPWD", "/")
    monkeypatch.setenv("CDPATH", "/usr")
    (tmp_path / name).mkdir()
    for cwd in (name, tmp_path / name, f"{tmp_path}/{name}/"):
        assert run("pwd; :", cwd=cwd).stdout == f"{tmp_path}/{name}\n"


@pytest.mark.parametrize("name", ["A B", "", "1", "A=B", "$(id)", "Ä"])
def test_a_variable_that_the_shell_could_not_have_is_refused(name):
    with pytest.raises(ValueError, match="no name of an environment variable"):
        run(":", env={name: "x"})


def test_a_command_that_no_kernel_takes_is_refused():
    with pytest.raises(ValueError, match="put a script"):
        run("echo " + "x" * (128 << 10))
    with pytest.raises(ValueError, match=r"with its environment, .* put a script"):
        run("echo", env={"A": "x" * (128 << 10)})
    with pytest.raises(ValueError, match="put a script"):
        run(["echo", *["x"] * (64 << 10)])

"""Commands and files, with the host's own shell in the guest's place."""

import subprocess

import pytest

from pytest_vmports.errors import CommandFailedError, CommandTimeoutError, GuestFileError
from pytest_vmports.vm.inside import shell


class HostShell:
    def execute(self, command, *, timeout, input):  # noqa: A002
        try:
            done = subprocess.run(
                ["sh", "-c", command],
                input=input,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return None, error.stdout or b"", error.stderr or b""
        return done.returncode, done.stdout, done.stderr


def run(command, **keywords):
    defaults = {"timeout": 10, "check": True, "input": None, "env": None, "cwd": None}
    return shell.run(HostShell(), command, **{**defaults, **keywords})


def put(source, target):
    shell.put(HostShell(), source, str(target), 10)


def get(source, target):
    return shell.get(HostShell(), str(source), target, 10)


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


def test_input_environment_and_folder_reach_the_command(tmp_path):
    odd = tmp_path / "it's a folder"
    odd.mkdir()
    done = run('cat; echo "$A"; pwd', input="in\n", env={"A": "a 'b' $C\nd"}, cwd=str(odd))
    assert done.stdout == f"in\na 'b' $C\nd\n{odd}\n"
    with pytest.raises(CommandFailedError):
        run("echo not reached", cwd=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["A B", "", "1", "A=B", "$(id)", "Ä"])
def test_a_variable_that_the_shell_could_not_have_is_refused(name):
    with pytest.raises(ValueError, match="no name of an environment variable"):
        run(":", env={name: "x"})


def test_a_command_that_no_kernel_takes_is_refused():
    with pytest.raises(ValueError, match="put a script"):
        run("echo " + "x" * (128 << 10))


@pytest.fixture
def files(tmp_path):
    here = tmp_path / "here"
    (here / "deep").mkdir(parents=True)
    (here / "deep" / "run").write_bytes(bytes(range(256)))
    (here / "deep" / "run").chmod(0o755)
    (here / "odd 'name'").write_text("odd")
    return here


def test_a_file_gets_its_new_name_or_goes_into_a_folder(files, tmp_path):
    source = files / "deep" / "run"
    put(source, tmp_path / "new" / "name")
    put(source, f"{tmp_path}/folder/")
    put(source, tmp_path / "folder" / "deeper/")
    (tmp_path / "there").mkdir()
    put(source, tmp_path / "there")
    for place in ("new/name", "folder/run", "folder/deeper", "there/run"):
        copy = tmp_path / place
        assert copy.read_bytes() == bytes(range(256)), place
        assert copy.stat().st_mode & 0o777 == 0o755


def test_a_folder_goes_whole_and_what_is_there_stays(files, tmp_path):
    put(files, tmp_path / "copy")
    (tmp_path / "copy" / "mine").touch()
    (tmp_path / "into").mkdir()
    put(files, tmp_path / "into")
    put(files, f"{tmp_path}/into/")
    assert (tmp_path / "copy" / "deep" / "run").is_file()
    assert (tmp_path / "copy" / "mine").exists()
    assert (tmp_path / "into" / "here" / "odd 'name'").read_text() == "odd"


def test_what_is_put_replaces_what_was_there(files, tmp_path):
    (tmp_path / "name").write_text("old")
    put(files / "odd 'name'", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "odd"


def test_a_file_comes_out_into_a_folder_or_under_a_new_name(files, tmp_path):
    assert get(files / "deep" / "run", tmp_path) == tmp_path / "run"
    assert get(files / "odd 'name'", tmp_path / "new") == tmp_path / "new"
    assert (tmp_path / "run").read_bytes() == bytes(range(256))
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "new").read_text() == "odd"


def test_a_folder_comes_out_whole_with_links_followed(files, tmp_path):
    (files / "link").symlink_to("deep/run")
    got = get(files, tmp_path / "copy")
    assert sorted(str(p.relative_to(got)) for p in got.rglob("*")) == [
        "deep", "deep/run", "link", "odd 'name'",
    ]  # fmt: skip
    assert not (got / "link").is_symlink()


def test_what_is_not_there_is_named(files, tmp_path):
    with pytest.raises(GuestFileError, match=r"there is no .*nothing on the host"):
        put(tmp_path / "nothing", "/srv")
    with pytest.raises(GuestFileError, match="nothing from the guest could not be copied"):
        get(tmp_path / "nothing", tmp_path)
    with pytest.raises(GuestFileError, match="names no file"):
        get("/", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(GuestFileError, match="could not be copied"):
        put(files, tmp_path / "file" / "below")

"""Workers on other hosts: what reaches them, what comes home, and what is not believed."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import execnet
import pytest

from pytest_vmports.report import far, nodes, workers
from pytest_vmports.report.far import Receiver

# In the place of ssh: what it is told to run runs here, with little of our environment.
SSH = """\
#!/bin/sh
for last; do :; done
exec env -i PATH="$PATH" HOME="$HOME" PYTHONPATH="{path}" {own} sh -c "$last"
"""


@pytest.fixture
def elsewhere(pytester, monkeypatch):
    """Return a function that runs the suite on workers that xdist takes for far ones."""

    def run(*words, own="", specs=1):
        programs = pytester.mkdir("programs")
        path = Path(__file__).parents[2]
        (programs / "ssh").write_text(SSH.format(path=path, own=own))
        (programs / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{sys.exec_prefix}/bin:/usr/bin:/bin")
        spec = f"{specs}*ssh=there//python={sys.executable}//chdir={pytester.path}"
        return pytester.runpytest_subprocess("-d", "--tx", spec, "-s", *words)

    return run


TELLS = """
import os
import pytest
from pytest_vmports.settings import options

def test_it(exposed_ports, vmports_settings, request):
    names = ("port_wait", "cache_dir", "memory", "state_dir")
    said = [f"{name} = {getattr(vmports_settings, name)}" for name in names]
    said += [vmports_settings.sources["port_wait"], os.environ["VMPORTS_PORT_WAIT"]]
    pytest.fail("; ".join(said), pytrace=False)
"""


def test_what_the_controller_is_told_reaches_far_workers(pytester, elsewhere, monkeypatch):
    monkeypatch.setenv("VMPORTS_PORT_WAIT", "7")
    monkeypatch.setenv("VMPORTS_CACHE_DIR", "/of/the/controller")
    monkeypatch.setenv("VMPORTS_STATE_DIR", str(pytester.path / "state"))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--vmports-memory=77 -p no:hypothesispytest")
    pytester.makepyfile(TELLS)
    own = "VMPORTS_PORT_WAIT=8 VMPORTS_CACHE_DIR=/of/its/own"
    result = elsewhere(own=own)
    said = (
        f"port_wait = 7.0; cache_dir = /of/its/own; memory = 77; "
        f"state_dir = {pytester.path}/state; environment variable VMPORTS_PORT_WAIT*; 7"
    )
    result.stdout.fnmatch_lines([said])


def test_a_misspelt_variable_of_the_controller_is_told(pytester, elsewhere, monkeypatch):
    monkeypatch.setenv("VMPORTS_MEMROY", "7")
    pytester.makepyfile(TELLS)
    result = elsewhere()
    assert "did you mean VMPORTS_MEMORY?" in result.stdout.str() + result.stderr.str()


def test_two_workers_of_a_host_name_it_and_its_programs_once(pytester, elsewhere, qemu_binary):
    pytester.makepyfile("import pytest\n@pytest.mark.vmports(80)\ndef test_it(): pass")
    result = elsewhere(specs=2)
    text = result.stdout.str() + result.stderr.str()
    host = socket.gethostname()
    assert text.count(f"vmports: {host}: QEMU ") == 1


@pytest.mark.parametrize(
    ("specs", "is_far"),
    [
        (["popen"], False),
        (["popen//chdir=x"], False),
        (["ssh=host"], True),
        (["socket=host:8888"], True),
        (["popen//via=one", "ssh=host//id=one"], True),
        (["popen//via=one", "popen//id=one"], False),
    ],
    ids=str,
)
def test_a_worker_is_far_that_execnet_reaches_through_more_than_a_pipe(specs, is_far):
    first, *others = map(execnet.XSpec, specs)
    group = {one.id: SimpleNamespace(spec=one) for one in others}
    node = SimpleNamespace(
        gateway=SimpleNamespace(spec=first), nodemanager=SimpleNamespace(group=group)
    )
    assert nodes._is_far(node) == is_far


@pytest.fixture
def received(tmp_path):
    """Return a receiver, and the lines that it wrote."""
    lines = []
    receiver = Receiver(tmp_path / "home", 1000, set(), lines.append)
    return receiver, lines


def part(folder="folder", name="console.log", at=0, data=b"x", runs=False):
    return ["file", folder, name, at, data, runs]


def test_the_parts_of_a_file_become_one(received, tmp_path):
    receiver, lines = received
    for at, data in enumerate((b"a", b"b", b"c")):
        receiver(part(at=at, data=data))
    receiver(part(name="qemu.sh", runs=True))
    assert (tmp_path / "home" / "folder" / "console.log").read_bytes() == b"abc"
    assert (tmp_path / "home" / "folder" / "qemu.sh").stat().st_mode & 0o100
    assert lines == []


@pytest.mark.parametrize(
    "message",
    [
        part(folder=".."), part(folder="a/../.."), part(folder="/tmp"), part(folder=""),
        part(name="../x"), part(name=".."), part(name=".bashrc"), part(name="a\n"),
        part(name="a\0"), part(name="x" * 101), part(at=-1), part(at=7), part(data=b"x" * 1001),
        part(at=far.MOST_OF_A_FILE), part(name=7), part(data="text"), ["file"], None, 7, {},
        ["else"],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_artifact_of_ours_is_refused_and_told(received, tmp_path, message):
    receiver, lines = received
    receiver(message)
    (line,) = lines
    assert line.startswith("vmports: what came from a worker is lost: ValueError")
    written = [one for one in tmp_path.rglob("*") if one.is_file() and one.stat().st_size]
    assert written == []


def test_a_link_in_the_place_of_an_artifact_is_not_followed(received, tmp_path):
    receiver, lines = received
    (tmp_path / "home" / "folder").mkdir(parents=True)
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "home" / "folder" / "console.log").symlink_to(tmp_path / "precious")
    receiver(part())
    assert (tmp_path / "precious").read_text() == "kept" and len(lines) == 1


def test_what_is_refused_again_and_again_is_told_once(received):
    receiver, lines = received
    for _ in range(5):
        receiver(None)
    assert len(lines) == 1


def test_lines_and_programs_pass_and_each_hosts_once(received):
    receiver, lines = received
    receiver("a line")
    receiver(["programs", "vmports: one: QEMU"])
    receiver(["programs", "vmports: one: QEMU"])
    receiver(["programs", *map(str, range(99))])
    assert lines[:2] == ["a line", "vmports: one: QEMU"] and len(lines) == 10


@pytest.fixture
def sending(monkeypatch, tmp_path):
    """Return a function that sends a folder, and a receiver of what it sends."""
    monkeypatch.setattr(far, "MOST_OF_A_FILE", 100)
    monkeypatch.setattr(far, "MOST_OF_A_TEST", 250)
    monkeypatch.setattr(far, "_CHUNK", 7)
    monkeypatch.setattr(workers, "host_of", lambda _config: "there")
    lines = []
    receiver = Receiver(tmp_path / "home", 1000, set(), lines.append)
    monkeypatch.setattr(workers, "post", lambda _config, message: receiver(message) or True)
    begun = far._Begun(str(tmp_path / "home"), 1000)
    config = SimpleNamespace(stash=pytest.Stash())
    config.stash[far._begun_key] = begun

    def send(**files):
        folder = tmp_path / "there" / "folder"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name.replace("_", ".")).write_bytes(data)
        said = far.send_home(config, folder)
        home = tmp_path / "home" / "folder"
        assert lines == []
        return said, {one.name: one.read_bytes() for one in home.iterdir()}

    send.begun = begun
    return send


def test_artifacts_come_home_whole(sending, tmp_path):
    said, home = sending(console_log=b"0123456789" * 9, empty=b"")
    assert home == {"console.log": b"0123456789" * 9, "empty": b""}
    there = tmp_path / "there" / "folder"
    assert said == f"{tmp_path}/home/folder (from there, where they are in {there})"


def test_of_a_long_log_the_end_comes_and_a_large_file_stays_and_both_are_told(sending, tmp_path):
    said, home = sending(console_log=b"a" * 50 + b"b" * 100, vmcore=b"x" * 101, vm_json=b"{}")
    assert home == {"console.log": b"b" * 100, "vm.json": b"{}"}
    there = tmp_path / "there" / "folder"
    assert said.splitlines()[1:] == [
        f"the end alone came from there: {there}/console.log (150 bytes)",
        f"left on there for its size: {there}/vmcore (101 bytes)",
    ]


def test_the_files_of_a_test_are_bounded_in_all(sending):
    said, home = sending(a=b"x" * 100, b=b"x" * 100, c=b"x" * 100, d=b"x" * 50)
    assert sorted(home) == ["a", "b", "d"]
    assert "/folder/c (100 bytes)" in said


def test_those_of_a_run_are_bounded_in_all(sending):
    sending.begun.left = 60
    said, home = sending(a=b"x" * 50, b=b"x" * 50)
    assert sorted(home) == ["a"] and "/folder/b (50 bytes)" in said
    assert sending.begun.left == 10


def test_without_a_folder_at_home_they_stay_and_it_is_said_where(sending, tmp_path):
    sending.begun.home = ""
    folder = tmp_path / "x"
    assert (
        far.send_home(SimpleNamespace(stash={far._begun_key: sending.begun}), folder)
        == f"{folder} on there"
    )


def test_a_line_of_ours_names_the_host(monkeypatch):
    monkeypatch.setattr(workers, "host_of", lambda _config: "there")
    assert workers.on_host(None, "vmports: booting") == "vmports: there: booting"
    assert workers.on_host(None, "gw0 there alpine| text") == "gw0 there alpine| text"

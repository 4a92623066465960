"""What others may have put where we look: each thing that can be there, and each reader of ours."""

import contextlib
import fcntl
import json
import os
import socket
import stat
import tempfile

import pytest

from pytest_vmports.cli.main import main
from pytest_vmports.errors import PortsExhaustedError, StateDirError
from pytest_vmports.leases import PortAllocator
from pytest_vmports.pool.kept import all_kept
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.system.run_dir import RunDir, dead_folders
from pytest_vmports.system.small_file import parse_object, read_object
from pytest_vmports.system.stored import read_manifest

KEY = "0" * 24
PORT = 15941


def device(path):
    # Made where we may; a terminal's would otherwise do.
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        path.symlink_to("/dev/zero")


def listener(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_PATH)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(100 << 20)


NAMES = [
    "v",
    "pid",
    "start",
    "pidns",
    "host",
    "test",
    "worker",
    "since",
    "processes",
    "key",
    "facts",
    "files",
    "guest",
    "forwards",
    "ways",
    "built",
]
TEXTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "a number": b"7",
    "a list": b"[1]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "wrong types": json.dumps({key: [None] for key in NAMES}).encode(),
    "huge numbers": b'{"pid": 1e999, "start": 1e999, "since": NaN, "processes": [["q", 1e999, 1]]}',
    "every process": b'{"processes": [["q", -1, 0], ["q", 0, 0], ["q", 1, 1]], "test": "x"}',
    "a later version": b'{"v": 99, "format": {"version": 99}, "vms": []}',
}
GARBAGE = {
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a device": device,
    "a socket": listener,
    "100 MB": sparse,
    "not to be read": lambda path: (path.write_bytes(b"{}"), path.chmod(0)),
    **{name: lambda path, text=text: path.write_bytes(text) for name, text in TEXTS.items()},
}


@pytest.fixture(params=GARBAGE)
def garbage(request):
    return GARBAGE[request.param]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("pytest_vmports.system.run_dir._LONGEST_BASE", 1000)


def test_it_is_an_object_or_one_of_two_errors(garbage, tmp_path):
    garbage(tmp_path / "file")
    read = None
    with contextlib.suppress(OSError, ValueError):
        read = read_object(tmp_path / "file")
    assert read is None or isinstance(read, dict)


@pytest.mark.parametrize("locked", [False, True], ids=["nobody's", "held"])
def test_leases_are_listed_and_had_beside_it(garbage, tmp_path, locked):
    with PortAllocator(tmp_path / "state", (PORT, PORT + 1)) as allocator:
        odd = allocator.directory / f"tcp-{PORT}"
        garbage(odd)
        garbage(allocator.directory / "stray")
        garbage(allocator.directory / "tcp-stray-file")
        regular = odd.is_file() and not odd.is_symlink()
        if regular and locked:
            fd = os.open(odd, os.O_RDWR)
            fcntl.flock(fd, fcntl.LOCK_EX)
        # Where nothing is written, a lease has just ended or just begun.
        told = regular and locked and odd.read_bytes().strip(b"\0") != b""
        assert len(allocator.leases()) == told
        if odd.is_symlink():
            with pytest.raises(StateDirError, match="link"):
                allocator.acquire(2)
        elif regular and not locked:
            assert len(allocator.acquire(2)) == len(allocator.leases()) == 2
        else:
            assert allocator.acquire()[0].port == PORT + 1
            with pytest.raises((PortsExhaustedError, StateDirError)):
                allocator.acquire()


def test_a_fixed_port_says_what_is_in_the_place_of_its_file(tmp_path):
    with PortAllocator(tmp_path / "state", (PORT, PORT + 1)) as allocator:
        os.mkfifo(allocator.directory / f"tcp-{PORT}")
        with pytest.raises(StateDirError, match="no file has a lease file's name: remove it"):
            allocator.acquire_fixed(PORT)


def test_kept_vms_are_listed_beside_it(garbage, tmp_path, capsys):
    base = tmp_path / f"pytest-vmports-{os.getuid()}-kept"
    (base / "kodd").mkdir(parents=True, mode=0o700)
    base.chmod(0o700)
    garbage(base / "stray")
    garbage(base / "kodd" / "kept.json")
    assert all_kept() == []
    assert (base / "kodd").exists(), "it may be a VM of a later version"
    assert main(["kept"]) == 0
    said = capsys.readouterr()
    assert said.out == "no VM is kept\n"
    dangling = not (base / "kodd" / "kept.json").exists()
    assert dangling or "left alone, it is no kept VM" in said.err


def test_a_run_has_its_folder_beside_it(garbage, tmp_path):
    base = tmp_path / "runs"
    base.mkdir(mode=0o700)
    garbage(base / "stray")
    with RunDir(base) as made:
        assert made.path.is_dir()
        assert dead_folders(base) == []


def test_templates_are_listed_beside_it(garbage, tmp_path, capsys):
    for name in (KEY, "1" * 24):
        (tmp_path / "cache" / name).mkdir(parents=True, mode=0o700)
    garbage(tmp_path / "cache" / KEY / "manifest.json")
    garbage(tmp_path / "cache" / "stray")
    assert isinstance(read_manifest(tmp_path / "cache" / KEY), dict)
    assert TemplateStore(tmp_path / "cache", limit=0).entries() == []
    assert main(["cache", "list", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "no templates" in capsys.readouterr().out


def test_a_template_is_built_where_it_is(garbage, tmp_path):
    store = TemplateStore(tmp_path / "cache", limit=1 << 30)

    def build(folder):
        for name in ("ram", "state", "console"):
            (folder / name).write_bytes(b"x")

    key = store.get({"a": 1}, build, 1).folder.name
    store.close()
    (tmp_path / "cache" / key / "state").unlink()
    garbage(tmp_path / "cache" / key / "state")
    store = TemplateStore(tmp_path / "cache", limit=1 << 30)
    assert (store.get({"a": 1}, build, 1).folder / "state").read_bytes() == b"x"
    store.close()


@pytest.mark.parametrize("told", [7, None, {}, [], "x", [7]])
def test_a_list_of_templates_shows_facts_of_any_type(tmp_path, capsys, told):
    folder = tmp_path / KEY
    folder.mkdir(mode=0o700)
    facts = dict.fromkeys(("qemu", "name", "wiring", "memory"), told)
    (folder / "manifest.json").write_text(json.dumps({"key": KEY, "facts": facts}))
    assert main(["cache", "list", "--cache-dir", str(tmp_path)]) == 0
    assert KEY in capsys.readouterr().out


def test_what_is_nested_too_deep_is_no_object():
    with pytest.raises(ValueError, match="deep"):
        parse_object(TEXTS["deep"])

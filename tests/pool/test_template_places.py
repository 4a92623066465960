"""Whatever state the cache folder is in, each test works; a line says so where one is needed.

The inner runs are real but for the machines, and as a user without a name: a namespace maps us to a
number that no list of users has, and takes root's privileges away.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_vmports.errors import StateDirError
from pytest_vmports.pool.template_places import TemplatePlaces

NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
TWO_WORKERS = ["-p", "xdist", "-n2"]
FAKES = """
import pytest
from pytest_vmports.pool import launch, templates
from pytest_vmports.vm import failures
from pytest_vmports.vm.machine import Machine, State

def note(line):
    with open("notes", "a") as file:
        file.write(line + "\\n")

def start(self, lease_fds=()):
    note(f"starts {self.origin}")
    self.state = State.STARTED

def stop(self, **_):
    self.state = State.STOPPED

def saved(booted, folder):
    for name in ("ram", "state"):
        (folder / name).write_text(name)

# Faked: machines, which get ready at once and leave nothing.
Machine.start, Machine.stop, Machine.finish = start, stop, stop
Machine.wait_ready = lambda self: None
Machine.vitals = None
failures.warn_of_reboot = failures.warn_of_words = lambda vitals: None
templates._rest_and_save = saved
"""
SUITE = """
import pytest

@pytest.mark.vmports(8080)
def test_ports(exposed_ports):
    assert exposed_ports[8080].external

@pytest.mark.vmports(8080, setup="x", template="no")
def test_cold(vm_with_ports):
    assert vm_with_ports.origin == "booted"

@pytest.mark.vmports(8080, setup="x")
@pytest.mark.parametrize("number", range(2))
def test_cloned(vm_with_ports, number):
    assert vm_with_ports.origin == "cloned"

@pytest.mark.vmports(8080, setup="x")
def test_factory(vm_factory):
    with vm_factory([8080], setup="x") as vm:
        assert vm.origin == "cloned"
"""


class Inner:
    """Runs the suite as a user without a name."""

    def __init__(self, pytester):
        self.path = pytester.path
        self.cache = self.path / ".cached"  # which pytest does not look into
        pytester.makeconftest(FAKES)
        pytester.makepyfile(SUITE)
        (self.path / "tmp").mkdir(mode=0o700)

    def run(self, *words, passed=5, **environment):
        """Run it; return what was said of templates, and how often a guest was booted to be saved.

        Two boots more are the test's that wants them.
        """
        # Of this process's, what finds programs and the plugin is needed.
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        # Others of this environment's plugins take longer to load than all of this to run.
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        env = {**kept, **alone, "TMPDIR": str(self.path / "tmp"), **environment}
        command = [*NAMELESS, sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        command += ["-p", "pytest_vmports.plugin", "--basetemp=base", "--vmports-prewarm=0", *words]
        self.done = done = subprocess.run(
            command, cwd=self.path, env=env, capture_output=True, text=True, check=False
        )
        assert f"{passed} passed" in done.stdout, done.stdout + done.stderr
        said = re.findall("^vmports: saved guests are kept .*", done.stderr, re.MULTILINE)
        notes = (self.path / "notes").read_text().splitlines()
        (self.path / "notes").unlink()
        return said, notes.count("starts booted") - 1


@pytest.fixture
def inner(pytester, qemu_binary, missing):
    there = shutil.which("unshare")
    if there is None or subprocess.run([*NAMELESS, "true"], check=False).returncode:
        missing("a user namespace (unshare --user)", "allow user namespaces")
    made = Inner(pytester)
    yield made
    for folder, _, _ in os.walk(made.path):  # pytest has to remove what we made read-only
        Path(folder).chmod(0o700)


def read_only_folder(folder):
    folder.mkdir(mode=0o500)
    return folder


@pytest.mark.parametrize("state", ["no home", "the kernel's for a home", "read-only"])
def test_a_cache_of_no_use_costs_one_line_and_no_test(inner, state):
    environment = {
        "no home": dict,
        "the kernel's for a home": lambda: {"HOME": "/proc"},
        "read-only": lambda: {"VMPORTS_CACHE_DIR": str(read_only_folder(inner.cache))},
    }[state]()
    said, built = inner.run(**environment)
    assert len(said) == 1, inner.done.stdout + inner.done.stderr
    assert "saved guests are kept for this run only: cannot keep files in " in said[0]
    assert built == 1


# In each state a template is wanted twice; told are the lines, and where it was built.
STATES = """
import json, os, sys
from pathlib import Path
from pytest_vmports.pool.template_places import TemplatePlaces

def build(folder):
    for name in ("ram", "state", "console"):
        (folder / name).write_text(name)
    built.append(str(folder.parent))

for state, home, cache in json.load(sys.stdin):
    os.environ.pop("HOME", None)
    if home is not None:
        os.environ["HOME"] = home
    shared, built, told = Path("shared") / state, [], []
    shared.mkdir(parents=True)
    places = TemplatePlaces(cache and Path(cache), shared, 1 << 30, told.append)
    found = [places.find({"name": name}, build, 1) for name in ("a", "b", "a")]
    print(json.dumps([state, None not in found, [Path(one).name for one in built], told]))
"""


def test_a_folder_in_any_state_is_used_or_told_of_in_one_line(inner):
    path = inner.path
    (path / "file").touch()
    (path / "dangling").symlink_to("nothing")
    (path / "loop").symlink_to("loop")
    (path / "open").mkdir()
    (path / "open").chmod(0o777)
    (path / "unreadable").mkdir(mode=0)
    read_only_folder(path / "still")
    (path / "good").mkdir(mode=0o700)
    (path / "link").symlink_to("good")
    homes = {
        "unset": None, "kernel": "/proc", "empty": "", "relative": "here", "missing": "/proc/a/b",
        "file": str(path / "file"), "read-only": str(path / "still"),
    }  # fmt: skip
    caches = {
        "file": "file", "below a file": "file/cache", "dangling": "dangling", "loop": "loop",
        "open": "open", "unreadable": "unreadable", "below unreadable": "unreadable/cache",
        "read-only": "still", "below read-only": "still/cache", "device": "/dev/null",
        "kernel": "/proc/1", "long": "long" * 80, "good": "good", "made": "new/cache",
        "linked": "link",
    }  # fmt: skip
    states = [(f"home {name}", home, None) for name, home in homes.items()]
    states += [(f"cache {n}", None, str(path / cache)) for n, cache in caches.items()]
    done = subprocess.run(
        [*NAMELESS, sys.executable, "-c", STATES], input=json.dumps(states), cwd=path,
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one[0] for one in results] == [one[0] for one in states], done.stderr
    for state, found, built, told in results:
        assert found, state
        if state in {"cache good", "cache made", "cache linked"}:
            # The last finds what the first has built.
            assert told == [] and len(built) == 2 * (state != "cache linked"), state
            continue
        assert built == ["templates"] * 2, (state, told)
        (line,) = told
        assert re.fullmatch(
            r"vmports: saved guests are kept for this run only: cannot keep files in .*: .*; "
            r"(set|run:|remove) .*", line
        ), line  # fmt: skip
    assert not (path / "~").exists() and not (path / "here").exists()


def test_workers_share_what_the_cache_does_not_take(inner):
    said, built = inner.run(*TWO_WORKERS, HOME="/proc")
    assert (len(said), built) == (1, 1)
    assert not any((inner.path / "tmp").glob("*shared/*"))


def test_a_good_cache_is_used_without_a_word(inner):
    for built in (1, 0):
        assert inner.run(HOME=str(inner.path)) == ([], built)


def read_only(folder, mode):
    for path, _, files in os.walk(folder, topdown=False):
        for name in files if mode else ():
            (Path(path) / name).chmod(mode)
        Path(path).chmod(0o500)


@pytest.mark.parametrize("mode", [0o400, None], ids=["files too", "folders only"])
def test_a_good_template_in_a_read_only_cache_is_used(inner, mode):
    cache = {"VMPORTS_CACHE_DIR": str(inner.cache)}
    inner.run(**cache)
    read_only(inner.cache, mode)
    assert inner.run(**cache) == ([], 0)
    assert inner.run(*TWO_WORKERS, **cache) == ([], 0)


def test_one_that_is_damaged_there_is_built_elsewhere(inner):
    cache = {"VMPORTS_CACHE_DIR": str(inner.cache)}
    inner.run(**cache)
    (state,) = inner.cache.glob("*/state")
    state.write_text("damaged")
    read_only(inner.cache, 0o400)
    said, built = inner.run(**cache)
    assert (len(said), built) == (1, 1)


class Places:
    """Places in two folders, whose builders need room that is not there where ``full`` says so."""

    def __init__(self, folder):
        self.folder, self.full, self.told, self.built = folder, set(), [], []
        (folder / "shared").mkdir(exist_ok=True)
        self.places = self.new()

    def new(self):
        cache, shared = self.folder / "cache", self.folder / "shared"
        return TemplatePlaces(cache, shared, 1 << 30, self.told.append)

    def find(self, name="guest", places=None):
        return (places or self.places).find({"name": name}, self._build, 1)

    def _build(self, folder):
        where = folder.parent.parent.name == "shared"
        self.built.append("shared" if where else "cache")
        if self.built[-1] in self.full:
            raise StateDirError(path=str(folder.parent), reason="full", remedy="free some space")
        for name in ("ram", "state", "console"):
            (folder / name).write_text(name)


@pytest.fixture
def two(tmp_path):
    made = Places(tmp_path)
    with contextlib.closing(made.places):
        yield made


def test_a_full_cache_is_tried_once_in_a_run(two):
    two.full = {"cache"}
    assert [two.find(name) is None for name in ("a", "b", "a")] == [False] * 3
    assert two.built == ["cache", "shared", "shared"]
    with contextlib.closing(two.new()) as worker:
        assert two.find("c", worker) is not None
    assert two.built[3:] == ["shared"]
    (line,) = two.told
    assert "for this run only" in line


def test_where_nothing_can_be_kept_vms_boot_from_cold_and_that_is_said_once(two):
    two.full = {"cache", "shared"}
    assert [two.find(name) for name in ("a", "b", "a")] == [None] * 3
    with contextlib.closing(two.new()) as worker:
        assert two.find("c", worker) is None
    assert two.built == ["cache", "shared"]
    assert "for this run only" in two.told[0] and "boots from cold" in two.told[1]
    assert len(two.told) == 2


def test_what_a_full_cache_has_is_used(two):
    two.find("a")
    two.full = {"cache"}
    two.find("b")
    with contextlib.closing(two.new()) as worker:
        found = two.find("a", worker)
    assert found.folder.parent == two.folder / "cache"


def test_an_error_of_the_builder_is_nothing_of_the_cache(two):
    def build(_folder):
        raise StateDirError(path="/elsewhere", reason="full", remedy="free some space")

    with pytest.raises(StateDirError, match="/elsewhere"):
        two.places.find({"name": "a"}, build, 1)
    assert two.find("a").folder.parent == two.folder / "cache"


def test_a_template_that_did_not_work_is_not_used_again_from_anywhere(two):
    found = two.find("a")
    two.places.discard(found)
    assert two.find("a").folder.parent == two.folder / "cache"
    assert two.built == ["cache", "cache"]


def test_a_copy_is_the_same_and_has_the_same_holes(two, tmp_path):
    def build(folder):
        two._build(folder)
        with (folder / "ram").open("r+b") as ram:
            ram.truncate(64 << 20)
            ram.seek(40 << 20)
            ram.write(os.urandom(3 << 20))

    found = two.places.find({"name": "large"}, build, 1)
    (tmp_path / "copy").mkdir()
    found.copy_to(tmp_path / "copy")
    for name in ("ram", "state", "console"):
        assert (tmp_path / "copy" / name).read_bytes() == (found.folder / name).read_bytes()
    assert (tmp_path / "copy" / "ram").stat().st_blocks * 512 < 8 << 20


def test_doctor_calls_a_missing_home_a_limit_and_lives(inner):
    """A VM can be started all the same."""
    done = subprocess.run(
        [*NAMELESS, sys.executable, "-m", "pytest_vmports.cli.main", "doctor", "--json"],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(inner.path / "tmp")}, cwd=inner.path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = json.loads(done.stdout)
    (cache,) = [one for one in told["findings"] if one["name"] == "cache"]
    assert cache["state"] == 1 and "no home directory is known" in cache["text"]
    assert told["state"] == 1, done.stdout

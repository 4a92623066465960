"""The store of templates, without VMs: building once, believing nothing, staying within bounds."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import pickle
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from vm_helpers import fixed_port

from pytest_vmports import ExposedPort, Guest
from pytest_vmports.errors import MonitorError, StateDirError, TemplateBusyError
from pytest_vmports.pool.blame import state_may_be
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.pool.planning import plan_of
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import options
from pytest_vmports.system import stored
from pytest_vmports.system.programs import Accelerator
from pytest_vmports.vm import plan as plan_module

FACTS = {"name": "guest", "memory": 256}
SIZE = 64 << 10
GENEROUS = 1 << 30


class Builder:
    """Builds templates of ``SIZE`` bytes and counts them."""

    def __init__(self):
        self.built = 0

    def __call__(self, folder):
        self.built += 1
        (folder / "ram").write_bytes(os.urandom(SIZE))
        (folder / "state").write_bytes(b"state %d" % self.built)
        (folder / "console").write_text("said while booting\n")


@pytest.fixture
def build():
    return Builder()


@pytest.fixture
def new_store(tmp_path):
    """Return a function that opens the store as another process would; all are closed after."""
    with contextlib.ExitStack() as stack:

        def new(limit=GENEROUS, base=tmp_path / "cache", say=lambda _: None):
            return stack.enter_context(contextlib.closing(TemplateStore(base, limit, say)))

        yield new


OTHER_PROCESS = """
import json, os, sys
from pathlib import Path
from pytest_vmports.pool.template_store import TemplateStore

base, facts = sys.argv[1:]

def build(folder):
    (folder / "ram").write_bytes(b"half a memory")
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "state").write_bytes(b"state by %d" % os.getpid())
    (folder / "console").write_text("")

store = TemplateStore(Path(base), 1 << 30, lambda line: print(line, flush=True))
template = store.get(json.loads(facts), build, 60)
print("uses", template.open_state().read().decode(), flush=True)
sys.stdin.readline()
"""


class Other:
    """Another process that wants a template; it stops where it says something."""

    def __init__(self, base, facts=FACTS):
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, str(base), json.dumps(facts)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def pid(self):
        return self.process.pid

    def says(self):
        return self.process.stdout.readline().strip()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def other(tmp_path):
    """Return a function that starts another process; all have ended after the test."""
    with contextlib.ExitStack() as stack:

        def start(facts=FACTS):
            return stack.enter_context(contextlib.closing(Other(tmp_path / "cache", facts)))

        yield start


def names(store):
    return sorted(path.name for path in store.base.iterdir() if path.is_dir())


class TestBuilding:
    def test_it_is_built_once_and_used_again_by_all_who_come_later(self, new_store, build):
        first = new_store().get(FACTS, build, 1)
        store = new_store()
        assert store.get(FACTS, build, 1).folder == first.folder
        assert store.get(FACTS, build, 1).folder == first.folder
        assert build.built == 1
        assert first.console == "said while booting\n"

    def test_other_facts_have_another_template(self, new_store, build):
        store = new_store()
        folders = {store.get({**FACTS, "memory": m}, build, 1).folder for m in (1, 2, 3)}
        assert len(folders) == build.built == 3

    def test_of_several_processes_one_builds_and_the_others_are_told_that_they_wait(self, other):
        builder = other()
        assert builder.says() == "building"
        waiting = [other() for _ in range(4)]
        said = "vmports: waiting for another process that builds the template of guest"
        told = [one.says().partition(",")[0] for one in waiting]
        assert all(one.startswith(said) and "test_template.py::" in one for one in told), told
        builder.go_on()
        answers = [one.says() for one in (builder, *waiting)]
        assert answers == [f"uses state by {builder.pid}"] * 5

    def test_a_killed_builder_is_taken_over_and_nothing_of_it_is_left(self, other, new_store):
        builder = other()
        assert builder.says() == "building"
        heir = other()
        assert heir.says().startswith("vmports: waiting for")
        builder.kill()
        assert heir.says() == "building"
        store = new_store()
        assert [name.partition(".")[2] for name in names(store)] == [f"building-{heir.pid}"]
        heir.go_on()
        assert heir.says() == f"uses state by {heir.pid}"
        assert names(store) == [store.entries()[0][0]["key"]]

    def test_what_a_killed_builder_left_goes_even_if_nobody_asks_for_it_again(
        self, other, new_store, build
    ):
        killed, lives = other(), other({"name": "slow"})
        assert [killed.says(), lives.says()] == ["building"] * 2
        killed.kill()
        store = new_store()
        used = store.get({"name": "another guest"}, build, 1)
        left = set(names(store)) - {used.folder.name}
        assert [name.partition(".")[2] for name in left] == [f"building-{lives.pid}"]

    def test_a_builder_that_takes_too_long_is_an_error_that_says_what_to_do(
        self, other, new_store, build
    ):
        assert other().says() == "building"
        with pytest.raises(TemplateBusyError, match=r"0\.01 s .* of guest .*template = no") as info:
            new_store().get(FACTS, build, 0.01)
        assert pickle.loads(pickle.dumps(info.value)).name == "guest"
        assert build.built == 0

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_build_that_fails_leaves_nothing_and_its_error_is_the_callers(
        self, new_store, build, error
    ):
        def fails(folder):
            build(folder)
            raise error

        store = new_store()
        with pytest.raises(error):
            store.get(FACTS, fails, 1)
        assert names(store) == []
        store.get(FACTS, build, 1)
        assert build.built == 2


def truncated(folder):
    os.truncate(folder / "ram", SIZE // 2)


def written_within_its_size_and_time(folder):
    ram = folder / "ram"
    before = ram.stat()
    while ram.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock ticks coarsely
        with ram.open("r+b") as file:
            file.write(b"\0")
        os.utime(ram, ns=(before.st_atime_ns, before.st_mtime_ns))


def state_written(folder):
    (folder / "state").write_bytes(b"state 2")


def copied(folder):
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


def described_by_a_foreign_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "key": "0" * 24}))


def described_by_half_a_manifest(folder):
    os.truncate(folder / "manifest.json", 20)


def described_by_no_manifest_at_all(folder):
    (folder / "manifest.json").write_text("[]")


def described_in_another_shape(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "files": list(manifest["files"])})
    )


def without(name):
    def missing(folder):
        (folder / name).unlink()

    missing.__name__ = f"without_{name}"
    return missing


DAMAGES = [
    truncated, written_within_its_size_and_time, state_written, copied,
    described_by_a_foreign_manifest, described_by_half_a_manifest, described_by_no_manifest_at_all,
    described_in_another_shape,
    *map(without, ["ram", "state", "console", "manifest.json"]),
]  # fmt: skip


class TestBelieving:
    @pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
    def test_a_damaged_template_is_built_anew_and_never_used(self, new_store, build, damage):
        store = new_store()
        folder = store.get(FACTS, build, 1).folder
        store.close()
        damage(folder)
        again = new_store().get(FACTS, build, 1)
        assert build.built == 2
        with again.open_state() as state:
            assert state.read() == b"state 2"
        assert again.ram.stat().st_size == SIZE
        new_store().get(FACTS, build, 1)
        assert build.built == 2

    def test_a_byte_of_the_state_that_changed_is_noticed_where_its_file_looks_the_same(
        self, new_store, build, monkeypatch
    ):
        monkeypatch.setattr(stored, "fingerprint", lambda path: [path.stat().st_size])
        folder = new_store().get(FACTS, build, 1).folder
        (folder / "ram").write_bytes(bytes(SIZE))  # which is not read: that would take too long
        new_store().get(FACTS, build, 1)
        assert build.built == 1
        (folder / "state").write_bytes(b"stATe 1")
        new_store().get(FACTS, build, 1)
        assert build.built == 2

    def test_another_users_template_is_built_anew(self, new_store, build, monkeypatch):
        new_store().get(FACTS, build, 1)
        store = new_store()
        owner = os.getuid()
        answers = itertools.chain([owner + 1] * 2, itertools.repeat(owner))
        monkeypatch.setattr(os, "getuid", lambda: next(answers))
        store.get(FACTS, build, 1)
        assert build.built == 2

    def test_one_that_was_given_up_is_not_used_again_by_anybody(self, new_store, build):
        one, two = new_store(), new_store()
        template = one.get(FACTS, build, 1)
        two.get(FACTS, build, 1)
        one.discard(template)
        two.get(FACTS, build, 1)
        one.get(FACTS, build, 1)
        assert build.built == 2

    def test_giving_up_the_old_one_leaves_the_new_one_alone(self, new_store, build):
        one, two = new_store(), new_store()
        old = two.get(FACTS, build, 1)
        one.discard(one.get(FACTS, build, 1))
        one.get(FACTS, build, 1)
        two.discard(old)
        new_store().get(FACTS, build, 1)
        assert build.built == 2

    def test_one_that_was_replaced_while_it_was_looked_at_is_not_believed(self, new_store, build):
        one, two = new_store(), new_store()
        old = two.get(FACTS, build, 1)
        assert old.sound(old.folder.name)
        one.discard(one.get(FACTS, build, 1))
        one.get(FACTS, build, 1)  # sound, and by the same name
        assert not old.sound(old.folder.name)

    @pytest.mark.parametrize("replaced", [False, True])
    def test_memory_and_state_of_two_builds_are_never_mixed(self, new_store, build, replaced):
        one, two = new_store(), new_store()
        old = two.get(FACTS, build, 1)
        one.discard(one.get(FACTS, build, 1))
        if replaced:
            one.get(FACTS, build, 1)
        else:
            shutil.rmtree(one.base)
        with pytest.raises(MonitorError, match="the template's state cannot be read"):
            old.open_state()

    @pytest.mark.parametrize("name", ["ram", "state", "console"])
    @pytest.mark.parametrize("how", ["written", "mapped", "hidden", "replaced"])
    def test_one_that_was_written_to_is_not_cloned_from(self, new_store, build, name, how):
        store = new_store()
        template = store.get(FACTS, build, 1)
        template.open_state().close()
        file = template.folder / name
        facts = file.stat()
        if how == "mapped":
            with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
                memory[0] = 255 - memory[0]
        elif how == "replaced":
            (template.folder / "new").write_bytes(bytes(facts.st_size))
            (template.folder / "new").replace(file)
        else:
            file.write_bytes(bytes(facts.st_size))
        if how == "hidden":  # as a guest would that has taken over its QEMU
            os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            file.chmod(0o400)
        with pytest.raises(MonitorError, match=f"the template's {name} was written to") as caught:
            template.open_state()
        assert state_may_be(caught.value)  # so it is thrown away, and its user told
        store.discard(template)
        store.get(FACTS, build, 1).open_state().close()
        assert build.built == 2

    def test_a_cache_removed_during_a_run_is_made_again(self, new_store, build):
        store = new_store()
        store.get(FACTS, build, 1)
        shutil.rmtree(store.base)
        assert store.get(FACTS, build, 1).ram.exists()
        assert build.built == 2


def facts(number):
    return {"name": f"guest {number}"}


class TestBounds:
    @pytest.fixture
    def three(self, new_store, build):
        """Return three unused templates' folders, the longest unused first."""
        store = new_store()
        folders = [store.get(facts(n), build, 1).folder for n in range(3)]
        store.close()
        for age, folder in enumerate(folders):
            os.utime(folder / "manifest.json", (1000 + age, 1000 + age))
        return folders

    def test_the_least_recently_used_goes_first(self, new_store, build, three):
        store = new_store()
        store.get(facts(0), build, 1)  # the oldest no more
        store.close()
        room = sum(size for _, size, _ in store.entries())
        new_store(limit=room).get(facts(3), build, 1)
        assert [folder.exists() for folder in three] == [True, False, True]

    def test_one_in_use_never_goes_not_even_when_there_is_no_room(self, new_store, build, three):
        new_store().get(facts(1), build, 1)
        newest = new_store(limit=1).get(facts(3), build, 1)
        assert [folder.exists() for folder in three] == [False, True, False]
        assert newest.ram.exists()

    def test_the_one_that_room_is_made_for_is_kept_though_nobody_uses_it_yet(
        self, new_store, three
    ):
        new_store(limit=1)._evict(keep=three[0].name)
        assert [folder.exists() for folder in three] == [True, False, False]

    def test_one_in_use_by_another_process_never_goes(self, other, new_store, build):
        user = other()
        user.says()
        user.go_on()
        assert user.says().startswith("uses")
        store = new_store(limit=1)
        store.get(facts(1), build, 1)
        assert store.clear() == 0
        assert len(store.entries()) == 2
        user.kill()
        assert store.clear() == 1
        assert [entry["facts"] for entry, _, _ in store.entries()] == [facts(1)]

    def test_clearing_removes_what_nobody_uses(self, new_store, build, three):
        store = new_store()
        store.get(facts(1), build, 1)
        assert store.clear() == 2
        assert names(store) == [three[1].name]

    @pytest.mark.parametrize("limit", [1, GENEROUS])
    def test_what_is_not_a_template_is_never_touched(self, new_store, build, three, limit):
        base = three[0].parent
        foreign = [base / "precious", base / "0123.building-1", base / ("0" * 25)]
        for folder in foreign:
            folder.mkdir()
            (folder / "ram").write_bytes(bytes(SIZE))
        store = new_store(limit=limit)
        store.get(facts(3), build, 1)
        store.clear()
        assert all((folder / "ram").exists() for folder in foreign)
        assert len(store.entries()) == 1

    def test_entries_come_latest_used_first_with_their_facts_and_size(
        self, new_store, build, three
    ):
        entries = new_store().entries()
        assert [entry["key"] for entry, _, _ in entries] == [f.name for f in reversed(three)]
        assert [entry["facts"] for entry, _, _ in entries] == [facts(n) for n in (2, 1, 0)]
        assert all(SIZE <= size < 2 * SIZE for _, size, _ in entries)
        assert [used for _, _, used in entries] == [1002, 1001, 1000]


def test_all_is_on_the_disk_before_a_manifest_vouches_for_it(new_store, build, monkeypatch):
    synced, sync = {}, os.fsync

    def noted(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced[path.name] = (path.parent / "manifest.json").exists()
        sync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    folder = new_store().get(FACTS, build, 1).folder
    files = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert files >= {"ram", "state", "console"}
    assert synced == dict.fromkeys(files, False)


class TestFolder:
    def test_it_is_its_users_alone(self, new_store, build):
        store = new_store()
        folder = store.get(FACTS, build, 1).folder
        assert {stat.S_IMODE(path.stat().st_mode) for path in (store.base, folder)} == {0o700}

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_one_that_others_may_write_to_is_refused(self, new_store, tmp_path, mode):
        base = tmp_path / "shared"
        base.mkdir()
        base.chmod(mode)
        with pytest.raises(StateDirError, match=r"others may write to it.* 700 .*set cache_dir"):
            new_store(base=base)

    def test_another_users_is_refused(self, new_store, monkeypatch):
        owner = new_store().base.stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(StateDirError, match=rf"belongs to user {owner} .*set cache_dir"):
            new_store()

    def test_one_that_cannot_be_made_is_an_error_that_names_the_setting(self, new_store, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StateDirError, match=r"Not a directory.*set cache_dir"):
            new_store(base=tmp_path / "file" / "cache")


class TestKey:
    """What is in the key: plans are made, nothing is leased and no machine is described."""

    @pytest.fixture
    def of(self, request, qemu_binary, tmp_path):
        """Return a function that makes a plan; every setting is as a user would write it."""
        for name in ("kernel", "initrd"):
            (tmp_path / name).write_text(name)
        program = tmp_path / "qemu-system-x86_64"
        program.write_text(f'#!/bin/sh\nexec {qemu_binary} "$@"\n')
        program.chmod(0o755)
        (tmp_path / "page").write_text("a page")

        def plan(guest=None, **changes):
            keywords = {
                "expose": "8080", "kernel": str(tmp_path / "kernel"),
                "initrd": str(tmp_path / "initrd"), "qemu": str(program), "accel": "tcg",
                "setup": "true", "files": {str(tmp_path / "page"): "/page"}, **changes,
            }  # fmt: skip
            settings = options.resolve(request.config, keywords, "the test")
            return plan_of(settings, chosen_guest(settings, guest, tmp_path), tmp_path)

        return plan

    @pytest.mark.parametrize(
        "changes",
        [
            {"memory": "128"}, {"cpus": "2"}, {"append": "quiet"}, {"setup": "true "},
            {"setup": None}, {"files": None}, {"wait_for": "none"}, {"expose": "9090"},
            {"expose": "8080 9090"}, {"expose": "", "wait_for": "none"}, {"display": "yes"},
            {"allow_network": "yes", "backend": "usernet"}, {"host_ports": "8000:45123"},
            {"network": "lab"},
        ],
        ids=str,
    )  # fmt: skip
    def test_every_setting_that_shapes_a_guest_is_in_it(self, of, changes):
        assert of(**changes).key != of().key

    def test_gvproxy_is_in_it(self, of, gvproxy_089):
        network = {"allow_network": "yes", "gvproxy": str(gvproxy_089)}
        assert of(**network).key != of(**network, backend="usernet").key

    def test_the_accelerator_is_in_it(self, of):
        """Faked: an accelerator, which this host need not have."""
        plan = of()
        other = replace(plan.hardware, accelerator=Accelerator("kvm", "a test"))
        assert replace(plan, hardware=other).key != plan.key

    def test_whatever_is_new_on_qemus_command_line_is_in_it(self, of, monkeypatch):
        """As for a setting that somebody adds, and carries to the argv alone."""
        before, build = of().key, plan_module.build_command

        def with_balloon(*arguments, **keywords):
            return [*build(*arguments, **keywords), "-device", "virtio-balloon-pci"]

        monkeypatch.setattr(plan_module, "build_command", with_balloon)
        assert of().key != before

    @pytest.mark.parametrize("name", ["kernel", "initrd", "page", "qemu-system-x86_64"])
    def test_every_files_content_is_in_it(self, of, tmp_path, name):
        before = of().key
        assert of().key == before
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert of().key != before

    @pytest.mark.parametrize(
        "changes",
        [
            {"boot_timeout": "1"}, {"port_wait": "1"}, {"prewarm": "0"}, {"pcap": "yes"},
            {"expose": "8080 5353/udp"}, {"bind_host": "127.0.0.2"}, {"allow_crash": "yes"},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_does_not_shape_a_guest_is_not_in_it(self, of, changes):
        assert of(**changes).key == of().key

    def test_a_chosen_host_port_is_not_in_it(self, of):
        assert of(expose=f"{fixed_port()}:8080").key == of().key

    def test_which_services_of_the_host_is_not_in_it(self, of):
        assert of(host_ports="8000:45123").key == of(host_ports="8000:1 9000:2").key

    def test_a_guests_own_memory_and_processors_are_in_it(self, of, tmp_path):
        def own(**changes):
            guest = Guest.kernel(tmp_path / "kernel", **{"memory": 99, "cpus": 3, **changes})
            return of(guest, kernel=None, initrd=None).key

        assert len({own(), own(memory=98), own(cpus=2), own(memory=None), own(cpus=None)}) == 5

    def test_where_the_kernel_lies_is_not_in_it(self, of, tmp_path):
        moved = Path(shutil.copytree(tmp_path, tmp_path / "moved"))
        there = of(kernel=str(moved / "kernel"), initrd=str(moved / "initrd"))
        assert there.key == of().key

    def test_the_host_ports_that_were_leased_are_in_neither_key(self, of):
        plan = of()
        here, there = (
            plan.with_forwards([ExposedPort(internal=8080, external=port)])
            for port in (20001, 20002)
        )
        assert here.key == there.key == plan.key
        assert here.standby_key == there.standby_key

    @pytest.mark.parametrize(
        "changes",
        [{"pcap": "yes"}, {"host_ports": "8000:1"}, {"host_ports": "8000:2"}, {"memory": "128"}],
        ids=str,
    )
    def test_a_vm_that_waits_is_for_a_test_that_wants_just_that(self, of, changes):
        assert of(**changes).standby_key != of().standby_key

    def test_a_vm_that_waits_is_for_its_guest_ports_its_address_and_its_services(self, of):
        def key(internal, host="127.0.0.1", protocol="tcp", **changes):
            port = ExposedPort(internal=internal, external=20001, host=host, protocol=protocol)
            return of(**changes).with_forwards([port]).standby_key

        doors = {key(80, host_ports=f"8000:{port}") for port in (1, 2)}
        others = {key(80), key(81), key(80, host="127.0.0.2"), key(80, protocol="udp")}
        assert len(doors | others) == 6

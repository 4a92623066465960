"""Templates and their clones with real VMs: every test's VM is as if it had just been booted."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vm_helpers import alive, ask_udp, fixed_port, serve, until

from pytest_vmports.errors import LaunchError, MachineDiedError
from pytest_vmports.pool.pool import open_pool
from pytest_vmports.pool.template import Template
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import options
from pytest_vmports.system.run_dir import RunDir
from pytest_vmports.system.stored import read_manifest, write_manifest
from pytest_vmports.vm import machine as machine_module
from pytest_vmports.vm.machine import Machine

# Each connection to 8080 is a shell of its own; whatever else the guest is lives on between them.
SHELL = "nc -lk -p 8080 -e sh 2>/dev/null &\n"
# A template of another time, so that a clock nobody sets is found out.
LONG_AGO = "date -s 2001-01-01 >/dev/null\n"


def shell(vm, script):
    """Return what the guest's shell says to a script."""
    with vm.connect(8080, timeout=60) as connection:
        # gvproxy 0.8.1 closes both ways when one is closed, so the shell is told to end.
        connection.sendall(f"{script}\nexit\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode().strip()


def templates_in(cache):
    return [folder for folder in cache.iterdir() if folder.is_dir()]


class Own:
    """A pool with a cache of its own, as another process would have it.

    Attributes:
        told: the lines that a user would see, but for those about what takes long.
        started: origin of every machine that was started, builders of templates included.
    """

    def __init__(self, pool, told, config):
        self.told = told
        self.started = []
        self._pool = pool
        self._config = config

    @contextlib.contextmanager
    def vm(self, *ports, **keywords):
        keywords = {"accel": "auto", **keywords, "expose": ports}
        settings = options.resolve(self._config, keywords, "the test")
        with self._pool.vm(
            settings, observe=lambda machine: self.started.append(str(machine.origin))
        ) as vm:
            yield vm


@pytest.fixture
def own(vmports_allocator, request, tmp_path, qemu_binary):
    """Return a function that makes an `Own` on ``tmp_path/"cache"``; all are closed after."""
    with contextlib.ExitStack() as stack:

        def new(cache=tmp_path / "cache"):
            told = []
            opened = open_pool(
                vmports_allocator, root=request.config.rootpath, cache_dir=cache,
                tell=lambda line: "s so far" in line or told.append(line),
            )  # fmt: skip
            return Own(stack.enter_context(opened), told, request.config)

        yield new


@pytest.fixture(scope="module", params=["usernet", "gvproxy_081", "gvproxy_089"])
def clone(request, boot):
    """Return a function that clones a VM for a ``with`` block, in each wiring in turn."""
    network = {}
    if request.param != "usernet":
        gvproxy = str(request.getfixturevalue(request.param))
        network = {"allow_network": True, "gvproxy": gvproxy}
    setup = LONG_AGO + SHELL + serve("5353/udp")

    def cloned(*ports):
        ports = ports or (8080, "5353/udp")
        return boot(*ports, setup=setup, wait_for="8080", fresh_boot=False, **network)

    return cloned


CHANGES = """
echo changed >/root/file
echo changed >/etc/hosts
hostname changed
sleep 4321 >/dev/null 2>&1 </dev/null &
echo done
"""
LOOK = """
cat /root/file 2>/dev/null
grep -c changed /etc/hosts
hostname
ps | grep -c '[s]leep 4321'
"""
UNTOUCHED = ["0", "vmports", "0"]


def test_what_one_test_changes_is_absent_in_the_next(clone):
    with clone() as first, clone() as beside:
        assert shell(first, CHANGES) == "done"
        assert shell(first, LOOK).split() == ["changed", "1", "changed", "1"]
        assert shell(beside, LOOK).split() == UNTOUCHED
    with clone() as following:
        assert following.origin == "cloned"
        assert shell(following, LOOK).split() == UNTOUCHED


def test_two_clones_draw_different_random_numbers(clone):
    draw = "head -c 32 /dev/urandom | base64"
    with clone() as one, clone() as two:
        drawn = shell(one, draw), shell(two, draw)
    assert [len(text) for text in drawn] == [44, 44]
    assert drawn[0] != drawn[1]


def test_a_clones_clock_is_the_hosts(clone):
    began = time.time()
    with clone() as vm:
        now = int(shell(vm, "date +%s"))
    # The clone was given the host's time in between, and has counted since.
    assert began - 2 <= now <= time.time() + 2


BUSY = """
(end=$(($(date +%s) + 1)); while [ $(date +%s) -lt $end ]; do :; done; touch /root/rests) &
"""


def test_a_guest_is_saved_when_it_rests(own):
    with own().vm(8080, setup=BUSY + SHELL) as vm:
        assert vm.origin == "cloned"
        assert shell(vm, "ls /root") == "rests"


def test_a_clone_has_its_own_ports_whatever_its_template_was_built_with(clone):
    chosen = fixed_port()
    with clone() as one, clone(f"{chosen}:8080", "5353/udp") as two:
        ports = [port.external for vm in (one, two) for port in vm]
        assert len(set(ports)) == 4
        assert two[8080].external == chosen
        assert [shell(vm, "hostname") for vm in (one, two)] == ["vmports"] * 2
        assert [ask_udp(vm, 5353, b"anybody?") for vm in (one, two)] == [b"anybody?"] * 2


@pytest.mark.parametrize("setting", [{"template": "no"}, {"fresh_boot": True}], ids=str)
def test_without_templates_a_vm_boots_from_cold(own, setting, tmp_path):
    own = own()
    with own.vm(wait_for="none", **setting) as vm:
        assert vm.origin == "booted"
    assert own.started == ["booted"]
    assert not (tmp_path / "cache").exists()
    assert own.told == []


@pytest.fixture(scope="module")
def kernel():
    """Return settings for a guest that boots its own init."""
    from pytest_vmports.guests.alpine import find_images

    path, initrd = find_images()
    return {"kernel": str(path), "initrd": str(initrd)}


def test_a_guest_with_its_own_init_boots_from_cold_and_one_line_says_why(own, kernel, tmp_path):
    own = own()
    for _ in range(2):
        with own.vm(8080, wait_for="none", **kernel) as vm:
            assert vm.origin == "booted"
    (line,) = own.told
    assert re.fullmatch(r"vmports: every VM of \S+ boots from cold: its init is not ours, .*", line)
    assert not (tmp_path / "cache").exists()


def fake_qemu(folder, real, *, arguments="", when="*"):
    """Write a QEMU that adds arguments to those it is given, where these match a shell pattern."""
    program = folder / "qemu-system-x86_64"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in {when}) set -- "$@" {arguments};; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


# A device that QEMU will not save: memory shared with a peer that would have to move along.
NOT_TO_BE_SAVED = (
    "-object memory-backend-ram,id=peer,size=1M,share=on -device ivshmem-plain,memdev=peer"
)


@pytest.mark.slow
def test_a_guest_that_cannot_be_saved_boots_from_cold_and_one_line_says_why(
    own, tmp_path, qemu_binary
):
    own = own()
    qemu = fake_qemu(tmp_path, qemu_binary, arguments=NOT_TO_BE_SAVED)
    for _ in range(2):
        with own.vm(wait_for="none", qemu=qemu) as vm:
            assert vm.origin == "booted"
    assert own.started == ["booted"] * 3  # the first was to be saved
    unwalled, line = own.told
    assert f"no wall stands around {qemu}" in unwalled  # for it is a script
    assert re.fullmatch(r"vmports: every VM of alpine boots from cold: .*ivshmem.*", line)
    assert templates_in(tmp_path / "cache") == []


@pytest.mark.slow
def test_a_guest_that_cannot_be_restored_boots_from_cold_in_the_end(own, tmp_path, qemu_binary):
    own = own()
    qemu = fake_qemu(tmp_path, qemu_binary, arguments="-device virtio-rng-pci", when="*-kernel*")
    with own.vm(wait_for="none", qemu=qemu) as vm:
        assert vm.origin == "booted"
    assert own.started == ["booted", "cloned", "booted", "cloned", "booted"]
    _unwalled, again, at_last = own.told
    assert "could not be restored and is built anew" in again
    assert "boots from cold: its saved state cannot be restored" in at_last


def zeros_for_memory(folder):
    size = (folder / "ram").stat().st_size
    (folder / "ram").write_bytes(b"")
    os.truncate(folder / "ram", size)


def half_a_state(folder):
    os.truncate(folder / "state", (folder / "state").stat().st_size // 2)


@pytest.fixture(scope="module")
def pristine(vmports_allocator, request, tmp_path_factory, qemu_binary):
    """Return the folder of a template that nobody uses any more."""
    cache = tmp_path_factory.mktemp("pristine") / "cache"
    root = request.config.rootpath
    with (
        open_pool(vmports_allocator, root=root, tell=print, cache_dir=cache) as pool,
        Own(pool, [], request.config).vm(8080, setup=SHELL),
    ):
        pass
    (folder,) = templates_in(cache)
    return folder


@pytest.mark.parametrize("forge", [zeros_for_memory, half_a_state], ids=lambda f: f.__name__)
@pytest.mark.slow_as("zeros")
def test_a_state_that_looks_sound_and_cannot_be_restored_is_built_anew(
    own, pristine, tmp_path, forge
):
    folder = shutil.copytree(pristine, tmp_path / "cache" / pristine.name)
    (tmp_path / "cache").chmod(0o700)
    forge(folder)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest["key"], manifest["facts"], Template.digested)

    fake = own()
    with fake.vm(8080, setup=SHELL) as vm:
        assert vm.origin == "cloned"
        assert shell(vm, "hostname") == "vmports"
    assert fake.started == ["cloned", "booted", "cloned"]
    (line,) = fake.told
    assert line.startswith("vmports: a saved state could not be restored and is built anew: ")
    assert "\n" not in line
    after = own()
    with after.vm(8080, setup=SHELL):
        assert (after.started, after.told) == (["cloned"], [])


@pytest.mark.parametrize("damaged", ["ram", "state"])
@pytest.mark.slow_as("ram")
def test_a_damaged_template_is_built_anew(own, pristine, tmp_path, damaged):
    folder = shutil.copytree(pristine, tmp_path / "cache" / pristine.name)
    (tmp_path / "cache").chmod(0o700)
    with (folder / damaged).open("r+b") as file:
        file.seek(1 << 20 if damaged == "ram" else 0)
        file.write(secrets.token_bytes(4096))
        if damaged == "state":
            file.truncate()
    own = own()
    with own.vm(8080, setup=SHELL) as vm:
        assert shell(vm, "hostname") == "vmports"
    assert own.started == ["booted", "cloned"]


def _limited(monkeypatch):
    """QEMU is given too little memory for its translations, as below ``ulimit -v``."""
    spawn = machine_module.spawn

    def spawned(name, command, **keywords):
        return spawn(name, ["prlimit", "--as=300000000", *command], **keywords)

    monkeypatch.setattr(machine_module, "spawn", spawned)


def _killed_at_once(monkeypatch):
    spawn = machine_module.spawn

    def spawned(*arguments, **keywords):
        process = spawn(*arguments, **keywords)
        os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(machine_module, "spawn", spawned)


def _killed_before(method):
    def patch(monkeypatch):
        real = getattr(Machine, method)

        def killed(self, *arguments):
            os.kill(self.processes()[0].pid, signal.SIGKILL)
            return real(self, *arguments)

        monkeypatch.setattr(Machine, method, killed)

    return patch


HOSTS_FAULTS = {
    "short of memory": _limited,
    "killed at its start": _killed_at_once,
    "killed before it loads": _killed_before("_restore"),
    "killed before it answers": _killed_before("wait_ready"),
}


@pytest.mark.parametrize("fault", HOSTS_FAULTS)
def test_a_start_that_fails_for_the_hosts_sake_leaves_a_good_template(
    own, pristine, tmp_path, monkeypatch, fault
):
    own = own(pristine.parent)
    with monkeypatch.context() as patch:
        HOSTS_FAULTS[fault](patch)
        with (
            pytest.raises((LaunchError, MachineDiedError)),
            own.vm(8080, setup=SHELL, boot_timeout=30),
        ):
            pass
    with own.vm(8080, setup=SHELL) as vm:
        assert shell(vm, "hostname") == "vmports"
    assert (own.started, own.told) == (["cloned", "cloned"], [])


# Writes down the origin of every machine that an inner run starts, builders included.
CONFTEST = """
import os
import pytest
from pytest_vmports.vm.machine import Machine

start = Machine.start

def noted(self, *arguments):
    with open("started", "a") as file:
        file.write(str(self.origin) + "\\n")
    return start(self, *arguments)

Machine.start = noted
"""
SUITE = """
import pytest

@pytest.mark.vmports(8080, setup="head -c 16 /dev/urandom >/token; nc -lk -p 8080 -e cat /token &")
@pytest.mark.parametrize("number", range({tests}))
def test_token(vm_with_ports, number):
    with vm_with_ports.connect(8080) as connection:
        with open("tokens", "a") as file:
            file.write(connection.recv(16).hex() + "\\n")
"""


@pytest.fixture
def inner(pytester, monkeypatch, qemu_binary):
    """Return pytester, whose runs share a cache folder of their own."""
    monkeypatch.setenv("VMPORTS_CACHE_DIR", str(pytester.path / "cache"))
    pytester.makeconftest(CONFTEST)
    return pytester


def lines_of(name):
    """Return the lines of a file that inner runs wrote, and forget them."""
    path = Path(name)
    lines = path.read_text().splitlines()
    path.unlink()
    return lines


def test_four_workers_build_one_template_and_the_setup_runs_once(inner):
    inner.makepyfile(SUITE.format(tests=8))
    inner.runpytest_subprocess("-n", "4", "-W", "error").assert_outcomes(passed=8)
    started = lines_of("started")
    assert started.count("booted") == 1
    assert set(started) == {"booted", "cloned"}
    tokens = lines_of("tokens")
    assert len(tokens) == 8
    assert len(set(tokens)) == 1
    assert len(templates_in(inner.path / "cache")) == 1


def test_a_vm_that_waited_was_asked_no_more_often_than_another(inner):
    # The server's own count of the connections it took: while its template was made, when it was
    # restored, and the test's. One more would overrun a server that listens with a backlog of one.
    inner.makepyfile(
        '''
        import pytest

        SETUP = r"""
        printf '#!/bin/sh\\necho >>/asked; wc -l </asked' >/count
        chmod +x /count
        nc -lk -p 8080 -e /count &
        """

        @pytest.mark.vmports(8080, setup=SETUP)
        @pytest.mark.parametrize("number", range(3))
        def test_asked(vm_with_ports, number):
            with vm_with_ports.connect(8080) as connection:
                assert b"".join(iter(lambda: connection.recv(4096), b""))
            # Each is counted by a process of its own, in a busy guest later than the next one.
            count = "until [ $(wc -l </asked) -ge 3 ]; do usleep 50000; done; wc -l </asked"
            taken = vm_with_ports.run(count, timeout=60).stdout.strip()
            with open("asked", "a") as file:
                file.write(f"{vm_with_ports.origin} {taken}\\n")
        '''
    )
    inner.runpytest_subprocess("-p", "no:xdist", "--vmports-prewarm", "1").assert_outcomes(passed=3)
    assert lines_of("asked") == ["cloned 3", "standby 3", "standby 3"]


@contextlib.contextmanager
def running(name, *arguments):
    """Run pytest as a terminal would, in a process group of its own.

    Yields it, and a function that returns what it wrote; that is also in the file ``name``.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    output = Path(name)
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [*command, *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        ) as run,
    ):
        try:
            yield run, output.read_text
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def test_a_killed_builder_is_taken_over_by_another_run(inner):
    inner.makepyfile(SUITE.format(tests=1))
    # Whoever begins is at it, with its QEMU, until it is killed.
    inner.makeconftest(
        CONFTEST
        + """
import threading

real = Machine.wait_ready

def wait_ready(self):
    with open("started") as file:
        if len(file.readlines()) == 1:
            threading.Event().wait()
    real(self)

Machine.wait_ready = wait_ready
"""
    )
    cache = inner.path / "cache"
    waits = "waiting for another process that builds the template of alpine"
    with running("one") as (one, _), running("other") as (other, _):
        until(
            lambda: any(waits in Path(name).read_text() for name in ("one", "other")),
            120, "one run waits for the other",
        )  # fmt: skip
        (folder,) = templates_in(cache)
        builder, heir = (one, other) if folder.name.endswith(f"-{one.pid}") else (other, one)
        builder.kill()
        builder.wait()
        assert heir.wait(120) == pytest.ExitCode.OK
    assert lines_of("started") == ["booted", "booted", "cloned"]
    (folder,) = templates_in(cache)
    assert read_manifest(folder)["key"] == folder.name


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "more"), [(0, 1), (2, 3)])
def test_a_range_of_just_the_ports_that_tests_ask_for_is_enough(inner, workers, more):
    """For whoever builds the template and for whoever clones it, beside VMs that are made ready."""
    inner.makepyfile(
        """
        import pytest

        # Whoever closes first has the port linger, which for the host's would be a minute.
        echo = "for port in 8080 8081; do nc -lk -p $port -e cat & done"

        @pytest.mark.vmports(8080, 8081, setup=echo)
        @pytest.mark.parametrize("number", range(4))
        def test_ports(vm_with_ports, number):
            with vm_with_ports.connect(8080) as connection:
                connection.sendall(b"here")
                assert connection.recv(4) == b"here"
        """
    )
    first = fixed_port()
    words = [f"--vmports-port-range={first}-{first + more}", "-n", str(workers)]
    inner.runpytest_subprocess(*words).assert_outcomes(passed=4)


@pytest.mark.slow
def test_a_run_that_ends_while_it_clones_leaves_nothing(inner):
    inner.makepyfile(SUITE.format(tests=1))
    inner.makeconftest(
        """
        import os, threading
        from pytest_vmports.vm.machine import Machine

        def restore(self, template):
            with open("story.part", "w") as story:
                print(*(process.pid for process in self.processes()), file=story)
                print(self.workdir, file=story)
            os.rename("story.part", "story")
            threading.Event().wait()

        Machine._restore = restore
        """
    )

    def end(how):
        with running("output") as (run, said):
            until(lambda: Path("story").exists() or run.poll() is not None, 120, said)
            pids, workdir = lines_of("story")
            assert all(alive(int(pid)) for pid in pids.split())
            how(run)
            run.wait(60)
            until(lambda: not any(alive(int(pid)) for pid in pids.split()), 60, "QEMU is gone")
        return Path(workdir)

    # As Ctrl-C in a terminal does.
    assert not end(lambda run: os.killpg(run.pid, signal.SIGINT)).exists()
    workdir = end(lambda run: run.kill())
    with RunDir():  # removes what a killed process could not
        assert not workdir.exists()
    store = TemplateStore(inner.path / "cache", 1 << 40)
    assert len(store.entries()) == 1
    assert store.clear() == 1  # nobody holds it

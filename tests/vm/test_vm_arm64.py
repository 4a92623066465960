"""A guest of another architecture, emulated: its board, console, card, and our agent for it."""

from __future__ import annotations

import os
import time

import arm64_guest
import pytest
from vm_helpers import FROM_TEMPLATE, WIRINGS

from pytest_vmports import Guest
from pytest_vmports.errors import CommandTimeoutError, SetupError
from pytest_vmports.system.architecture import AARCH64

pytestmark = pytest.mark.slow
SETTINGS = {"qemu": "qemu-system-aarch64", "boot_timeout": 300}
SETUP = "date +%s >/began; nc -ll -p 8080 -e uname -m &"


@pytest.fixture(scope="session")
def images(missing):
    if lacking := arm64_guest.missing():
        missing("what makes and runs an arm64 guest", f"install {', '.join(lacking)}")
    return arm64_guest.kernel_and_initrd()


@pytest.fixture(scope="session")
def arm64(images):
    return Guest.kernel(*images, memory=512)


@pytest.fixture(scope="session")
def prepared(images):
    return Guest.kernel(*images, memory=256, setup=SETUP)


@pytest.fixture(scope="module")
def booted(boot, prepared):
    with boot(8080, guest=prepared, **SETTINGS) as vm:
        yield vm


@pytest.mark.parametrize("wiring", WIRINGS)
def test_an_arm64_kernel_boots_and_answers(vm_factory, arm64, wiring, gvproxy_089):
    with vm_factory(ports=[8080], guest=arm64, **SETTINGS, **WIRINGS[wiring]) as vm:
        assert "-machine virt" in vm.command_line
        assert "this is aarch64" in vm.console
        with vm.connect(8080, timeout=60) as connection:
            assert connection.recv(100) == b"aarch64\n"


def test_the_setup_runs_and_a_port_answers(booted):
    assert booted.origin == "booted"
    assert "vmports: setup ended with 0" in booted.console
    with booted.connect(8080, timeout=60) as connection:
        assert connection.recv(100) == b"aarch64\n"


def test_a_command_gives_its_status_and_both_outputs(booted):
    done = booted.run("uname -m; echo bad >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "aarch64\n", "bad\n")
    assert booted.run("cat", input="given").stdout == "given"


def test_files_go_in_and_come_out_as_they_were(booted, tmp_path):
    content = os.urandom(30_000)
    (tmp_path / "in").write_bytes(content)
    booted.put(tmp_path / "in", "/tmp/there")
    booted.get("/tmp/there", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_a_command_that_does_not_end_is_killed(booted):
    with pytest.raises(CommandTimeoutError):
        booted.run("sleep 1000", timeout=2)
    assert booted.run("echo next").stdout == "next\n"


def test_a_setup_that_fails_says_so(boot, images):
    with (
        pytest.raises(SetupError, match="7"),
        boot(8080, guest=Guest.kernel(*images, memory=256, setup="exit 7"), **SETTINGS),
    ):
        pass


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_bundled_guest_comes_up_with_the_least_memory_it_is_allowed(
    boot, images, wiring, gvproxy_089
):
    guest = Guest.kernel(*arm64_guest.bundled(), memory=AARCH64.bundled_memory, setup=SETUP)
    with boot(8080, guest=guest, **SETTINGS, **WIRINGS[wiring]) as vm:
        assert vm.run("uname -m").stdout == "aarch64\n"


@pytest.mark.parametrize("wiring", WIRINGS)
def test_clones_have_the_time_and_draw_random_numbers_of_their_own(
    vm_factory, prepared, wiring, gvproxy_089
):
    drawn, began = set(), set()
    for _ in range(2):
        before = time.time()
        with vm_factory(ports=[8080], guest=prepared, **SETTINGS, **WIRINGS[wiring]) as vm:
            assert vm.origin in FROM_TEMPLATE
            now = float(vm.run("date +%s").stdout)
            assert before - 1 <= now <= time.time() + 1
            began.add(vm.run("cat /began").stdout)
            drawn.add(vm.run("head -c 16 /dev/urandom | base64").stdout)
            with vm.connect(8080, timeout=60) as connection:
                assert connection.recv(100) == b"aarch64\n"
    assert len(began) == 1 and len(drawn) == 2

"""The plugin in whole pytest runs: distribution over workers, guests, what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from vm_helpers import fixed_port

from pytest_vmports import Guest
from pytest_vmports.guests.alpine import find_images

USES_A_VM = """
import pytest

@pytest.mark.vmports(8080)
def test_one(vm_with_ports):
    pass
"""


@pytest.fixture
def inner(pytester, shared_templates, qemu_binary):
    """Return pytester; its runs use the templates that others have made."""
    return pytester


@pytest.mark.parametrize("missing", ["skip", "error"])
@pytest.mark.parametrize(
    ("lacking", "settings", "said"),
    [
        ("qemu", [], "no working QEMU found*"),
        ("gvproxy", ["--vmports-allow-network", "yes"], "no working gvproxy found*"),
    ],
    ids=["qemu", "gvproxy"],
)
def test_what_is_missing_skips_or_fails_and_says_what_was_tried(
    pytester, missing, lacking, settings, said
):
    pytester.makepyfile(USES_A_VM)
    result = pytester.runpytest_subprocess(
        f"--vmports-{lacking}", "no-such-program", "--vmports-missing", missing, *settings, "-rsE"
    )
    result.assert_outcomes(**({"skipped": 1} if missing == "skip" else {"errors": 1}))
    result.stdout.fnmatch_lines_random([f"*{said}", "*no-such-program*: not there, *"])
    result.stdout.fnmatch_lines_random([f"*name one with --vmports-{lacking}*"])


def test_the_header_names_qemu_accelerator_and_gvproxy(pytester, gvproxy_081, qemu_binary):
    words = ["--vmports-accel=tcg", f"--vmports-gvproxy={gvproxy_081}"]
    result = pytester.runpytest_subprocess(*words)
    (line,) = (one for one in result.outlines if one.startswith("vmports: "))
    assert re.fullmatch(r"vmports: QEMU \d+\.\d+\.\d+, tcg, gvproxy \S*0\.8\.1", line)
    result = pytester.runpytest_subprocess(*words, "-v")
    result.stdout.fnmatch_lines(
        [
            f"vmports: QEMU *.*.* ({qemu_binary}, from PATH)",
            "vmports: accelerator tcg (asked for)",
            f"vmports: gvproxy *0.8.1* ({gvproxy_081}, *)",
        ]
    )


def test_without_settings_the_header_comes_with_the_first_marker(pytester, qemu_binary):
    pytester.makepyfile(test_plain="def test_plain(): pass")
    pytester.runpytest_subprocess("--collect-only").stdout.no_fnmatch_line("vmports: *")
    pytester.makepyfile(USES_A_VM)
    result = pytester.runpytest_subprocess("--collect-only")
    assert len([one for one in result.outlines if one.startswith("vmports: ")]) == 1
    result.stdout.fnmatch_lines(["vmports: QEMU *, *"])


@pytest.mark.parametrize("ini", ["", "[pytest]\nvmports_accel = tcg\n"])
@pytest.mark.parametrize("needed", [False, True])
def test_the_header_says_what_is_missing_only_where_a_test_needs_it(
    pytester, qemu_binary, monkeypatch, ini, needed
):
    monkeypatch.setenv("VMPORTS_GVPROXY", "/nowhere/gvproxy")
    pytester.makeini(ini or "[pytest]\n")
    pytester.makepyfile(
        "import pytest\n"
        f"@pytest.mark.vmports(8080, allow_network={needed})\n"
        "def test_it(vm_with_ports): pass\n"
    )
    result = pytester.runpytest_subprocess("--collect-only")
    _, *more = (one for one in result.outlines if one.startswith("vmports: "))
    assert bool(more) is needed
    assert all("no working gvproxy" in line and "(1 tests here)" in line for line in more)


DISTRIBUTED = """
import os, socket
import psutil, pytest

@pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")
def test_vm(vm_with_ports):
    assert psutil.Process(vm_with_ports.pids["QEMU"]).ppid() == os.getpid()
    with vm_with_ports.connect(8080) as s:
        s.sendall(b"hi")
        assert s.recv(2) == b"hi"

@pytest.mark.vmports(8080)
@pytest.mark.parametrize("number", range(4))
def test_ports(exposed_ports, number):
    assert len(exposed_ports.qemu_args()) == 4

def test_plain():
    pass
"""
# Written by the process that the user started, at its end.
CONTROLLER = """
import json, sys

def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open("modules.json", "w") as file:
            json.dump(sorted(sys.modules), file)
"""


@pytest.mark.parametrize("dist", ["load", "worksteal"])
def test_workers_start_the_vms_and_the_controller_none(inner, dist):
    inner.makeconftest(CONTROLLER)
    inner.makepyfile(DISTRIBUTED)
    inner.runpytest_subprocess("-n", "2", "--dist", dist, "-W", "error").assert_outcomes(passed=6)
    loaded = json.loads(Path("modules.json").read_text())
    assert "pytest_vmports.plugin" in loaded
    assert not {"qemu.qmp", "filelock", "pytest_vmports.pool.launch"} & set(loaded)


def test_it_works_without_xdist(inner):
    inner.makepyfile(DISTRIBUTED)
    inner.runpytest_subprocess("-p", "no:xdist", "-W", "error").assert_outcomes(passed=6)


def test_two_workers_take_turns_with_a_fixed_port(inner):
    inner.makepyfile(
        f"""
        import json, os, time
        import pytest

        @pytest.mark.parametrize("name", ["one", "other"])
        @pytest.mark.vmports("{fixed_port()}:8080", setup="nc -lk -p 8080 -e cat &")
        def test_turn(vm_with_ports, name):
            began = time.monotonic()
            with vm_with_ports.connect(8080) as s:
                s.sendall(name.encode())
                assert s.recv(16) == name.encode()
            turn = [began, time.monotonic(), os.environ["PYTEST_XDIST_WORKER"]]
            with open(name + ".json", "w") as file:
                json.dump(turn, file)
        """
    )
    inner.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)
    first, second = sorted(
        json.loads(Path(f"{name}.json").read_text()) for name in ("one", "other")
    )
    assert first[2] != second[2]
    assert first[1] < second[0]


def test_a_kernel_named_in_the_ini_boots_with_files_and_a_setup_script(inner):
    kernel, initrd = find_images()
    # /bin is a link in Alpine.
    inner.makefile(".sh", serve="cat /etc/app.conf /srv/site/deep/page\nnc -lk -p 8080 -e answer &")
    inner.makefile(".txt", answer="#!/bin/sh\nexec cat")
    inner.path.joinpath("answer.txt").chmod(0o755)
    inner.makefile(".conf", app="setting = 1")
    page = inner.mkdir("site").joinpath("deep/page")
    page.parent.mkdir()
    page.write_text("a page\n")
    inner.makeini(
        f"""
        [pytest]
        vmports_kernel = {kernel}
        vmports_initrd = {initrd}
        vmports_append = vmports.test=word
        vmports_files = app.conf=/etc/app.conf site=/srv/site answer.txt=/bin/answer
        vmports_setup = serve.sh
        vmports_expose = 8080
        """
    )
    inner.makepyfile(
        """
        import asyncio

        def test_async(vm_with_ports):
            async def ask():
                reader, writer = await asyncio.open_connection(*vm_with_ports[8080].address)
                writer.write(b"from a loop")
                answer = await reader.readexactly(11)
                writer.close()
                await writer.wait_closed()
                return answer

            assert asyncio.run(ask()) == b"from a loop"
            assert "setting = 1" in vm_with_ports.console
            assert "a page" in vm_with_ports.console
            # A clone is told nothing any more, so the word is in its template's key alone.
            words = vm_with_ports.run("cat /proc/cmdline").stdout.split()
            assert "vmports.test=word" in words
        """
    )
    inner.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


class TestOwnGuest:
    @pytest.fixture
    def vmports_guest(self):
        return Guest.alpine(setup="echo from the fixture", memory=200)

    @pytest.mark.vmports(setup="echo from the marker", fresh_boot=True)
    def test_the_fixture_names_it_and_the_marker_adds_to_it(self, qemu_binary, vm_with_ports):
        console = vm_with_ports.console
        assert 0 <= console.find("from the fixture") < console.find("from the marker")
        assert "-m 200M" in vm_with_ports.command_line

"""``pytest-vmports``: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

# Now, for were it loaded while a test patches the host's programs, others would keep the patch.
import pytest_vmports.cli.doctor
from pytest_vmports.cli import cache, main
from pytest_vmports.errors import (
    GuestNotFoundError,
    GvproxyNotFoundError,
    PasstNotFoundError,
    QemuNotFoundError,
    SwtpmNotFoundError,
)
from pytest_vmports.leases import PortAllocator
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.system import programs as host
from pytest_vmports.system.programs import Gvproxy

MIB = 1 << 20


@pytest.fixture
def run(capsys):
    """Return a function that runs a command: exit status, lines on stdout and on stderr."""

    def run(*arguments):
        status = main.main(arguments)
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.mark.parametrize("arguments", [[], ["cache"], ["cache", "burn"], ["cook"]], ids=str)
def test_a_wrong_command_exits_2_and_shows_the_usage(run, capsys, arguments):
    with pytest.raises(SystemExit) as info:
        run(*arguments)
    assert info.value.code == 2
    assert "usage: pytest-vmports" in capsys.readouterr().err


def test_it_is_installed_as_a_program():
    program = "from importlib.metadata import entry_points as e; import sys; sys.exit("
    program += "e(group='console_scripts')['pytest-vmports'].load()(['ports']))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class TestPorts:
    @pytest.fixture(autouse=True)
    def _own_state(self, monkeypatch, tmp_path):
        monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path / "state"))

    def test_it_lists_each_port_with_its_holder(self, run):
        with PortAllocator() as allocator:
            (lease,) = allocator.acquire()
            status, lines, _ = run("ports")
            (line,) = lines
            assert (status, line.split()[0]) == (0, f"127.0.0.1:{lease.port}/tcp")
            assert f"{os.getpid()}" in line
        assert run("ports") == (0, [], [])

    def test_a_folder_that_cannot_be_used_exits_1_and_says_why(self, run, monkeypatch, tmp_path):
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        monkeypatch.setenv("VMPORTS_STATE_DIR", str(shared))
        status, lines, errors = run("ports")
        assert (status, lines) == (1, [])
        assert errors[0].startswith(f"pytest-vmports: cannot keep files in {shared}")


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _own_folders(self, monkeypatch, tmp_path):
        monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("VMPORTS_CACHE_DIR", str(tmp_path / "cache"))

    def test_where_all_is_there_it_names_each_part_and_exits_0(
        self, run, qemu_binary, gvproxy_089, monkeypatch
    ):
        monkeypatch.setenv("PATH", f"{gvproxy_089.parent}:{os.environ['PATH']}")
        status, lines, _ = run("doctor")
        assert status == 0
        assert [" ".join(line.split()[:2]) for line in lines if "->" not in line] == [
            "ok settings", "ok qemu", "ok accelerator", "ok guest", "ok gvproxy", "ok wall:",
            "ok wall:", "ok wall:", "ok wall:", "ok passt", "ok swtpm", "ok ports", "ok state",
            "ok cache", "ok leftovers",
        ]  # fmt: skip

    @pytest.mark.parametrize(("program", "error", "setting", "value"), [
        ("passt", PasstNotFoundError, "backend", "passt"),
        ("swtpm", SwtpmNotFoundError, "tpm", "yes"),
    ])  # fmt: skip
    def test_what_one_setting_needs_is_missed_where_it_is_asked_for(
        self, run, monkeypatch, qemu_binary, program, error, setting, value
    ):
        def missing():
            raise error(found="it is not on PATH", remedy="install it")

        monkeypatch.setattr(pytest_vmports.cli.doctor, f"find_{program}", missing)
        _, lines, _ = run("doctor")
        (line,) = [line for line in lines if f" {program} " in line]
        assert line.startswith("ok ")
        assert line.endswith(f"it is not on PATH, which matters with {setting} = {value} alone")
        monkeypatch.setenv(f"VMPORTS_{setting.upper()}", value)
        status, lines, _ = run("doctor")
        assert status == 2
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"missing  {program} ")]
        assert lines[at].endswith("it is not on PATH") and "-> install it" in lines[at + 1]

    def test_what_only_some_tests_need_is_a_limit_and_exits_1(self, run, monkeypatch, qemu_binary):
        def missing(_wanted):
            raise GvproxyNotFoundError(tried="  gvproxy: not there", remedy="install it")

        monkeypatch.setattr(host, "find_gvproxy", missing)
        _, lines, _ = run("doctor")
        assert any(re.match(r"ok  +gvproxy +not there; only tests with allow_", x) for x in lines)
        monkeypatch.setenv("VMPORTS_ALLOW_NETWORK", "yes")
        status, lines, _ = run("doctor")
        assert status == 1
        (at,) = [n for n, line in enumerate(lines) if line.startswith("limited  gvproxy ")]
        assert "no working gvproxy found" in lines[at]
        assert any("install it" in line for line in lines[at:])
        assert any("leftovers" in line for line in lines[at:])  # it goes on

    def test_a_gvproxy_that_loses_answers_is_a_limit_where_it_is_used(
        self, run, monkeypatch, gvproxy_081, qemu_binary
    ):
        old = Gvproxy("/g", "0.8.1", has_config=False)
        monkeypatch.setattr(host, "find_gvproxy", lambda _: old)
        _, lines, _ = run("doctor")
        (at,) = [n for n, line in enumerate(lines) if re.match(r"ok  +gvproxy ", line)]
        assert "loses the answer" in lines[at]
        assert "-> go install" in lines[at + 1]
        monkeypatch.setenv("VMPORTS_GVPROXY", str(gvproxy_081))
        status, lines, _ = run("doctor")
        assert status == 1
        assert any(line.startswith("limited  gvproxy ") for line in lines)

    def test_each_wall_around_gvproxy_has_its_line(
        self, run, monkeypatch, gvproxy_089, qemu_binary, ungated
    ):
        monkeypatch.setenv("VMPORTS_GVPROXY", str(gvproxy_089))
        status, lines, _ = run("doctor")
        walls = [line for line in lines if "wall: " in line]
        assert status == 1
        assert [line.split()[:3] for line in walls] == [
            ["ok", "wall:", "filter"], ["limited", "wall:", "gate"], ["ok", "wall:", "Landlock"],
            ["ok", "wall:", "QEMU"],
        ]  # fmt: skip
        assert "127.0.0.1: the test switched it off" in walls[1]
        assert "SYS_PTRACE" in lines[lines.index(walls[1]) + 1]

    def test_a_qemu_without_walls_is_told(self, run, monkeypatch, tmp_path, qemu_binary):
        script = tmp_path / "qemu-system-x86_64"
        script.write_text(f'#!/bin/sh\nexec {qemu_binary} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("VMPORTS_QEMU", str(script))
        status, lines, _ = run("doctor")
        assert status == 1
        (at,) = [n for n, line in enumerate(lines) if line.startswith("limited  wall: QEMU")]
        assert "has your files: it is a script" in lines[at]
        assert "name a QEMU that is a program" in lines[at + 1]

    def test_without_qemu_no_vm_can_be_started_and_it_exits_2(self, run, monkeypatch):
        def missing(_wanted=None):
            raise QemuNotFoundError(tried="  qemu: not there", remedy="install it")

        monkeypatch.setattr(host, "find_qemu", missing)
        status, lines, _ = run("doctor", "--boot")  # which is not even tried
        assert status == 2
        assert lines[1].startswith("missing  qemu ")
        assert not any(line.split()[1] == "boot" for line in lines)
        # It is told once, and not of what is there.
        assert len([line for line in lines if "no working QEMU" in line]) == 1
        unknown = ["limited", "accelerator", "not", "known", "without", "QEMU"]
        assert any(line.split() == unknown for line in lines)

    def test_what_only_some_guests_need_is_no_reason_to_start_none(
        self, run, monkeypatch, qemu_binary
    ):
        def missing():
            raise GuestNotFoundError(what="no package", remedy="install it")

        monkeypatch.setattr(pytest_vmports.cli.doctor, "find_images", missing)
        surroundings = pytest_vmports.cli.doctor.surroundings
        real = surroundings.which
        monkeypatch.setattr(
            surroundings, "which", lambda name: None if name == "qemu-img" else real(name)
        )
        status, lines, _ = run("doctor")
        assert status == 1
        assert any(re.match("limited +guest +no package; install it", line) for line in lines)
        at = next(n for n, line in enumerate(lines) if line.split()[1] == "qemu")
        assert lines[at].startswith("ok ") and "no qemu-img, which disk images need" in lines[at]
        assert "-> install it (" in lines[at + 1]

    def test_for_programs_it_says_the_same_as_json(self, run, qemu_binary):
        status, lines, _ = run("doctor", "--json")
        whole = json.loads("\n".join(lines))
        assert whole["state"] == status
        assert {"name", "state", "text", "remedy"} == set(whole["findings"][0])

    def test_a_cache_that_is_a_file_is_named(self, run, monkeypatch, tmp_path, qemu_binary):
        (tmp_path / "file").touch()
        monkeypatch.setenv("VMPORTS_CACHE_DIR", str(tmp_path / "file"))
        status, lines, _ = run("doctor")
        assert status == 1
        assert any(line.startswith("limited  cache") and "/file" in line for line in lines)

    def test_it_boots_a_vm_when_asked(self, run, qemu_binary):
        status, lines, _ = run("doctor", "--boot")
        assert status <= 1
        assert re.search(r"ok  boot +a VM answered after [\d.]+ s \(booted\)", lines[-1])


class TestRun:
    def test_it_says_where_the_ports_are_shows_the_console_and_stops_on_ctrl_c(
        self, qemu_binary, tmp_path
    ):
        command = [sys.executable, "-m", "pytest_vmports.cli.main", "run", "--port", "8080"]
        hostile = r"printf 'said by the guest \033]0;owned\007 ##vso[task.x]\n::add-mask::a\nend\n'"
        command += ["--setup", f"{hostile}; nc -lk -p 8080 -e cat &", "--fresh-boot"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            first = process.stdout.readline()
            host, port = re.match(r"http://([\d.]+):(\d+) -> 8080/tcp", first).groups()
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
            lines = iter(process.stdout.readline, "| end\n")
            console = "".join(line for line in lines if not line.startswith("http"))
            said = r"| said by the guest \x1b]0;owned\x07 #\#vso[task.x]"
            assert f"{said}\n| ::add-mask::a\n" in console and "\x1b" not in console
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)

    @pytest.mark.parametrize(
        ("how", "status", "said"),
        [
            ("echo c >/proc/sysrq-trigger", 1, "pytest-vmports: the guest's kernel panicked: "),
            ("reboot -f", 1, "pytest-vmports: the guest rebooted by itself"),
            ("poweroff -f", 0, ""),
        ],
    )
    def test_it_says_how_the_guest_ended(self, qemu_binary, how, status, said):
        command = [sys.executable, "-m", "pytest_vmports.cli.main", "run", "--port", "8080"]
        command += ["--setup", "nc -lk -p 8080 -e sh &"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            host, port = re.match(r"http://([\d.]+):(\d+)", process.stdout.readline()).groups()
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(f"{how}\n".encode())
            _, errors = process.communicate(timeout=120)
        assert process.returncode == status
        lines = [line for line in errors.splitlines() if said and line.startswith(said)]
        assert len(lines) == bool(said), errors
        assert "warn" not in errors.lower()

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            ([], False), (["--allow-network"], True), (["--allow-network", "--cpus", "1"], True),
            (["--allow-network=yes"], True), (["--allow-network", "no"], False),
            (["--allow-network=*.example.org, 10.1.0.0/16"], "*.example.org, 10.1.0.0/16"),
            (["--allow-network", "b.example:443 a.example"], "a.example, b.example:443"),
        ],
    )  # fmt: skip
    def test_a_network_is_allowed_or_some_of_it(self, run, monkeypatch, words, wanted):
        """Faked: the VM; what it would be given is looked at."""
        seen = []

        def refuse(_pool, settings):
            seen.append(settings.allow_network)
            raise QemuNotFoundError(tried="  qemu: not there", remedy="install it")

        monkeypatch.setattr("pytest_vmports.pool.pool.Pool.vm", refuse)
        assert run("run", *words)[0] == 1
        assert [one if isinstance(one, bool) else str(one) for one in seen] == [wanted]

    @pytest.mark.parametrize("words", ["", "https://example.org/", "10.1.0.0/33", "everything"])
    def test_a_mistyped_network_is_named_before_anything_starts(self, run, words):
        status, _, errors = run("run", f"--allow-network={words}")
        assert status == 1
        assert "allow_network" in errors[0] and "write yes, no, or a list" in " ".join(errors)

    def test_a_wrong_port_is_named_before_anything_starts(self, run):
        status, _, errors = run("run", "--port", "99999")
        assert status == 1
        assert "99999" in errors[0]


def build(folder):
    (folder / "ram").write_bytes(os.urandom(3 * MIB))
    (folder / "state").write_bytes(b"state")
    (folder / "console").write_text("")


def facts(name):
    qemu = ["7.2.9 (Debian 1:7.2+dfsg-7)", "0" * 64]
    return {"name": name, "qemu": qemu, "wiring": "usernet", "memory": 256}


class TestCache:
    @pytest.fixture
    def two(self, tmp_path):
        """Return the folder of two templates, one of them in use."""
        base = tmp_path / "cache"
        unused, using = TemplateStore(base, 1 << 30), TemplateStore(base, 1 << 30)
        folder = unused.get(facts("db"), build, 1).folder
        unused.close()
        using.get(facts("web"), build, 1)
        hour_ago = time.time() - 3600
        os.utime(folder / "manifest.json", (hour_ago, hour_ago))
        yield base
        using.close()

    def test_list_shows_the_latest_used_first_with_size_and_total(self, run, two):
        status, lines, _ = run("cache", "list", "--cache-dir", str(two))
        assert status == 0
        header, *rows, total = [re.split(r"\s{2,}", line) for line in lines]
        assert header == list(cache._COLUMNS)
        assert [row[1] for row in rows] == ["web", "db"]
        assert {row[0] for row in rows} == {p.name for p in two.iterdir() if p.is_dir()}
        for row in rows:
            assert row[2:5] == ["usernet", "256 MiB", "3 MiB"]
            assert row[6] == "QEMU 7.2.9"
        hours = [time.strptime(row[5], "%Y-%m-%d %H:%M") for row in rows]
        assert time.mktime(hours[0]) - time.mktime(hours[1]) >= 3540
        assert total == [f"2 templates in {two}, 6 MiB"]

    def test_clear_removes_what_nobody_uses_and_says_how_many_were_kept(self, run, two):
        at = ("--cache-dir", str(two))
        assert run("cache", "clear", *at) == (0, ["removed 1 template, kept 1 in use"], [])
        assert run("cache", "clear", *at) == (0, ["removed no templates, kept 1 in use"], [])
        assert [entry["facts"]["name"] for entry, _, _ in TemplateStore(two, 0).entries()] == [
            "web"
        ]

    @pytest.mark.parametrize("there", [True, False])
    @pytest.mark.parametrize(
        ("action", "said"),
        [("list", "no templates in {}"), ("clear", "removed no templates")],
    )
    def test_an_empty_folder_and_none_are_the_same(self, run, tmp_path, action, said, there):
        base = tmp_path / "cache"
        if there:
            base.mkdir(mode=0o700)
        else:
            said = "no templates in {}"
        status, lines, _ = run("cache", action, "--cache-dir", str(base))
        assert (status, lines) == (0, [said.format(base)])
        assert base.exists() == there

    def test_the_environment_names_the_folder_too(self, run, two, monkeypatch):
        monkeypatch.setenv("VMPORTS_CACHE_DIR", str(two))
        assert run("cache", "list")[1][-1] == f"2 templates in {two}, 6 MiB"

    def test_a_foreign_manifest_is_shown_as_far_as_it_goes(self, run, tmp_path):
        key = "0" * 24
        (tmp_path / key).mkdir()
        (tmp_path / key / "manifest.json").write_text(f'{{"key": "{key}", "facts": 1}}')
        row = run("cache", "list", "--cache-dir", str(tmp_path))[1][1].split()
        assert row[:4] == [key, "?", "?", "?"]

    def test_a_folder_that_others_may_write_to_exits_1(self, run, tmp_path):
        tmp_path.chmod(0o777)
        status, _, errors = run("cache", "list", "--cache-dir", str(tmp_path))
        assert status == 1
        assert "others may write to it" in errors[0]

"""A host whose /proc is empty, or may not be read, lacks answers and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_vmports
from pytest_vmports.cli import doctor, place
from pytest_vmports.leases import candidates, guard, record, state_dir
from pytest_vmports.network import gvproxy
from pytest_vmports.pool import standby
from pytest_vmports.system import listeners, memory, proc, programs

PACKAGE = Path(pytest_vmports.__file__).parent
# Which of ours read it, and where below that is tried. `seal` makes an error of its own of it.
READERS = {
    "system/proc.py", "leases/candidates.py", "leases/guard.py", "leases/record.py",
    "leases/state_dir.py", "network/seal.py", "system/minder.py",
    "guests/hopeless.py",  # a folder of the guest
    "vm/argv.py",  # a descriptor's name, for QEMU
    "vm/share.py",  # a folder that is never shared
    "vm/virtiofs.py",  # files that virtiofsd may read
    "network/walls.py", "system/program_files.py",  # what gvproxy, and QEMU, may read
}  # fmt: skip


def test_nobody_else_reads_proc():
    reading = re.compile(r"""["']/proc""")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(
            reading.search(line.partition("#")[0]) and '"""' not in line
            for line in path.read_text().splitlines()
        )
    }
    assert found <= READERS, "read it by system.proc.said, or add a row here"


@pytest.fixture(params=["empty", "a file", "garbage"])
def no_proc(request, monkeypatch, tmp_path):
    """Faked: where the kernel's files are looked for."""
    if request.param == "a file":  # as unreadable for root as for anybody
        (tmp_path / "proc").touch()
    else:
        (tmp_path / "proc").mkdir()
    if request.param == "garbage":
        for name in ("cpuinfo", "meminfo", "1/cmdline"):
            (tmp_path / "proc" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "proc" / name).write_bytes(b"\xff\0\n")
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(guard, "PROC_NET", tmp_path / "proc" / "net")
    monkeypatch.setattr(record, "LOCKS", tmp_path / "proc" / "locks")
    monkeypatch.setattr(state_dir, "NETNS", tmp_path / "proc" / "self" / "ns" / "net")
    monkeypatch.setattr(candidates, "EPHEMERAL_FILE", tmp_path / "proc" / "range")
    monkeypatch.setattr(candidates, "RESERVED_FILE", tmp_path / "proc" / "reserved")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: proc.stat_fields(1) == [] and proc.process_start(1) == 0,
        lambda: proc.ending(1) is False,
        lambda: isinstance(programs._kvm_problem(asked_for=False), str),
        lambda: isinstance(place.towards_kvm(place.place()), str),
        lambda: isinstance(doctor._accelerator().text, str),
        lambda: standby._memory_for(256, []) is True and memory.available() is None,
        lambda: guard.owner_of([guard.Row("0A", 3)]) == "",
        lambda: guard.command_of(os.getpid()) == "?",
        lambda: record.locked_files() == set(),
        lambda: state_dir.network_file_system(Path("/tmp"), Path("/nowhere")) == "",
        lambda: len(candidates.candidate_ports()) > 1000,
        lambda: not gvproxy._listens(Path("/nowhere")),
        lambda: proc.sockets(os.getpid()) is None and listeners.of(os.getpid()) is None,
    ],
)
def test_each_question_has_its_answer(no_proc, ask):
    assert ask()


def test_a_socket_that_has_its_name_counts_where_nothing_tells_who_listens(no_proc, tmp_path):
    (tmp_path / "socket").touch()
    assert gvproxy._listens(tmp_path / "socket")


SUITE = """
import pytest
@pytest.mark.vmports(8080)
def test_ports(exposed_ports, free_port):
    assert exposed_ports[8080].external != free_port
"""


def test_a_run_in_a_mount_namespace_without_proc_has_header_and_ports(
    pytester, qemu_binary, missing
):
    """In earnest: an empty folder lies over /proc."""
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False).returncode
    ):
        missing("a mount namespace (unshare --mount)", "allow user namespaces, or run as root")
    pytester.makepyfile(SUITE)
    script = 'mount -t tmpfs tmpfs /proc && exec "$@"'
    before = [*namespace, "sh", "-c", script, "sh"]
    words = ["-p", "no:cacheprovider", "--vmports-accel=auto"]
    result = pytester.run(*before, sys.executable, "-m", "pytest", *words)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["vmports: QEMU *, *"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    result = pytester.run(*before, sys.executable, "-m", "pytest_vmports.cli.main", "doctor")
    assert "Traceback" not in result.stderr.str()
    result.stdout.fnmatch_lines(["*accelerator*"])

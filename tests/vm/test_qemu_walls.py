"""The walls around a QEMU: what is run behind them reads and writes its VM's files alone."""

from __future__ import annotations

import shlex
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from confined import PYTHON, tries

from pytest_vmports.errors import LaunchError
from pytest_vmports.system import landlock, program_files, seccomp
from pytest_vmports.system.process import spawn
from pytest_vmports.system.programs import Accelerator, Qemu, find_qemu
from pytest_vmports.vm import failures, walls
from pytest_vmports.vm.argv import Drives, Hardware, Ram, build_command
from pytest_vmports.vm.inside.waiting import BootFiles, Place
from pytest_vmports.vm.share import Share


@pytest.fixture(autouse=True)
def _landlock(missing):
    if problem := landlock.problem():
        missing("Landlock", problem)


@pytest.fixture
def files(tmp_path):
    """Return a folder with a VM's files, its private folder, and others of the host."""
    for name in ("vm", "template", "home"):
        (tmp_path / name).mkdir()
    for name in (
        "kernel", "initrd", "image", "base", "code", "template/ram", "template/root", "home/secret",
        "vm/overlay", "vm/ssh_config", "vm/ssh_key", "vm/root.qcow2",
    ):  # fmt: skip
        (tmp_path / name).write_text(name)
    return tmp_path


def walled(
    files, *, qemu=None, kind="usernet", restrict=True, share=False, reachable=False, doors=(),
    shares=(), paused=False,
):  # fmt: skip
    """Return how the QEMU of a VM with these files is confined."""
    plan = SimpleNamespace(
        hardware=SimpleNamespace(qemu=qemu or find_qemu(), accelerator=Accelerator("tcg", "")),
        image_files=lambda: (files / "image", files / "base"),
        disk_files=lambda folder: [folder / "disk1.qcow2"],
        network=SimpleNamespace(kind=kind, restrict=restrict, host_ports=doors),
        reachable=reachable, shares=shares, paused=paused,
    )  # fmt: skip
    drives = Drives(files / "vm/overlay", None, (files / "code", files / "vm/variables"))
    ends = SimpleNamespace(
        boots=BootFiles(files / "kernel", files / "initrd", drives),
        ram=Ram(files / "template/ram", share=share),
        capture=files / "vm/packets.pcap",
        channels=SimpleNamespace(console=files / "vm/console.log"),
    )
    place = Place(files / "vm", files, files, (files / "template/root",))
    return walls.around_qemu(plan, ends, place)


def run(confinement, script, tmp_path):
    """Return what a shell says that is confined so."""
    log = tmp_path / "log"
    child = spawn("sh", ["sh", "-c", script], log=log, confinement=confinement)
    child.wait(30)
    child.kill()
    said = log.read_text()
    log.unlink()
    return said


def able(confinement, action, paths, tmp_path):
    """Return the names of those that a confined shell can do this with."""
    tries = [
        f"({action.format(shlex.quote(str(path)))}) 2>/dev/null && echo {name}"
        for name, path in paths.items()
    ]
    return set(run(confinement, "; ".join([*tries, ":"]), tmp_path).split())


def every(files):
    found = [path for path in files.rglob("*") if path.is_file()]
    return {str(path.relative_to(files)): path for path in found}


NEW, OLD = Qemu("qemu", (10, 0, 0), ""), Qemu("qemu", (7, 2, 0), "")
ANY = {"tcp", "udp", "unix"}
OWN = {
    f"vm/{name}"
    for name in ("overlay", "console.log", "packets.pcap", "screen.png", "handshake.pcap")
}
VMS = {"kernel", "initrd", "image", "base", "code", "template/root", "template/ram", *OWN}


@pytest.mark.parametrize("version", [(7, 2, 0), (8, 1, 9), (8, 2, 0), (10, 0, 0)])
@pytest.mark.parametrize("share", [False, True])
def test_a_qemu_reads_its_vms_files_and_writes_its_own(files, tmp_path, version, share):
    qemu = Qemu(find_qemu().path, version, "")
    kept = walled(files, qemu=qemu, share=share)
    assert able(kept, "cat {} >&2", every(files), tmp_path) == VMS
    writes = able(kept, ": >>{}", every(files), tmp_path)
    # Before 8.2 it opens to write what it only reads; see `template` for that.
    ram = set() if version >= (8, 2, 0) and not share else {"template/ram"}
    assert writes == {*OWN, *ram}
    assert able(kept, "rm -f {}", every(files), tmp_path) == set()


def test_in_its_vms_folder_it_makes_nothing_that_leads_us_elsewhere(files, tmp_path):
    kept = walled(files, reachable=True)
    places = {name: files / name / "new" for name in ("vm", "template", "home")}
    secret = shlex.quote(str(files / "home/secret"))
    for action in (
        ": >{}", "ln -s /etc/passwd {}", f"ln {secret} {{}}", "mkfifo {}", "mkdir {}",
        f"mv {secret} {{}}", f"mv {shlex.quote(str(files / 'vm/console.log'))} {{}}",
    ):  # fmt: skip
        assert able(kept, action, places, tmp_path) == set()
    for action in ("chmod 777 {}", "touch -m -t 200001010000 {}"):
        assert able(kept, action, every(files), tmp_path) == set()


def test_a_folder_that_is_shared_is_read_or_written_and_no_other_is(files, tmp_path):
    folders = {name: files / name for name in ("read", "written", "none")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "file").write_text("")
    shares = [
        Share(files / "read", "/r", readonly=True, by="9p", tag="share0"),
        Share(files / "written", "/w", readonly=False, by="9p", tag="share1"),
    ]
    kept = walled(files, shares=shares)
    reads = "cat {0}/file >&2 && ls {0} >&2"
    assert able(kept, reads, folders, tmp_path) == {"read", "written"}
    moves = "mv {0}/file {0}/moved && mv {0}/moved {0}/file"
    for action in (": >>{}/file", ": >{}/new", "mkdir {}/sub", moves, "rm {}/new"):
        assert able(kept, action, folders, tmp_path) == {"written"}
    for action in ("ln -s /etc/passwd {}/link", "mkfifo {}/pipe", "mknod {}/null c 1 3"):
        assert able(kept, action, folders, tmp_path) == set()
    assert sorted(one.name for one in (files / "written").iterdir()) == ["file", "sub"]


def test_who_may_write_makes_no_file_that_runs_as_its_owner_and_changes_no_mode(files, tmp_path):
    folder = files / "written"
    folder.mkdir()
    (folder / "file").write_text("")
    (folder / "file").chmod(0o640)
    (files / "home" / "secret").chmod(0o600)
    code = """
        made = os.O_CREAT | os.O_WRONLY
        for mode in (0o4755, 0o2755, 0o755):
            attempt(f"open {mode:o}", lambda: os.open(f"{folder}/{mode:o}", made, mode))
            attempt(f"mknod {mode:o}", lambda: os.mknod(f"{folder}/m{mode:o}", mode | stat.S_IFREG))
            attempt(f"unnamed {mode:o}", lambda: os.open(folder, os.O_TMPFILE | os.O_WRONLY, mode))
        attempt("read", lambda: os.open(f"{folder}/file", os.O_RDONLY, 0o4755))
        attempt("chmod", lambda: os.chmod(f"{folder}/file", 0o4777))
        attempt("fchmod", lambda: os.fchmod(os.open(f"{folder}/file", os.O_RDWR), 0o4777))
        attempt("times", lambda: os.utime(f"{folder}/file", (0, 0)))
        attempt("others", lambda: os.chmod(secret, 0o777))
        attempt("chown", lambda: os.chown(f"{folder}/file", 7, 7))
        attempt("attribute", lambda: os.setxattr(f"{folder}/file", "user.x", b""))
    """
    kept = walled(files, shares=[Share(folder, "/w", readonly=False, by="9p", tag="share0")])
    walls = replace(kept.walls, read=tuple(kept.walls.read) + PYTHON)
    secret = files / "home" / "secret"
    said = tries(replace(kept, walls=walls), tmp_path, code, folder=str(folder), secret=str(secret))
    refused = {name for name, what in said.items() if what == "EPERM"}
    owners = {f"{what} {mode}" for what in ("open", "mknod", "unnamed") for mode in (4755, 2755)}
    assert refused == {*owners, "chown", "attribute"}
    assert set(said.values()) == {"EPERM", "done"}, said
    # What says that it was done is not.
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o640
    assert (folder / "file").stat().st_mtime > 1
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(one.name for one in folder.iterdir()) == ["755", "file", "m755"]


def test_of_the_host_it_reads_programs_and_no_secrets(files, tmp_path):
    paths = {
        name: Path(name) for name in ("/etc/passwd", "/etc/hostname", "/proc/1/cmdline", __file__)
    }
    assert able(walled(files), "cat {} >&2", paths, tmp_path) == set()
    assert (
        able(walled(files), "ls {} >&2", {"/root": Path.home(), "/": Path("/")}, tmp_path) == set()
    )


def test_a_script_as_qemu_may_run_anything_and_has_no_walls(files, tmp_path):
    script = tmp_path / "my-qemu-system-x86_64"
    script.write_text('#!/bin/sh\nexec qemu-system-x86_64 "$@"\n')
    script.chmod(0o755)
    assert walled(files, qemu=Qemu(str(script), (10, 0, 0), "")) is None


def test_without_landlock_it_has_none_either(files, unwalled):
    assert walled(files) is None


@pytest.mark.parametrize(
    ("kind", "restrict", "reachable", "binds", "connects", "refused"),
    [
        ("usernet", True, False, True, False, {"connect", "udp", "unix"}),
        ("usernet", True, True, True, False, {"connect", "udp"}),
        ("usernet", False, False, True, True, {"unix"}),
        ("gvproxy", False, False, False, False, {"connect", "bind", "listen", *ANY}),
        ("gvproxy", False, True, False, False, {"connect", "tcp", "udp"}),
        ("none", True, False, False, False, {"connect", "bind", "listen", *ANY}),
    ],
)
def test_it_has_the_sockets_that_its_network_needs(
    files, kind, restrict, reachable, binds, connects, refused
):
    kept = walled(files, kind=kind, restrict=restrict, reachable=reachable)
    assert (kept.binds, kept.connects) == (binds, connects)
    assert set(kept.refused) == {seccomp.ATTRIBUTES, *refused}


@pytest.mark.parametrize(("kind", "restrict"), [("usernet", True), ("gvproxy", False)])
def test_it_connects_to_services_of_the_host_that_were_asked_for(files, kind, restrict):
    kept = walled(files, kind=kind, restrict=restrict, doors=((80, 8080),))
    assert kept.connects and not {"connect", "tcp"} & set(kept.refused)
    assert {"udp", "unix"} & set(kept.refused) == {"udp", "unix"}


@pytest.mark.parametrize("doors", [(), ((80, 8080),)])
def test_a_datagram_is_no_way_out_where_it_reaches_nothing(files, tmp_path, doors):
    """A connect is seen by a filter, and an address to send to is not."""
    code = """
        import socket as s
        for family in (s.AF_INET, s.AF_INET6):
            attempt(f"{family}", lambda: s.socket(family, s.SOCK_DGRAM))
        attempt("path", lambda: s.socket(s.AF_UNIX))
        s.socketpair()
    """
    kept = walled(files, doors=doors)
    opened = tuple(kept.walls.read) + PYTHON
    said = tries(replace(kept, walls=replace(kept.walls, read=opened)), tmp_path, code)
    assert said == dict.fromkeys(["2", "10", "path"], "EAFNOSUPPORT")


def test_a_qemu_that_can_maps_a_saved_memory_to_read_only():
    def backend(qemu, *, share):
        hardware = Hardware(qemu, Accelerator("tcg", ""), 128, 1)
        channels = SimpleNamespace(
            monitor_fd=0, control_fd=0, console=Path("c"), agent_fd=None, sockets=None
        )
        command = build_command(
            hardware, [], channels, kernel=Path("k"), initrd=None, kernel_words="",
            ram=Ram(Path("ram"), share=share),
        )  # fmt: skip
        return next(word for word in command if word.startswith("memory-backend-file"))

    assert "readonly=on,rom=off" in backend(NEW, share=False)
    assert "readonly" not in backend(NEW, share=True) + backend(OLD, share=False)


def test_what_a_qemu_needs_holds_its_libraries_and_its_firmware(files, tmp_path):
    qemu = find_qemu().path
    needed = program_files.needed_by(qemu, asks=True)
    folders = subprocess.check_output([qemu, "-L", "help"], text=True).split()
    firmware = {str(path): path for place in folders for path in Path(place).glob("*bios*.bin")}
    assert firmware and able(walled(files), "cat {} >/dev/null", firmware, tmp_path) == {*firmware}
    assert "emulator version" in run(walled(files), f"{qemu} --version", tmp_path)
    # Nothing twice, for each costs a rule.
    assert not [one for one in needed if any(above in needed for above in one.parents)]
    assert not {Path("/"), Path("/etc"), Path("/usr"), Path("/proc"), Path.home()} & set(needed)


def test_a_qemu_that_is_denied_a_file_tells_of_its_walls():
    def told(said):
        qemu = SimpleNamespace(returncode=1, output=said, command=["qemu"])
        vitals = SimpleNamespace(qemu=qemu)
        error = failures.not_started(vitals, None)
        assert isinstance(error, LaunchError)
        return str(error)

    for said in (
        "qemu: -netdev x: Permission denied", "qemu: could not load PC BIOS 'bios-256k.bin'",
        "qemu: error while loading shared libraries: libx.so: cannot open shared object file",
    ):  # fmt: skip
        assert "Landlock keeps QEMU to its own files" in told(said)
    assert "Landlock" not in told("qemu: -m 1: invalid")

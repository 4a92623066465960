"""What a guest that has taken over its QEMU gets of the host: its VM's own files, and no more.

Such a guest does what QEMU can do. QEMU's monitor can be told to open, write, make and remove files
by name, so it stands for that guest here.
"""

from __future__ import annotations

import socket

import pytest
from vm_helpers import GUEST, SHELL_PORT, WIRINGS, ask_tcp, fixed_port, host_service

from pytest_vmports.errors import MonitorError
from pytest_vmports.system import landlock
from pytest_vmports.vm.argv import PICTURE

SECRET = b"a secret of the host\n" * 100


def chardev(kind, **data):
    return {"id": "x", "backend": {"type": kind, "data": data}}


def unix(path):
    return {"type": "unix", "data": {"path": str(path)}}


def inet(port):
    return {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}


def readers(secret):
    """Return what reads a file, as commands of the monitor."""
    yield "blockdev-add", {
        "driver": "file", "filename": str(secret), "node-name": "x", "read-only": True,
    }  # fmt: skip
    yield "blockdev-add", {
        "driver": "raw", "node-name": "x", "file": {"driver": "file", "filename": str(secret)},
    }  # fmt: skip
    yield "blockdev-add", {
        "driver": "vvfat", "dir": str(secret.parent), "node-name": "x", "read-only": True,
    }  # fmt: skip
    yield "chardev-add", chardev("file", **{"in": str(secret), "out": "/dev/null"})
    yield "object-add", {
        "qom-type": "memory-backend-file", "id": "x", "size": 4096, "mem-path": str(secret),
    }  # fmt: skip
    yield "object-add", {"qom-type": "secret", "id": "x", "file": str(secret)}


def writers(outside):
    """Return what makes, changes or removes a file, as commands of the monitor."""
    whole = {"val": 0, "size": 4096, "filename": str(outside)}
    yield "pmemsave", whole
    yield "memsave", whole
    yield "dump-guest-memory", {"paging": False, "protocol": f"file:{outside}"}
    yield "chardev-add", chardev("file", out=str(outside))
    # QEMU removes what lies where it is to listen.
    yield "chardev-add", chardev("socket", addr=unix(outside), server=True, wait=False)
    yield "nbd-server-start", {"addr": unix(outside)}
    yield "object-add", {
        "qom-type": "memory-backend-file", "id": "x", "size": 4096, "mem-path": str(outside),
        "share": True,
    }  # fmt: skip
    yield "blockdev-add", {"driver": "file", "filename": str(outside), "node-name": "x"}
    yield "human-monitor-command", {"command-line": f"logfile {outside}"}


def done(vm, command, arguments):
    """Tell the monitor something; return whether it did it, having undone it."""
    monitor = vm._machine.monitor
    try:
        if monitor.execute(command, **arguments):
            return False  # the human monitor's way to refuse
    except MonitorError:
        return False
    undo = {
        "blockdev-add": ("blockdev-del", {"node-name": "x"}),
        "chardev-add": ("chardev-remove", {"id": "x"}),
        "object-add": ("object-del", {"id": "x"}),
        "nbd-server-start": ("nbd-server-stop", {}),
    }
    if command in undo:
        name, given = undo[command]
        monitor.execute(name, **given)
    return True


@pytest.fixture(params=WIRINGS)
def vm(boot, request, missing):
    if problem := landlock.problem():
        missing("Landlock", problem)
    with boot(
        SHELL_PORT, 8080, "5353/udp", setup=GUEST, fresh_boot=False, **WIRINGS[request.param]
    ) as vm:
        assert vm.origin == "cloned"
        yield vm
        assert ask_tcp(vm, 8080, b"still served") == b"still served"


@pytest.mark.slow_as("gvproxy")
def test_a_qemu_that_was_taken_over_reads_and_writes_its_own_files_only(vm, tmp_path):
    secret, folder = tmp_path / "secret", vm._machine.workdir
    # Beside its own files lies what our programs go by.
    ours = folder / "ssh_config"
    for file in (secret, ours):
        file.write_bytes(SECRET)
    told = {
        where: [one for one in attacks if done(vm, *one)]
        for where, attacks in {
            "secret": [*readers(secret), *writers(secret)],
            "ours": [*readers(ours), *writers(ours)],
            "new": [*writers(tmp_path / "new"), *writers(folder / "new")],
            "neighbour": writers(folder.parent / "new"),
            "hosts": readers(tmp_path.__class__("/etc/passwd")),
        }.items()
    }
    assert told == {"secret": [], "ours": [], "new": [], "neighbour": [], "hosts": []}
    assert secret.read_bytes() == ours.read_bytes() == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert not (folder.parent / "new").exists()
    assert not (folder / "new").exists()
    # The same with a file of its own: so it is the place that is refused.
    for attacks in (readers, writers):
        assert [one for one in attacks(folder / PICTURE) if done(vm, *one)]


def test_a_qemu_that_was_taken_over_connects_to_nothing(vm, tmp_path, monkeypatch):
    heard = []
    monkeypatch.chdir(tmp_path)  # its whole path may be too long
    with (
        host_service(lambda connection: heard.append(connection.recv(100))) as port,
        socket.socket(socket.AF_UNIX) as docker,
    ):
        docker.bind("docker.sock")
        docker.listen()
        for there in (inet(port), unix(tmp_path / "docker.sock")):
            assert not done(vm, "chardev-add", chardev("socket", addr=there, server=False))
        docker.setblocking(False)
        with pytest.raises(BlockingIOError):
            docker.accept()
    assert heard == []
    if "gvproxy" in vm.pids:  # else it binds the forwards itself
        port = fixed_port()
        server = chardev("socket", addr=inet(port), server=True, wait=False)
        assert not done(vm, "chardev-add", server)
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


@pytest.mark.slow
def test_without_landlock_it_would(boot, unwalled, tmp_path):
    with boot(SHELL_PORT, 8080, "5353/udp", setup=GUEST, fresh_boot=False) as vm:
        (tmp_path / "secret").write_bytes(SECRET)
        read = [one for one in readers(tmp_path / "secret") if done(vm, *one)]
        wrote = [one for one in writers(tmp_path / "secret") if done(vm, *one)]
    assert len(read) > 2 and len(wrote) > 3
    assert (tmp_path / "secret").read_bytes() != SECRET

"""What a process listens on, against sockets of our own and what psutil makes of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from ast import literal_eval

import pytest

from pytest_vmports.system import listeners, proc

PROGRAM = """
import socket, sys
def at(family, kind, address, listens):
    one = socket.socket(family, kind)
    one.bind(address)
    if listens: one.listen()
    return one
path = sys.argv[1]
kept = [
    at(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), True),
    at(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0), True),
    at(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0), True),
    at(socket.AF_INET6, socket.SOCK_STREAM, ("::", 0), True),
    at(socket.AF_INET, socket.SOCK_DGRAM, ("127.3.2.1", 0), False),
    at(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 0), False),
]
others = [
    at(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), False),
    at(socket.AF_UNIX, socket.SOCK_STREAM, path + " quiet", False),
    socket.create_connection(kept[0].getsockname()),
    socket.socket(type=socket.SOCK_DGRAM),
]
others[-1].connect(("127.0.0.1", 9))
unix = [at(socket.AF_UNIX, socket.SOCK_STREAM, name, True) for name in (path, path + " blank ")]
unix += [at(socket.AF_UNIX, socket.SOCK_SEQPACKET, "\\0no folder", True)]
print(*(one.getsockname()[:2] for one in kept), sep=";", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path):
    """Return a process with sockets of every kind, and the path of one."""
    path = str(tmp_path / "one.sock")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        names = process.stdout.readline().decode().split(";")
        kinds = ["tcp"] * 4 + ["udp"] * 2
        yield (
            process,
            path,
            {(kind, *literal_eval(name)) for kind, name in zip(kinds, names, strict=True)},
        )
        process.stdin.close()


def test_it_is_all_that_others_reach_and_nothing_else(child):
    process, path, ports = child
    found = listeners.of(process.pid)
    unix = {place for place in found if place[0] == "unix"}
    assert unix == {("unix", path, 0), ("unix", f"{path} blank ", 0), ("unix", "@no folder", 0)}
    assert found - unix == ports


def test_of_a_process_that_has_ended_nothing_is_known(child):
    process, *_ = child
    process.kill()
    process.wait()
    assert listeners.of(process.pid) is None and proc.sockets(process.pid) is None


def test_a_table_of_lines_that_nobody_knows_tells_nothing(monkeypatch, tmp_path):
    """Faked: what another kernel's tables may look like."""
    pid = os.getpid()
    (tmp_path / f"{pid}" / "net").mkdir(parents=True)
    (tmp_path / f"{pid}" / "fd").mkdir()
    (tmp_path / f"{pid}" / "fd" / "3").symlink_to("socket:[77]")
    for name in ("tcp", "udp6", "unix"):
        (tmp_path / f"{pid}" / "net" / name).write_bytes(b"head\n\n0: x\n\xff\0 1 2 3\n")
    monkeypatch.setattr(proc, "PROC", tmp_path)
    assert listeners.of(pid) == set()
    table = "head\n 0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 00 0 0 77 1\n"
    (tmp_path / f"{pid}" / "net" / "tcp").write_text(table)
    assert listeners.of(pid) == {("tcp", socket.inet_ntoa(b"\x7f\0\0\1"), 8080)}

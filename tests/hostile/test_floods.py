"""Little that becomes much: what unpacks to gigabytes, is told without end, or is opened again."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import threading

import pytest
from newc import read_newc
from vm_helpers import until

from pytest_vmports import Guest
from pytest_vmports.errors import ImageError, MonitorError, SettingError
from pytest_vmports.guests import image as disk
from pytest_vmports.guests import initramfs, initrd
from pytest_vmports.guests.hopeless import refuse
from pytest_vmports.guests.image import Disk
from pytest_vmports.guests.initrd import has_busybox
from pytest_vmports.system import probing
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.process import spawn
from pytest_vmports.vm import qmp_thread
from pytest_vmports.vm.monitor import Monitor

MIB = 1 << 20
BUSYBOX = initramfs.archive([initramfs.file_entry("bin/busybox", b"x", 0o755)], alone=True)


def entry(size, name=b"big"):
    """Return the head of an archive's file, without its content."""
    numbers = (1, 0o100644, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name + b"\0"
    return head + bytes(-len(head) % 4)


def memory_of(script, path):
    """Return the most MiB that a Python takes for a script that works on a path."""
    words = f"""
        import pathlib, re, sys
        path = pathlib.Path(sys.argv[1])
        {textwrap.indent(script, " " * 8).strip()}
        print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(words), str(path)],
        check=True, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return int(done.stdout) >> 10


# --- an initrd ----------------------------------------------------------------------------------

PACKED = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


@pytest.mark.parametrize("kind", PACKED)
def test_an_initrd_that_unpacks_to_gigabytes_takes_little_memory_to_look_at(tmp_path, kind):
    """768 bytes of bzip2 took 2 GB."""
    path = tmp_path / "initrd"
    path.write_bytes(PACKED[kind](entry(100 * MIB) + bytes(100 * MIB) + BUSYBOX))
    ask = "from pytest_vmports.guests import initrd\nassert initrd.has_busybox(path) is True\n"
    assert memory_of(ask, path) < 80


ENDLESS = {
    "zeros": gzip.compress(bytes(2 * MIB)),
    "a large file": gzip.compress(entry(2 * MIB) + bytes(2 * MIB) + entry(0, b"TRAILER!!!")),
    "many files": entry(0) * 20_000,
    "many files of the wanted name": b"".join(
        entry(0, b"%d/busybox" % number) for number in range(20_000)
    ),
    "many archives": entry(0, b"TRAILER!!!") * 20_000,
    "many parts": gzip.compress(b"") * 20_000,
    "many parts of another kind": lzma.compress(b"") * 20_000,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_initrd_is_read_no_further_than_honest_ones_go(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(initrd, "_MOST_BYTES", MIB)
    monkeypatch.setattr(initrd, "_MOST_PARTS", 5000)
    (tmp_path / "initrd").write_bytes(ENDLESS[kind] + BUSYBOX)
    assert has_busybox(tmp_path / "initrd") is None


@pytest.mark.parametrize("kind", ENDLESS)
def test_one_that_is_shorter_is_read_to_its_end(tmp_path, kind):
    (tmp_path / "initrd").write_bytes(ENDLESS[kind] + BUSYBOX)
    assert has_busybox(tmp_path / "initrd") is True


def test_an_initrd_that_wants_gigabytes_to_be_unpacked_gets_none(tmp_path, monkeypatch):
    monkeypatch.setattr(initrd, "_MOST_MEMORY", MIB)
    (tmp_path / "initrd").write_bytes(lzma.compress(BUSYBOX, preset=9))  # 64 MiB
    assert has_busybox(tmp_path / "initrd") is None


@pytest.mark.parametrize("size", [511, 512, 513, (3 << 20) + 1])
def test_an_initrd_is_copied_in_pieces_and_padded(tmp_path, size, monkeypatch):
    monkeypatch.setattr(initramfs.host_files, "read", lambda *_: pytest.fail("it was read whole"))
    (tmp_path / "base").write_bytes(b"x" * size)
    initramfs.append(tmp_path / "base", BUSYBOX, tmp_path / "made")
    made = (tmp_path / "made").read_bytes()
    assert made[:size] == b"x" * size and not made[size : -len(BUSYBOX)].strip(b"\0")
    assert (len(made) - len(BUSYBOX)) % 512 == 0
    assert "bin/busybox" in read_newc(made[-len(BUSYBOX) :])


@pytest.mark.parametrize("of", ["kernel", "initrd", "kernel of a disk", "initrd of a disk"])
def test_a_kernel_or_initrd_of_holes_that_memory_cannot_hold_is_refused(tmp_path, of):
    """QEMU takes a kernel of 1.9 GB into the host's memory before it finds that out."""
    what = of.split()[0]
    paths = {name: tmp_path / name for name in ("kernel", "initrd", "disk")}
    for path in paths.values():
        path.write_bytes(b"x")
    os.truncate(paths[what], 300 * MIB)
    both = {"kernel": paths["kernel"], "initrd": paths["initrd"]}
    guest = Guest.disk(paths["disk"], **both) if "disk" in of else Guest.kernel(*both.values())
    with pytest.raises(SettingError, match=rf"{what} = .*has 300 MiB.*which is 256 MiB"):
        refuse(guest, (), 256, tmp_path)
    refuse(guest, (), 300, tmp_path)


# --- qemu-img -----------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, qemu_binary):
    """Return an image of 1 TiB of which each cluster is none: `qemu-img check` tells of each."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1T"], check=True)
    content = bytearray(path.read_bytes())
    (entries,) = struct.unpack_from(">I", content, 36)
    (table,) = struct.unpack_from(">Q", content, 40)
    content += bytes(-len(content) % 65536)
    content[table : table + 8 * entries] = struct.pack(">Q", len(content) | 1 << 63) * entries
    content += struct.pack(">Q", 0x5000001 | 1 << 63) * 8192
    path.write_bytes(content)
    return path


def test_what_is_said_of_an_image_that_is_damaged_on_purpose_is_bounded(damaged):
    """It took 4.5 GB, and 137 s."""
    with pytest.raises(ImageError, match="it is truncated or damaged: ERROR"):
        disk.check(Disk(damaged), direct=True)
    check = """
        from pytest_vmports.errors import ImageError
        from pytest_vmports.guests import image
        try:
            image.check(image.Disk(path), direct=True)
        except ImageError:
            pass
    """
    assert memory_of(textwrap.dedent(check), damaged) < 120


@pytest.mark.parametrize("stream", [1, 2])
def test_a_program_that_says_too_much_is_ended_and_is_no_mishap_of_the_hosts(stream):
    answer = probing.ask(["sh", "-c", f"yes >&{stream}"], timeout=60, most=MIB)
    assert answer.code == -1 and MIB < len(answer.text) < 2 * MIB
    assert answer.errors.startswith("y\n" if stream == 2 else "it says more than 1048576 bytes")


def test_a_header_of_extensions_alone_is_refused(tmp_path, qemu_binary):
    path = tmp_path / "disk.qcow2"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "1M"]
    subprocess.run(words, check=True)
    with path.open("r+b") as file:
        file.seek(104)
        file.write(struct.pack(">II", 0x12345678, 0) * 200_000)
    with pytest.raises(ImageError, match="more extensions than any image"):
        Disk(path).chain()


# --- QEMU's events ------------------------------------------------------------------------------

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}, "capabilities": []}}
EVENTS = 20_000


class FakeQemu:
    """Answers each command; before the answer to ``stop`` it tells of events."""

    def __init__(self, event):
        self.ours, self._end = socket.socketpair()
        self._event, self.heard_out = event, True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _say(self, value, times=1):
        self._end.sendall((json.dumps(value) + "\n").encode() * times)

    def _serve(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), self._end:
            self._say(GREETING)
            # One command at a time, each in one piece, and without a newline.
            while asked := json.loads(self._end.recv(65536) or b"{}"):
                if asked["execute"] == "stop":
                    self.heard_out = False
                    for _ in range(EVENTS // 100):
                        told = {"timestamp": {"seconds": 1, "microseconds": 1}, "data": {}}
                        self._say({"event": self._event, **told}, 100)
                    self.heard_out = True
                self._say({"return": {}, **{name: asked[name] for name in asked if name == "id"}})

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def connected():
    """Return a function that makes a fake QEMU, and its monitor."""
    with contextlib.ExitStack() as stack:

        def connect(event):
            qemu = FakeQemu(event)
            monitor = Monitor(qemu.ours)
            stack.callback(qemu.join)
            stack.callback(monitor.close)
            assert monitor.connect(30)
            return monitor, qemu

        yield connect


@pytest.mark.parametrize("event", ["GUEST_CRASHLOADED", "ACPI_DEVICE_OST", "x" * 1000, "\x1b]0;"])
def test_events_without_end_cost_a_guest_its_monitor_and_nobody_else(connected, event):
    """They took a gigabyte a minute here, and kept the monitors of all other VMs from answering."""
    monitor, qemu = connected(event)
    other, _ = connected("STOP")
    for _ in range(2):
        with pytest.raises(MonitorError, match="more than 1000 events within 10 s") as caught:
            monitor.execute("stop")
        assert event[:20].replace("\x1b", "\\x1b") in str(caught.value)
        assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    until(lambda: qemu._end.fileno() == -1, 60, "its end of the connection is still open")
    assert not qemu.heard_out
    assert other.execute("query-status") == {}


def test_events_are_not_remembered_but_for_the_first_of_few_kinds(connected):
    monitor, _ = connected("RESUME")
    assert monitor.execute("stop") == {}
    client = monitor._client
    assert sum(len(one.history) for one in client._listeners) == 0
    assert sum(one._queue.qsize() for one in client._listeners) == 0


def test_events_that_come_now_and_then_are_no_flood(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(qmp_thread.clock, "now", lambda: now[0])
    guard = qmp_thread.FloodGuard()
    for _ in range(10_000):
        now[0] += 0.5
        assert guard({"event": "RTC_CHANGE"}) is False
    assert guard.tripped == ""


# --- descriptors --------------------------------------------------------------------------------


def test_a_confined_child_opens_no_more_sockets_than_its_guest_may_have(tmp_path):
    """Each connection of a guest takes some 170 KB of gvproxy's memory, and 270 KB of QEMU's."""
    child = spawn("it", ["sleep", "60"], log=tmp_path / "log", confinement=Confinement())
    try:
        soft, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        assert soft <= hard <= 4096
    finally:
        child.kill()

"""What is made of QEMU's dump; the dumps themselves are real in test_vm_pvpanic.py."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import MonitorError
from pytest_vmports.vm.crash_dump import CrashDump, make_readable

HEADER = b"KDUMP   " + struct.pack("<i", 6) + b"\0" * 65 * 4 + b"x86_64".ljust(130, b"\0")
NOTES = b"OSRELEASE=6.18.1-virt\nKERNELOFFSET=0\n"


def flat(*pieces):
    """Return a stream of pieces as QEMU before 8.2 writes it."""
    texts = [struct.pack(">qq", place, len(data)) + data for place, data in pieces]
    end = struct.pack(">qq", -1, -1)
    return b"".join([b"makedumpfile".ljust(4096, b"\0"), *texts, end])


@pytest.mark.parametrize(
    "written",
    [HEADER.ljust(4096, b"\0") + NOTES, flat((4096, NOTES), (0, HEADER))],
    ids=["whole", "stream"],
)
def test_a_dump_becomes_what_readers_open(tmp_path, written):
    file = tmp_path / "vmcore"
    file.write_bytes(written)
    make_readable(file)
    made = file.read_bytes()
    names = [made[12 + 65 * n :][:65].rstrip(b"\0") for n in range(5)]
    assert names == [b"Linux", b"vmports", b"6.18.1-virt", b"unknown", b"x86_64"]
    assert made[4096:] == NOTES
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("written", [b"", b"\x7fELF" + b"\0" * 100, b"KDUMP   \0\0\0\0Linux"])
def test_what_needs_nothing_stays_as_it_is(tmp_path, written):
    file = tmp_path / "vmcore"
    file.write_bytes(written)
    make_readable(file)
    assert file.read_bytes() == written


def test_a_stream_that_was_cut_is_no_dump(tmp_path):
    file = tmp_path / "vmcore"
    file.write_bytes(flat((0, HEADER))[:-16])
    with pytest.raises(OSError, match="has no end"):
        make_readable(file)
    assert list(tmp_path.iterdir()) == [file]


def vitals(dump, *, panic="why", running=True):
    monitor = SimpleNamespace(dump=dump)
    return SimpleNamespace(
        qemu=SimpleNamespace(running=running), monitor=monitor, panic=panic, failed=None
    )


def test_a_dump_is_taken_once_and_of_a_crashed_guest_only(tmp_path):
    taken = []
    dump = CrashDump(tmp_path / "vmcore")
    dump.take(vitals(lambda *_: taken.append("no"), panic=None))
    for _ in range(2):
        dump.take(vitals(lambda *_: taken.append("yes")))
    assert taken == ["yes"] and dump.problem == ""


def test_nothing_is_dumped_where_that_is_not_wanted():
    CrashDump(None).take(vitals(lambda *_: pytest.fail("it was")))


def test_a_dump_that_fails_is_told_and_leaves_no_file(tmp_path):
    def refuse(_file, _seconds):
        raise MonitorError(command="dump-guest-memory", reply="no")

    dump = CrashDump(tmp_path / "vmcore")
    dump.take(vitals(refuse))
    assert "refused 'dump-guest-memory': no" in dump.problem
    assert list(tmp_path.iterdir()) == []
    gone = CrashDump(tmp_path / "vmcore")
    gone.take(vitals(refuse, running=False))
    assert gone.problem.startswith("QEMU had ended")

"""Copies of any size in little memory: all that is read and sent goes piece by piece."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import subprocess
import tarfile
import tracemalloc
import warnings
from types import SimpleNamespace

import pytest
from folded import folded
from host_shell import HostShell
from tars import END, Guest, file, folder, head
from trees import lay

from pytest_vmports.errors import (
    CommandTimeoutError,
    CopyTimeoutError,
    GuestFileError,
    GuestFileWarning,
)
from pytest_vmports.system import patience, tools
from pytest_vmports.vm.inside import copying, moved, pack
from pytest_vmports.vm.inside.pack import Pack
from pytest_vmports.vm.inside.shell import RunnerShell

MIB = 1 << 20
MOST = 64 * MIB
LARGE = 200 * MIB


@contextlib.contextmanager
def in_little_memory():
    """See that what is done needs no more than that at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST


class Swallows:
    """A guest that takes whatever it is sent, and counts it."""

    def __init__(self):
        self.taken = []

    def execute(self, command, *, timeout, input, sink, per_progress):  # noqa: A002
        self.taken.append(sum(map(len, input)))
        return 0, b"", b""


class ByTools(RunnerShell):
    """The host's shell, reached as ssh is."""

    def __init__(self):
        super().__init__(self)

    def run(self, command, *, timeout, input, sink, most, per_progress):  # noqa: A002
        words = ["sh", "-c", command.encode("utf-8", "surrogateescape")]
        try:
            done = tools.run(
                words, input=input, timeout=timeout, takers=(sink.out, sink.err), most=most,
                per_progress=per_progress,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(cmd=command, timeout=timeout, output="", stderr="") from None
        sink.out(done.stdout)
        sink.err(done.stderr)
        return done.returncode, b"", b""


@pytest.fixture
def large(tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as content:
        content.write(b"begin")
        content.truncate(LARGE)
        content.seek(LARGE - 3)
        content.write(b"end")
    return source


def test_a_file_of_any_size_goes_in_with_little_memory(large, tmp_path):
    guest = Swallows()
    with in_little_memory():
        copying.put(guest, large, "/srv/", 60)
    assert LARGE < guest.taken[1] < LARGE + 4096


def test_a_file_of_any_size_comes_out_with_little_memory(tmp_path):
    def pieces():
        yield head("app", size=LARGE)
        yield from itertools.repeat(bytes(MIB), LARGE // MIB)
        yield END

    guest = Guest()
    guest.pieces = pieces()
    with in_little_memory():
        copying.get(guest, "/srv/app", tmp_path / "out", 60)
    assert (tmp_path / "out").stat().st_size == LARGE


def test_the_way_through_a_program_needs_little_memory_either(large, tmp_path):
    with in_little_memory():
        copying.put(ByTools(), large, f"{tmp_path}/in", 60)
        copying.get(ByTools(), str(large), tmp_path / "out", 60)
    for copy in (tmp_path / "in", tmp_path / "out"):
        with copy.open("rb") as content:
            assert content.read(5) == b"begin"
            assert content.seek(-3, os.SEEK_END) == LARGE - 3 and content.read() == b"end"


def test_many_files_need_little_memory(tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1000):
        (source / f"{number}").write_bytes(bytes(80_000))
    guest = Swallows()
    with in_little_memory():
        copying.put(guest, source, "/srv/", 60)
    assert guest.taken[1] > 1000 * 80_000


def chunks_of(source):
    packed = Pack(source)
    packed.check()
    return packed, packed.chunks(source.name)


def read_back(chunks):
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        return {
            member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive
        }


def test_a_large_file_goes_in_few_large_chunks_and_small_ones_together(tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(5 * MIB))
    sizes = [len(chunk) for chunk in chunks_of(tmp_path / "large")[1]]
    assert len(sizes) < 10 and max(sizes) == MIB
    lay(tmp_path / "small", {b"%d" % number: b"x" for number in range(100)})
    assert len(list(chunks_of(tmp_path / "small")[1])) == 1


SIZES = (0, 1, 511, 512, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7)


@folded("size", SIZES)
def test_a_file_of_each_size_is_in_its_archive(tmp_path_factory, size):
    source = tmp_path_factory.mktemp("sizes") / "file"
    source.write_bytes(os.urandom(size))
    assert read_back(chunks_of(source)[1]) == {"file": source.read_bytes()}


def test_a_file_that_grows_is_taken_as_long_as_it_was(tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"x" * 3 * MIB)
    packed, chunks = chunks_of(source)
    first = next(chunks)
    with source.open("ab") as content:
        content.write(b"y" * MIB)
    assert read_back([first, *chunks]) == {"file": b"x" * 3 * MIB}
    assert packed.shortened == []


def test_a_file_that_shrinks_is_filled_up_and_named(tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"x" * 3 * MIB)
    packed, chunks = chunks_of(source)
    first = next(chunks)
    os.truncate(source, 3 * MIB // 2)
    found = read_back([first, *chunks])["file"]
    assert len(found) == 3 * MIB and found.strip(b"\0") == b"x" * (3 * MIB // 2)
    assert packed.shortened == [str(source)]


def test_what_became_shorter_is_told_when_it_is_copied(tmp_path, monkeypatch):
    source = tmp_path / "file"
    source.write_bytes(b"x" * 3 * MIB)
    head_of = pack._head

    def shrinks(entry):
        os.truncate(source, 10)
        return head_of(entry)

    monkeypatch.setattr(pack, "_head", shrinks)
    with pytest.warns(GuestFileWarning, match="file became shorter meanwhile: zeros follow"):
        copying.put(HostShell(), source, str(tmp_path / "in"), 60)


def test_a_large_file_whose_size_says_nothing_is_read_first(tmp_path, monkeypatch):
    source = tmp_path / "file"
    source.write_bytes(content := os.urandom(3 * MIB + 5))
    asked = os.fstat

    def fstat(number):
        found = asked(number)
        return os.stat_result((*found[:6], 0, *found[7:]))

    monkeypatch.setattr(os, "fstat", fstat)
    assert read_back(chunks_of(source)[1]) == {"file": content}


def test_a_file_that_goes_before_it_is_sent_says_that_part_may_be_there(tmp_path):
    lay(tmp_path / "source", {b"a": b"x" * 100, b"b": b"y"})

    class Loses(HostShell):
        def execute(self, command, **words):
            if len(self.asked) == 1:
                (tmp_path / "source" / "b").unlink(missing_ok=True)
                os.symlink("nowhere", tmp_path / "source" / "b")
            return super().execute(command, **words)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copying.put(Loses(), tmp_path / "source", str(tmp_path / "in"), 60)  # a link by now
    (tmp_path / "source" / "b").unlink()
    (tmp_path / "source" / "b").write_text("y")
    opened, seen = os.open, []

    def gone(path, *words, **more):
        if os.fspath(path).endswith("/b") and (seen.append(1) or len(seen)) > 1:
            raise FileNotFoundError(2, "No such file or directory")
        return opened(path, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", gone)
        with pytest.raises(GuestFileError, match=r"b on the host cannot be .*part of it may be in"):
            copying.put(ByTools(), tmp_path / "source", str(tmp_path / "more"), 60)


def test_an_input_that_fails_ends_the_program_that_reads_it():
    def fails():
        yield b"x"
        raise GuestFileError("gone")

    with pytest.raises(GuestFileError, match="gone"):
        tools.run(["sh", "-c", "cat >/dev/null; sleep 600"], input=fails(), timeout=None)


def test_chunks_are_taken_as_they_are_read_and_no_more(tmp_path):
    taken = []

    def chunks():
        for number in range(1000):
            taken.append(number)
            yield bytes(MIB)

    done = tools.run(
        ["sh", "-c", "head -c 3000000 >/dev/null; echo over"], input=chunks(), timeout=60
    )
    assert done.stdout == b"over\n" and len(taken) < 10


def test_what_goes_on_may_take_longer_than_its_limit(monkeypatch):
    """A clock that goes on by a second whenever it is looked at; the limit is thirty."""
    seconds = itertools.count()
    monkeypatch.setattr(patience, "clock", SimpleNamespace(now=lambda: float(next(seconds))))
    script = "head -c 10000000 /dev/zero"
    assert len(tools.run(["sh", "-c", script], timeout=30, per_progress=True).stdout) == 10_000_000
    with pytest.raises(subprocess.TimeoutExpired):
        tools.run(["sh", "-c", script], timeout=30)
    chunks = itertools.repeat(bytes(1000), 5000)
    assert tools.run(["cat"], timeout=30, input=chunks, per_progress=True).returncode == 0


def test_a_copy_that_stands_still_is_ended_and_says_what_may_be_there(tmp_path):
    (tmp_path / "tar").write_text("#!/bin/sh\nhead -c 100000 >/dev/null; exec sleep 600\n")
    (tmp_path / "tar").chmod(0o755)
    (tmp_path / "file").write_bytes(bytes(3 * MIB))

    class Stalls(ByTools):
        def run(self, command, **words):
            return super().run(f"PATH='{tmp_path}':$PATH\n{command}", **words)

    with pytest.raises(CopyTimeoutError, match=r"part may be there, went on no further .* 2 s"):
        copying.put(Stalls(), tmp_path / "file", f"{tmp_path}/in/", 2)


# --- how far it is -------------------------------------------------------------------------------


def test_how_far_a_copy_is_is_told_in_megabytes(monkeypatch):
    seconds = iter([0.0, 10.0, 12.0, 12.0])
    monkeypatch.setattr(moved, "clock", SimpleNamespace(now=lambda: next(seconds)))
    copy = moved.Moved()
    copy.total = 500_000_000
    copy.add(120_000_000)
    assert copy.so_far() == "120 of 500 MB, 12 MB/s"
    copy.add(1_500_000)
    assert copy.so_far() == "122 of 500 MB, 0.8 MB/s"
    copy.total = None
    assert copy.so_far() == "122 MB, 0.0 MB/s"


def test_a_copy_counts_what_was_taken_and_what_has_come(tmp_path):
    (tmp_path / "file").write_bytes(bytes(MIB))
    far = moved.Moved()
    copying.put(Swallows(), tmp_path / "file", "/srv/", 60, moved=far)
    assert far.total is not None and MIB < far.total <= far.done < MIB + 4096
    far = moved.Moved()
    guest = Guest(folder(), file("app/one", bytes(MIB)), END)
    copying.get(guest, "/srv/app", tmp_path / "out", 60, moved=far)
    assert far.total is None and far.done > MIB

"""What tells a file's content from another's: the same wherever it lies, read once."""

from __future__ import annotations

import os

import pytest

from pytest_vmports.system import digests, remembered
from pytest_vmports.system.digests import content_digest

MIB = 1 << 20


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """Notes of this test's own, and none in memory."""
    monkeypatch.setattr(remembered, "default_base", lambda kind: tmp_path / "notes" / kind)
    (tmp_path / "notes").mkdir()
    digests._digest_of.cache_clear()


def written(path, *pieces, size=None):
    with path.open("wb") as file:
        for at, piece in pieces:
            file.seek(at)
            file.write(piece)
        file.truncate(size)
    return path


def test_it_is_of_the_content_and_neither_of_name_nor_time_nor_holes(tmp_path):
    one = written(tmp_path / "one", (0, b"a" * MIB), (5 * MIB + 3, b"b"), size=9 * MIB)
    other = tmp_path / "sub" / "other"
    other.parent.mkdir()
    other.write_bytes(one.read_bytes())  # with zeros that are written
    os.utime(other, (1, 1))
    assert other.stat().st_blocks > one.stat().st_blocks
    assert content_digest(one) == content_digest(other)


DIFFERENT = {
    "nothing": [], "one byte": [(0, b"a")], "another": [(0, b"b")], "a zero behind": [(0, b"a\0")],
    "elsewhere": [(MIB, b"a")], "far": [(5 * MIB, b"a")], "both": [(0, b"a"), (5 * MIB, b"a")],
    "swapped": [(0, b"ab"), (5 * MIB, b"a")],
}  # fmt: skip


def test_no_two_contents_have_one(tmp_path):
    found = {content_digest(written(tmp_path / name, *what)) for name, what in DIFFERENT.items()}
    found |= {content_digest(written(tmp_path / f"{n}", size=n * MIB)) for n in range(1, 4)}
    assert len(found) == len(DIFFERENT) + 3


def test_a_large_file_is_read_once_by_all_processes_until_it_changes(tmp_path, monkeypatch):
    path = written(tmp_path / "image", (0, b"x" * (5 * MIB)))
    read = []
    real = digests.digest_now
    monkeypatch.setattr(digests, "digest_now", lambda path: read.append(path) or real(path))
    first = content_digest(path)
    for _ in range(2):
        digests._digest_of.cache_clear()  # as another process has it
        assert content_digest(path) == first
    assert len(read) == 1
    written(path, (0, b"y" * (5 * MIB)))
    assert content_digest(path) != first and len(read) == 2


@pytest.mark.parametrize("odd", ['{"seen": 1}', "[", '"x"'])
def test_an_odd_note_is_read_anew(tmp_path, odd):
    path = written(tmp_path / "image", (0, b"x" * (5 * MIB)))
    first = content_digest(path)
    (note,) = (tmp_path / "notes").glob("*/*.json")
    note.write_text(odd)
    digests._digest_of.cache_clear()
    assert content_digest(path) == first

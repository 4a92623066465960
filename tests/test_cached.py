"""What tests make once and keep: whole or not at all, and not for ever."""

import os
import time

import pytest
from cached import CannotMakeError, cached

DAY = 86400


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-vmports-tests"


def writer(text):
    return lambda folder: (folder / "said").write_text(text)


def never(folder):
    pytest.fail(f"made again: {folder}")


def offline(folder):
    (folder / "said").write_text("half")
    raise CannotMakeError("the mirror does not answer")


def aged(folder, *, made=0.0, used=0.0):
    """Return a folder after it was made, and last used, so many days ago."""
    name, _, stamp = folder.name.rpartition("-")
    folder = folder.rename(folder.with_name(f"{name}-{int(stamp) - int(made * DAY)}"))
    os.utime(folder, (time.time(), time.time() - used * DAY))
    return folder


def test_what_was_made_serves_the_next_one_who_asks():
    folder = cached("it", b"source", writer("made"))
    assert cached("it", b"source", never) == folder
    assert (folder / "said").read_text() == "made"


def test_from_another_source_another_is_made():
    folder = cached("it", b"source", writer("made"))
    other = cached("it", b"another", writer("other"))
    assert [(f / "said").read_text() for f in (folder, other)] == ["made", "other"]


def test_one_that_is_half_made_never_counts(cache):
    with pytest.raises(CannotMakeError, match="does not answer"):
        cached("it", b"source", offline)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    folder = cached("it", b"source", writer("whole"))
    assert (folder / "said").read_text() == "whole"


def test_one_that_is_too_old_is_made_anew_and_stays_for_those_who_use_it():
    old = aged(cached("it", b"source", writer("old"), days=7), made=7.1)
    new = cached("it", b"source", writer("new"), days=7)
    assert [(f / "said").read_text() for f in (old, new)] == ["old", "new"]
    assert cached("it", b"source", never, days=7) == new


def test_without_a_limit_none_is_too_old():
    old = aged(cached("it", b"source", writer("old")), made=1000)
    assert cached("it", b"source", never) == old


def test_one_that_is_too_old_serves_when_it_cannot_be_made_anew(capsys):
    old = aged(cached("it", b"source", writer("old"), days=7), made=7.1)
    assert cached("it", b"source", offline, days=7) == old
    assert (old / "said").read_text() == "old"
    said = capsys.readouterr().err
    assert "the mirror does not answer" in said and "using what was made on" in said


def test_what_nobody_has_used_for_a_week_goes_and_only_that():
    unused = aged(cached("it", b"unused", writer("1")), made=30, used=7.1)
    used = aged(cached("it", b"used", writer("2")), made=30, used=1)
    another = aged(cached("another", b"", writer("3")), made=30, used=30)
    now = aged(cached("it", b"now", writer("4")), made=30, used=30)
    assert cached("it", b"now", never) == now
    assert [f.exists() for f in (unused, used, another, now)] == [False, True, True, True]

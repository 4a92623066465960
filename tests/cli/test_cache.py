"""``pytest-vmports cache export`` and ``import``: saved guests come to another machine."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from pytest_vmports.cli.main import main
from pytest_vmports.pool.template_store import TemplateStore

MIB = 1 << 20
SECRET = "0123456789abcdef"


def build(folder):
    (folder / "ram").write_bytes(bytes(MIB) + os.urandom(2 * MIB))
    for name in ("state", "console", "clock"):
        (folder / name).write_text(name)


def facts(name):
    return {"name": name, "qemu": ["7.2.9", "0" * 64], "wiring": "usernet", "memory": 256}


KEYS = {name: TemplateStore.key(facts(name)) for name in ("web", "db")}


@pytest.fixture
def cache(tmp_path, capsys, monkeypatch):
    """Return a function: ``pytest-vmports cache`` with some words, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words, there="cache"):
        status = main(["cache", *words, "--cache-dir", str(tmp_path / there)])
        out, errors = capsys.readouterr()
        return status, out.splitlines(), errors.splitlines()

    return run


@pytest.fixture
def two(tmp_path):
    store = TemplateStore(tmp_path / "cache", 1 << 30)
    for name in KEYS:
        store.get(facts(name), build, 1)
    store.close()


def names_in(tmp_path, there="other"):
    return {path.name for path in (tmp_path / there).iterdir() if path.is_dir()}


@pytest.mark.usefixtures("two")
def test_what_is_exported_is_imported_elsewhere(cache, tmp_path):
    assert cache("export", "all.tar")[0] == 0
    status, lines, errors = cache("import", "all.tar", there="other")
    assert (status, errors) == (0, []) and names_in(tmp_path) == {*KEYS.values()}
    assert {line.rpartition(" ")[2] for line in lines} == {*KEYS}
    for key in KEYS.values():
        ours, theirs = (tmp_path / place / key for place in ("cache", "other"))
        assert (ours / "ram").read_bytes() == (theirs / "ram").read_bytes()
    assert cache("list", there="other")[1][-1].startswith("2 templates in ")


@pytest.mark.usefixtures("two")
def test_one_is_exported_by_its_key_and_imported_once(cache, tmp_path):
    status, (line,), _ = cache("export", "one.tar", KEYS["db"], KEYS["db"])
    assert status == 0 and line.startswith("1 template in one.tar, ")
    assert cache("import", "one.tar", there="other")[1] == [f"{KEYS['db']}: imported, db"]
    assert cache("import", "one.tar", there="other")[1] == [f"{KEYS['db']}: is there already"]
    assert names_in(tmp_path) == {KEYS["db"]}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export"], "write list, clear, export FILE"),
        (["import"], "write list, clear, export FILE"),
        (["import", "a", "b"], "write list, clear, export FILE"),
        (["list", "a"], "write list, clear, export FILE"),
        (["export", "new.tar", "nonsense"], "no template has the key nonsense"),
        (["export", "there.tar"], "there.tar is there already"),
        (["export", "absent/new.tar"], "cannot be written: No such file"),
        (["import", "absent.tar"], "cannot be imported"),
        (["import", "there.tar"], "cannot be imported"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(cache, tmp_path, words, said):
    (tmp_path / "there.tar").write_text("mine" * 200)
    status, _, (error,) = cache(*words)
    assert status != 0 and said in error
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "there.tar"}
    assert (tmp_path / "there.tar").read_text() == "mine" * 200


@pytest.mark.usefixtures("two")
def test_one_that_is_damaged_is_not_exported_nor_what_was_asked_for_with_it(cache, tmp_path):
    (tmp_path / "cache" / KEYS["db"] / "ram").write_bytes(b"other")
    status, _, (error,) = cache("export", "all.tar")
    assert status == 1 and f"{KEYS['db']} is damaged" in error
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_an_empty_cache_has_nothing_to_export(cache, tmp_path):
    (tmp_path / "cache").mkdir()
    status, _, (error,) = cache("export", "new.tar")
    assert status != 0 and "no template is there" in error and not (tmp_path / "new.tar").exists()


@pytest.mark.usefixtures("two")
def test_with_a_secret_nothing_is_imported_that_another_has_signed(cache, tmp_path, monkeypatch):
    assert cache("export", "unsigned.tar", KEYS["web"])[0] == 0
    monkeypatch.setenv("VMPORTS_CACHE_STORE_SECRET", "env:MINE")
    monkeypatch.setenv("MINE", SECRET)
    assert cache("export", "signed.tar", KEYS["db"])[0] == 0
    status, (line,), _ = cache("import", "unsigned.tar", there="other")
    assert status == 1 and "left out, it is not signed" in line
    assert cache("import", "signed.tar", there="other")[0] == 0
    assert names_in(tmp_path) == {KEYS["db"]}
    monkeypatch.setenv("MINE", SECRET[::-1])
    status, (line,), _ = cache("import", "signed.tar", there="third")
    assert status == 1 and "signed with another secret" in line
    assert names_in(tmp_path, "third") == set()


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", ["../escaped.vmports", "x", f"{KEYS['web']}.vmports"])
def test_what_is_no_saved_guest_is_left_out(cache, tmp_path, name):
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 7
        tar.addfile(info, io.BytesIO(b"nothing"))
    status, (line,), _ = cache("import", "odd.tar", there="other")
    assert status == 1 and "left out" in line
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "other", "odd.tar"}
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_secret_that_is_none_is_refused_before_anything_is_read(cache, monkeypatch, secret):
    monkeypatch.setenv("VMPORTS_CACHE_STORE_SECRET", "env:MINE")
    monkeypatch.setenv("MINE", secret)
    status, _, errors = cache("import", "absent.tar")
    assert status == 1 and f"the variable MINE holds {len(secret)} bytes" in " ".join(errors)

"""The copy of a machine's own entry among apt's sources: mirror, options and keys stay."""

import shutil

import pytest
from apt_sources import write_entry

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.test/debian
Suites: old old-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://source.test/debian
Suites: other
Components: main

Enabled: no
Types: deb
URIs: http://disabled.test/debian
Suites: other
Components: main
"""
ONE_LINE = """\
deb-src http://source.test/debian old main
# deb http://comment.test/debian old main
deb [signed-by=/keys.gpg] http://mirror.test/debian old main contrib # and a comment
"""


@pytest.fixture
def machine(monkeypatch, tmp_path, missing):
    """Return a function that lets apt's sources be these."""
    if shutil.which("apt-config") is None:
        missing("apt-config", "these tests are for systems with apt")

    def having(name, text):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / name).write_text(text)
        config = f'Dir::Etc {{ SourceList "{tmp_path}/none"; SourceParts "{tmp_path}/parts"; }};\n'
        (tmp_path / "apt.conf").write_text(config)
        monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))

    return having


def test_a_paragraph_is_copied_with_another_suite(machine, tmp_path):
    machine("debian.sources", DEB822)
    entry = write_entry(tmp_path, "old", suite="new", components="main")
    assert entry.name == "new.sources"
    text = entry.read_text()
    assert "Suites: new\n" in text and "Components: main\n" in text
    assert "URIs: http://mirror.test/debian\n" in text
    assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n" in text


def test_a_line_is_copied_with_another_suite(machine, tmp_path):
    machine("debian.list", ONE_LINE)
    entry = write_entry(tmp_path, "old", suite="new", components="main")
    assert entry.name == "new.list"
    text = entry.read_text()
    assert text.endswith("http://mirror.test/debian new main\n") and "signed-by=/keys.gpg" in text


@pytest.mark.parametrize(("name", "text"), [("a.sources", DEB822), ("a.list", ONE_LINE)])
def test_an_entry_may_be_for_another_architecture(machine, tmp_path, name, text):
    machine(name, text)
    words = write_entry(tmp_path, "old", architecture="riscv64").read_text()
    assert "Architectures: riscv64\n" in words or "arch=riscv64 " in words


def test_it_is_found_among_files_of_both_formats(machine, tmp_path):
    machine("debian.sources", DEB822)
    machine("more.list", "deb http://more.test/debian more main\n")
    words = write_entry(tmp_path, "more").read_text().split()
    assert words[-3:] == ["http://more.test/debian", "more", "main"]
    assert write_entry(tmp_path, "old").name == "old.sources"


@pytest.mark.parametrize(("name", "text"), [("a.sources", DEB822), ("a.list", ONE_LINE)])
def test_without_other_words_the_entry_names_its_suite_and_components(
    machine, tmp_path, name, text
):
    machine(name, text)
    entry = write_entry(tmp_path, "old")
    assert entry.stem == "old"
    assert "main contrib" in entry.read_text()


@pytest.mark.parametrize(("name", "text"), [("a.sources", DEB822), ("a.list", ONE_LINE)])
def test_what_is_disabled_for_sources_only_or_not_there_is_no_entry(machine, tmp_path, name, text):
    machine(name, text)
    assert write_entry(tmp_path, "other") is None

"""The archive that is appended to an initrd, read back by a reader of its own."""

import itertools
import os
import stat
from pathlib import Path

import pytest
from newc import read_newc

from pytest_vmports.errors import GuestNotFoundError
from pytest_vmports.guests import host_files
from pytest_vmports.guests.initramfs import (
    Entry,
    append,
    archive,
    entries_from_host,
    file_entry,
)


def unpacked(files, root):
    return read_newc(archive(entries_from_host(files, root)))


def test_what_is_packed_can_be_read_back():
    sizes = range(9)  # every padding, of the name and of the content
    entries = [file_entry("n" * (size + 1), b"x" * size, 0o640) for size in sizes]
    assert read_newc(archive(entries)) == {
        "n" * (size + 1): (stat.S_IFREG | 0o640, b"x" * size) for size in sizes
    }


def test_an_empty_archive_is_a_trailer():
    assert read_newc(archive([])) == {}


def test_the_folders_that_lead_to_a_file_come_before_it_and_once():
    found = read_newc(archive([file_entry("/a/b/one", b"1"), file_entry("a/b/two", b"2")]))
    assert list(found) == ["a", "a/b", "a/b/one", "a/b/two"]
    assert found["a/b"] == (stat.S_IFDIR | 0o755, b"")


@pytest.mark.parametrize("folder", ["bin", "sbin", "lib", "lib32", "lib64"])
def test_a_folder_that_may_be_a_link_in_the_initrd_is_left_as_it_is(folder, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "whole").touch()
    files = {f"{folder}/whole": f"/{folder}/deep/one", folder: "/"}
    entries = entries_from_host(files, tmp_path)
    assert list(read_newc(archive(entries))) == [
        f"{folder}/deep", f"{folder}/deep/one", f"{folder}/whole",
    ]  # fmt: skip
    assert folder in read_newc(archive(entries[:1], alone=True))


def test_everybody_may_still_write_to_tmp():
    found = read_newc(archive([file_entry("/tmp/a", b""), file_entry("/var/tmp/b", b"")]))
    assert {path: oct(mode & 0o7777) for path, (mode, _) in found.items()} == {
        "tmp": "0o1777", "tmp/a": "0o644", "var": "0o755", "var/tmp": "0o1777",
        "var/tmp/b": "0o644",
    }  # fmt: skip


def test_a_link_keeps_where_it_leads():
    found = read_newc(archive([Entry("link", stat.S_IFLNK | 0o777, b"/bin/busybox")]))
    assert found == {"link": (stat.S_IFLNK | 0o777, b"/bin/busybox")}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_the_archive_begins_at_a_multiple_of_512_bytes(tmp_path, size):
    base, target = tmp_path / "initrd", tmp_path / "both"
    base.write_bytes(b"i" * size)
    append(base, b"070701", target)
    written = target.read_bytes()
    at = written.index(b"070701")
    assert at % 512 == 0
    assert at - size < 512
    assert written[:at] == b"i" * size + b"\0" * (at - size)


def test_without_an_initrd_the_archive_stands_alone(tmp_path):
    append(None, b"content", tmp_path / "alone")
    assert (tmp_path / "alone").read_bytes() == b"content"


def test_a_file_keeps_its_mode_and_content(tmp_path):
    (tmp_path / "run").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "run").chmod(0o750)
    assert unpacked({"run": "/opt/start"}, tmp_path)["opt/start"] == (
        stat.S_IFREG | 0o750, b"#!/bin/sh\n",
    )  # fmt: skip


def test_a_guest_path_that_ends_in_a_slash_is_the_folder_it_goes_into(tmp_path):
    (tmp_path / "app.conf").write_text("x")
    assert "etc/app.conf" in unpacked({"app.conf": "/etc/"}, tmp_path)


def test_relative_paths_are_relative_to_the_root_and_absolute_ones_are_not(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("of the root")
    (tmp_path / "b").write_text("anywhere")
    found = unpacked({"a": "/a", str(tmp_path / "b"): "/b"}, tmp_path / "sub")
    assert found["a"][1] == b"of the root"
    assert found["b"][1] == b"anywhere"


def test_a_folder_is_taken_whole_with_its_links(tmp_path):
    site = tmp_path / "site"
    (site / "empty").mkdir(parents=True)
    (site / "empty").chmod(0o700)
    (site / "index.html").write_text("hello")
    (site / "alias").symlink_to("index.html")
    found = unpacked({"site": "/srv/www"}, tmp_path)
    assert list(found) == ["srv", "srv/www", "srv/www/alias", "srv/www/empty", "srv/www/index.html"]
    assert found["srv/www/empty"] == (stat.S_IFDIR | 0o700, b"")
    assert found["srv/www/alias"] == (stat.S_IFLNK | 0o777, b"index.html")
    assert found["srv/www/index.html"][1] == b"hello"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_is_named_itself_stands_for_what_it_leads_to(tmp_path, kind):
    real = tmp_path / "real"
    if kind == "folder":
        real.mkdir()
    file = real / "file" if kind == "folder" else real
    file.write_text("content")
    (tmp_path / "link").symlink_to(real)
    found = unpacked({"link": "/in/guest"}, tmp_path)
    path = "in/guest/file" if kind == "folder" else "in/guest"
    assert found[path] == (file.stat().st_mode, b"content")
    assert "in/link" in unpacked({"link": "/in/"}, tmp_path)


def test_what_is_neither_file_nor_folder_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GuestNotFoundError, match="pipe is not a file but a pipe"):
        entries_from_host({"pipe": "/pipe"}, tmp_path)


@pytest.mark.parametrize("name", ["absent", "dangling"])
def test_a_missing_host_file_is_named(tmp_path, name):
    (tmp_path / "dangling").symlink_to("absent")
    with pytest.raises(GuestNotFoundError, match=f"files names '{name}'.*does not exist") as caught:
        entries_from_host({name: "/x"}, tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "relative to pytest's rootdir" in caught.value.remedy


def test_the_same_files_give_the_same_archive(tmp_path):
    for name in "dcba":
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    first, second = (archive(entries_from_host({"folder": "/f"}, tmp_path)) for _ in range(2))
    assert first == second
    names = list(read_newc(first))
    assert all(a < b for a, b in itertools.pairwise(names))


@pytest.mark.parametrize(("home", "what"), [(Path, "iterdir"), (host_files, "open_file")])
def test_what_cannot_be_read_is_named(tmp_path, monkeypatch, home, what):
    (tmp_path / "app" / "secret").mkdir(parents=True)
    (tmp_path / "app" / "secret" / "key").write_text("x")

    def as_somebody_else(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(home, what, as_somebody_else)
    with pytest.raises(GuestNotFoundError, match=r"/app.* cannot be read.*Permission denied"):
        entries_from_host({"app": "/srv"}, tmp_path)

"""A guest whose root has put a program of its own in tar's place."""

from __future__ import annotations

import lzma
import os

import pytest
from tars import END, extended, file, folder, head, patched
from trees import lay, picture
from vm_helpers import GUEST

from pytest_vmports.errors import CommandTimeoutError, CopyTimeoutError, GuestFileError

# Answers with what is in /evil, and goes on and on where there is a file /more.
TAR = """#!/bin/sh
case $* in *--version*|*--help*) exit 0;; esac
cat /evil
while [ -e /more ]; do cat /more; done
"""
EVIL = {
    "no archive of it: .*it is compressed": lzma.compress(bytes(20 << 20)),
    "no archive of it: .*has holes": patched(
        head(size=512, kind=b"S"), 386, b"%011o\0%011o\0" % (1 << 31, 0)
    ),
    "leads out of app": file("app/../../../precious/x"),
    "is no folder here, but a link": folder()
    + head("app/l", b"2", linkname="../../precious")
    + file("app/l/x"),
    "no archive of it: .*a header of": head("long", b"x", 1 << 31),
    "no archive of it: .*a file of -": patched(file(), 124, b"\xff" * 11 + b"\0"),
    "too large: the most that is copied is 1 MiB": head(size=1 << 50),
    "no archive of it: .*relative_to|no archive of it: .*subpath": file("/etc/passwd"),
    "File name too long": extended({"path": "app/" + "d/" * 9000}) + file(),
}  # fmt: skip


@pytest.fixture(scope="module")
def vm(boot):
    with boot(8080, setup=GUEST, fresh_boot=False) as vm:
        vm.run("mkdir -p /srv/app /usr/local/bin; cat >/usr/local/bin/tar", input=TAR)
        vm.run("chmod +x /usr/local/bin/tar")
        yield vm


def test_a_tar_of_roots_own_making_reaches_nothing_and_the_guest_still_answers(vm, tmp_path):
    lay(tmp_path / "precious", {b"x": b"mine"})
    before = picture(tmp_path / "precious")
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    for words, data in EVIL.items():
        vm.run("cat >/evil", input=data + END)
        with pytest.raises(GuestFileError, match=words):
            vm.get("/srv/app", out, max_size="1 MiB")
        assert vm.run("echo there").stdout == "there\n"
    assert picture(tmp_path / "precious") == before
    assert os.listdir(out.parent) == ["out"] and set(os.listdir(out)) <= {"app"}


@pytest.mark.slow
def test_a_tar_that_does_not_end_is_ended(vm, tmp_path):
    vm.run("cat >/evil; head -c 100000 /dev/zero >/more", input=folder() + file("app/x"))
    with pytest.raises(GuestFileError, match="goes on after its end; part of it is in"):
        vm.get("/srv/app", tmp_path)
    # It says nothing, and goes on saying what makes no file.
    for begin, more in ((head(size=1 << 40), b""), (folder(), extended({"a": "b"}) * 50)):
        vm.run("cat >/evil", input=begin)
        vm.run("cat >/more", input=more)
        with pytest.raises(CopyTimeoutError, match=r"vm\.get of /srv/app"):
            vm.get("/srv/app", tmp_path / "file", timeout=2, max_size=1 << 41)
    assert vm.run("rm /more; pidof cat", check=False).stdout == ""


def test_a_link_of_the_guests_takes_no_later_copy_elsewhere(vm, tmp_path):
    lay(tmp_path / "precious", {b"x": b"mine"})
    before = picture(tmp_path / "precious")
    (tmp_path / "out").mkdir(mode=0o700)
    links = head("app/log", b"2", linkname="../precious") + head("app/new", b"2", linkname="/etc")
    vm.run("cat >/evil", input=folder(mode=0o777) + links + END)
    vm.get("/srv/app/.", tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    vm.run("cat >/evil", input=folder("log") + file("log/x", b"evil") + END)
    vm.run("mkdir -p /var/log")
    for target in ("log", "log/deep", "new/x"):
        with pytest.raises(GuestFileError, match="a link that came out of a guest"):
            vm.get("/var/log/.", tmp_path / "out" / target)
    with pytest.raises(GuestFileError, match="a link that came out of a guest"):
        vm.put(tmp_path / "out" / "log" / "x", "/srv/")
    assert picture(tmp_path / "precious") == before


def test_a_command_whose_time_is_over_before_it_begins_leaves_the_next_its_answer(vm):
    for command in ("yes", "sleep 1000"):
        with pytest.raises(CommandTimeoutError):
            vm.run(command, timeout=0.0001)
        assert vm.run("echo next").stdout == "next\n"

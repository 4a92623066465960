"""What QEMU is told of folders of the host, and which it never is; nothing is booted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_vmports.errors import ShareError
from pytest_vmports.vm import share
from pytest_vmports.vm.share import Share


def shared(folder, *, readonly=True, tag="share0"):
    return Share(Path(folder), "/srv", readonly=readonly, by="9p", tag=tag)


def test_qemu_is_told_of_each_folder_whatever_its_name():
    assert share.arguments(()) == []
    words = share.arguments([shared("/a,b=c d"), shared("/w", readonly=False, tag="share1")])
    assert words == [
        "-fsdev", "local,id=share0,path=/a,,b=c d,security_model=none,multidevs=remap,readonly=on",
        "-fsdev", "local,id=share1,path=/w,security_model=none,multidevs=remap",
    ]  # fmt: skip


def test_what_serves_one_folder_serves_it_at_another_place_but_not_in_another_way():
    one = shared("/a")
    assert one.serves(Share(Path("/a"), "/other", readonly=True, by="9p"))
    assert not one.serves(shared("/a", readonly=False)) and not one.serves(shared("/b"))


def test_a_folder_is_found_through_links_and_anything_else_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert share.real_folder(str(tmp_path / "link")) == (tmp_path / "folder").resolve()
    for name in ("file", "none", "loop", "file/below", "x" * 300):
        with pytest.raises(ShareError, match="name a folder"):
            share.real_folder(str(tmp_path / name))


def test_a_relative_folder_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert share.real_folder("folder") == Path(os.path.realpath(tmp_path / "folder"))


@pytest.mark.parametrize("folder", ["/", "/proc", "/proc/self", "/sys/kernel", "/dev", "/dev/shm"])
def test_what_leads_to_all_of_the_host_is_never_shared(folder):
    with pytest.raises(ShareError, match="never shared"):
        share.refuse(Path(folder), (), readonly=True, used=())


def test_what_vms_are_entered_by_is_never_shared_and_what_they_are_made_of_never_to_write(tmp_path):
    ours, used = tmp_path / "run" / "vm", tmp_path / "cache" / "image"
    ours.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(ours)
    for folder in (ours, ours / "below", ours.parent, tmp_path):
        with pytest.raises(ShareError, match="files of running VMs are in"):
            share.refuse(folder, [link], readonly=True, used=[used])
    share.refuse(used.parent, [ours], readonly=True, used=[used])
    with pytest.raises(ShareError, match="VMs are made of"):
        share.refuse(used.parent, [ours], readonly=False, used=[used])
    share.refuse(tmp_path / "other", [ours], readonly=False, used=[used])

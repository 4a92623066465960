"""Disks beside the root: what is made for each, and what tells one from another."""

import json
import subprocess

import pytest

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import more_disks
from pytest_vmports.guests.more_disks import MoreDisk
from pytest_vmports.system.architecture import X86_64

pytestmark = pytest.mark.usefixtures("qemu_binary")


def about(file):
    """Return what QEMU says of an image that it finds no fault with."""
    subprocess.run(["qemu-img", "check", "-q", str(file)], check=True)
    asked = ["qemu-img", "info", "--output=json", str(file)]
    return json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("size", [1, 64, 4 << 20])
def test_an_empty_disk_is_a_qcow2_of_its_size_on_nothing(tmp_path, size):
    MoreDisk(size=size).make(tmp_path / "disk")
    said = about(tmp_path / "disk")
    assert (said["format"], said["virtual-size"]) == ("qcow2", size << 20)
    assert "backing-filename" not in said


def test_an_image_is_behind_what_takes_the_writes(tmp_path):
    image = tmp_path / "image.raw"
    image.write_bytes(b"content".ljust(1 << 20, b"\0"))
    disk = MoreDisk(image=image)
    more_disks.make_all([MoreDisk(size=1), disk], tmp_path)
    assert [file.name for file in more_disks.files_in(tmp_path)] == ["disk1.qcow2", "disk2.qcow2"]
    assert about(tmp_path / "disk2.qcow2")["backing-filename"] == str(image)
    assert disk.files == (image,)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "x.qcow2").write_bytes(b"QFI\xfb" + bytes(100))
    with pytest.raises(ImageError, match=r"x\.qcow2"):
        MoreDisk(image=tmp_path / "x.qcow2").make(tmp_path / "disk")


def test_a_change_of_the_image_is_another_identity(tmp_path):
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    before = MoreDisk(image=image).identity(X86_64)
    image.write_bytes(b"other".ljust(2 << 20, b"\0"))
    assert MoreDisk(image=image).identity(X86_64) != before
    assert MoreDisk(size=1).identity(X86_64) != MoreDisk(size=2).identity(X86_64)


def test_by_hand_the_same_are_made(tmp_path):
    for disk in (MoreDisk(size=3), MoreDisk(image=tmp_path / "image.raw")):
        (tmp_path / "image.raw").write_bytes(bytes(3 << 20))
        command = disk.by_hand(tmp_path / "disk")
        subprocess.run(command, check=True)
        assert command[-1] == str(tmp_path / "disk")
        assert about(tmp_path / "disk")["virtual-size"] == 3 << 20

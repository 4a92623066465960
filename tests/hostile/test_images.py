"""What a disk image from elsewhere, or a path that is no file, gets of the host: nothing."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import subprocess

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import (
    GuestNotFoundError,
    ImageError,
    ProgramStoppedError,
    QemuNotFoundError,
    VmPortsError,
)
from pytest_vmports.guests import image as disk
from pytest_vmports.guests.image import Disk
from pytest_vmports.guests.initramfs import entries_from_host
from pytest_vmports.guests.qemu_img import qemu_img as confined_qemu_img
from pytest_vmports.system import firmware, landlock, surroundings
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.digests import digest_now
from pytest_vmports.system.programs import find_qemu

MIB = 1 << 20
SECRET = b"root:$y$a-secret-of-the-host:"

pytestmark = pytest.mark.usefixtures("qemu_binary")


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def secret(tmp_path):
    """Return a file of the host, in a folder that is no image's."""
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "shadow"
    path.write_bytes(SECRET.ljust(MIB, b"\0"))
    return path


@pytest.fixture
def folder(tmp_path):
    """Return the folder of an image."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def raw(path):
    path.write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB))
    return path


def image(folder, name="top.qcow2", backing=None, image_format="raw"):
    """Return a qcow2 whose header names a backing file, there or not."""
    path = folder / name
    if backing is None:
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw(folder / "content"), path)
        return path
    words = ["-u", "-F", image_format, "-b", backing]
    qemu_img("create", "-q", "-f", "qcow2", *words, path, "1M")
    return path


def said_of(path, **keywords):
    """Return what is said of an image that is refused: before it boots, and of its template."""
    said = []
    for ask in (lambda one: disk.check(one, direct=True), lambda one: disk.identity(one, X86_64)):
        with pytest.raises(ImageError) as caught:
            ask(Disk(path, **keywords))
        assert str(path) in str(caught.value)
        said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


# --- what stands behind an image ----------------------------------------------------------------


@pytest.mark.parametrize("written", ["absolute", "relative", "link", "linked folder"])
def test_a_backing_file_outside_the_folder_is_refused(folder, secret, written):
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(secret.parent)
    names = {
        "absolute": secret, "relative": "../etc/shadow", "link": "link",
        "linked folder": "folder/shadow",
    }  # fmt: skip
    said = said_of(image(folder, backing=names[written]))
    assert f"its backing file {secret} lies outside the image's folder" in said
    assert f"backing='{secret}'" in said and "qemu-img rebase" in said


def test_a_file_below_the_folder_is_outside_of_it_too(folder):
    # An image in a home would have its .ssh.
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "id").write_bytes(SECRET)
    assert "outside the image's folder" in said_of(image(folder, backing=".ssh/id"))


@pytest.mark.parametrize("given", ["one", "several", "link"])
def test_a_backing_file_that_is_asked_for_by_name_is_taken(folder, secret, given):
    path = image(folder, backing=secret)
    (folder / "link").symlink_to(secret)
    backing = {"one": str(secret), "several": [folder / "content", secret], "link": folder / "link"}
    raw(folder / "content")
    guest = Guest.disk(path, kernel=raw(folder / "kernel"), backing=backing[given])
    assert disk.check(guest.root_disk, direct=True) == "qcow2"
    assert guest.root_disk.chain() == (path, secret)
    assert digest_now(secret) in disk.identity(guest.root_disk, X86_64)["files"]


def test_each_link_of_a_chain_is_looked_at(folder, secret, tmp_path):
    (tmp_path / "base").mkdir()
    base = image(tmp_path / "base", "base.qcow2", secret)
    top = image(folder, "top.qcow2", image(folder, "middle.qcow2", base, "qcow2"), "qcow2")
    assert f"its backing file {base} lies outside" in said_of(top)
    said = said_of(top, backing=(base,))
    assert f"of {base}, which stands behind it" in said and str(secret) in said
    assert disk.check(Disk(top, backing=(base, secret)), direct=True) == "qcow2"


def test_what_stands_beside_an_image_needs_no_name(folder):
    base = raw(folder / "base.raw")
    top = image(folder, "top.qcow2", image(folder, "middle.qcow2", "base.raw"), "qcow2")
    assert Disk(top).chain() == (top, folder / "middle.qcow2", base)
    assert disk.check(Disk(top), direct=False) == "qcow2"


REFERENCES = [
    'json:{{"driver":"raw","file":{{"driver":"file","filename":"{secret}"}}}}',
    'json:{{"driver":"nbd","host":"127.0.0.1","port":"10809"}}',
    "nbd://127.0.0.1:10809/x", "nbd+unix:///x?socket=/run/x", "nbd:127.0.0.1:10809",
    "file:{secret}", "file:///etc/shadow", "fat:/etc", "fat:rw:/etc", "host_device:/dev/sda",
    "host_cdrom:/dev/sr0", "ssh://root@127.0.0.1/etc/shadow", "http://127.0.0.1/x",
    "https://example.org/x", "ftp://127.0.0.1/x", "iscsi://127.0.0.1/x/0", "rbd:pool/image",
    "nvme://0000:01:00.0/1", "blkdebug::{secret}", "blkverify:{secret}:{secret}", "null-co://",
    "vvfat:/etc", "tftp://127.0.0.1/x", "gluster://127.0.0.1/v/x", "nfs://127.0.0.1/x",
    "raw:{secret}", "snapshot:{secret}", "quorum:", "fd:0", "/dev/fdset/0", "/proc/self/fd/0",
    "/dev/zero", "/dev/stdin", "/dev/kmsg", ".", "..", "/",
]  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES)
def test_no_reference_is_followed_but_to_plain_files(folder, secret, reference):
    path = image(folder, backing="x" * 1000)
    name = reference.format(secret=secret).encode()
    renamed(path, name)
    said = said_of(path)
    assert "its backing file" in said and ("no plain file" in said or "outside" in said)


def renamed(path, name):
    """Give a qcow2 another name of what stands behind it, which qemu-img would refuse to write."""
    content = bytearray(path.read_bytes())
    (place,) = struct.unpack_from(">Q", content, 8)
    content[place : place + len(name)] = name
    struct.pack_into(">I", content, 16, len(name))
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["vmdk", "qed", "vdi", "vhdx", "vpc", "luks", "new"])
def test_a_backing_file_of_another_format_is_refused(folder, kind):
    # Its extents, or its parent, could be anything.
    (folder / "base").write_bytes(b"RW 1 FLAT /etc/shadow 0\n".ljust(MIB, b"\0"))
    said = said_of(header_with(image(folder, backing="base"), kind))
    assert f"its backing file base is a {kind} image" in said


def header_with(path, image_format):
    """Say another format of a qcow2's backing file."""
    content = path.read_bytes()
    old = struct.pack(">II8s", 0xE2792ACA, 3, b"raw")
    assert old in content
    new = struct.pack(">II8s", 0xE2792ACA, len(image_format), image_format.encode())
    path.write_bytes(content.replace(old, new.ljust(len(old), b"\0")[: max(len(old), 16)]))
    return path


VMDK = """{start}version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 2048 FLAT "{secret}" 0
"""


def test_a_backing_file_without_a_format_is_not_guessed(folder, secret):
    # What QEMU takes for a vmdk, and no table of ours does.
    (folder / "base").write_text(VMDK.format(start="#\1\n", secret=secret))
    path = image(folder, backing="base")
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack(">I", 0xE2792ACA), struct.pack(">I", 0x12345678)))
    told = subprocess.check_output(["qemu-img", "info", "--backing-chain", "-f", "qcow2", path])
    assert b"vmdk" in told  # so it would be
    said = said_of(path)
    assert "does not say what format its backing file base has" in said
    remedy = said.splitlines()[0].partition("qemu-img ")[2].partition(" [pytest")[0]
    qemu_img(*shlex.split(remedy))  # which is one
    assert disk.check(Disk(path), direct=True) == "qcow2"


def test_an_image_that_qemu_would_take_for_a_vmdk_is_a_plain_disk(folder, secret):
    path = folder / "disk"
    path.write_text(VMDK.format(start="#\1\n", secret=secret))
    assert b"vmdk" in subprocess.check_output(["qemu-img", "info", path])  # so it would be
    assert disk.check(Disk(path), direct=True) == "raw"
    disk.make_overlay(path, "raw", folder / "overlay")
    told = json.loads(subprocess.check_output(
        ["qemu-img", "info", "--output=json", folder / "overlay"]
    ))  # fmt: skip
    assert told["backing-filename-format"] == "raw"


@pytest.mark.parametrize("kind", ["vmdk", "qed", "vdi", "vhdx", "vpc", "qcow", "parallels"])
def test_other_formats_are_refused_before_qemu_img_sees_them(folder, kind, monkeypatch):
    path = folder / f"disk.{kind}"
    qemu_img("convert", "-f", "raw", "-O", kind, raw(folder / "content"), path)
    monkeypatch.setattr(disk, "qemu_img", lambda *_, **__: pytest.fail("it was asked"))
    assert "convert it" in said_of(path)


@pytest.mark.parametrize("place", ["outside", "beside"])
@pytest.mark.parametrize("link", ["top", "middle"])
def test_a_data_file_is_refused(folder, secret, place, link):
    data = secret if place == "outside" else folder / "data"
    copy = data.with_name("copy")
    path = folder / "apart.qcow2"
    options = f"data_file={copy},data_file_raw=on"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "1M")
    if copy != data:
        copy.unlink()  # so that it names what it likes
    if link == "middle":
        path = image(folder, "top.qcow2", path, "qcow2")
    said = said_of(path)
    assert "its data are in another file" in said and "qemu-img convert" in said


def test_the_name_of_a_data_file_without_its_bit_is_refused_too(folder):
    path = folder / "apart.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={folder / 'data'}", path, "1M")
    content = bytearray(path.read_bytes())
    content[72:80] = bytes(8)
    path.write_bytes(content)
    assert "its data are in another file" in said_of(path)


def test_files_that_stand_behind_each_other_have_no_end(folder):
    image(folder, "a.qcow2", "b.qcow2", "qcow2")
    image(folder, "b.qcow2", "a.qcow2", "qcow2")
    image(folder, "own.qcow2", "own.qcow2", "qcow2")
    assert "no end" in said_of(folder / "a.qcow2")
    assert "no end" in said_of(folder / "own.qcow2")


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (8, ">Q", 1 << 62), (16, ">I", 1 << 31), (16, ">I", 1024), (20, ">I", 63),
        (100, ">I", 1 << 31), (100, ">I", 0), (104, ">II", (0xE2792ACA, 1 << 31)), (4, ">I", 4),
    ],
)  # fmt: skip
def test_a_broken_header_is_refused_at_once(folder, at, form, value):
    path = image(folder, backing="base.raw")
    raw(folder / "base.raw")
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(content)
    said_of(path)


# --- what is no file ----------------------------------------------------------------------------

KINDS = ("fifo", "link to a fifo", "socket", "folder", "device", "dangling link", "link to itself")


@pytest.fixture
def odd(folder, tmp_path, monkeypatch):
    """Return a function that makes what is no file, in the folder of the images."""
    with socket.socket(socket.AF_UNIX) as listener:

        def made(kind, name="odd"):
            path = folder / name
            if kind == "fifo":
                os.mkfifo(path, 0o777)
            elif kind == "link to a fifo":
                os.mkfifo(folder / "pipe", 0o777)
                path.symlink_to("pipe")
            elif kind == "socket":
                monkeypatch.chdir(folder)  # its whole path may be too long
                listener.bind(name)
            elif kind == "folder":
                path.mkdir()
            else:
                to = {"device": "/dev/zero", "dangling link": "gone", "link to itself": name}
                path.symlink_to(to[kind])
            return path

        yield made


def seeded(path):
    return Guest.disk(raw(path.parent / "disk"), user_data=path)


PLACES = {
    "image": Guest.disk,
    "backing file by name": lambda path: Guest.disk(raw(path.parent / "disk"), backing=[path]),
    "kernel": Guest.kernel,
    "initrd": lambda path: Guest.kernel(raw(path.parent / "kernel"), path),
    "kernel of a disk": lambda path: Guest.disk(raw(path.parent / "disk"), kernel=path),
    "initrd of a disk": lambda path: Guest.disk(
        raw(path.parent / "disk"), kernel=raw(path.parent / "kernel"), initrd=path
    ),
    "user data": seeded,
    "files": lambda path: entries_from_host({str(path): "/x"}, path.parent),
    "below a folder of files": lambda path: entries_from_host({str(path.parent): "/x"}, path),
    "qemu": lambda path: find_qemu(str(path)),
}
FINE = {
    ("files", "folder"), *(("below a folder of files", kind) for kind in KINDS if "link" in kind),
    ("below a folder of files", "folder"), ("below a folder of files", "device"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused_and_never_waited_for(odd, kind, place):
    path = odd(kind)
    if (place, kind) in FINE:  # a link below a folder stays one, wherever it leads
        if kind == "link to a fifo":
            (path.parent / "pipe").unlink()
        PLACES[place](path)
        return
    with pytest.raises((GuestNotFoundError, QemuNotFoundError)) as caught:
        PLACES[place](path)
    assert "odd" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backing_file_that_is_no_file_is_refused_at_once(folder, odd, kind):
    path = image(folder, backing=odd(kind))
    said = said_of(path)
    assert "its backing file" in said and "took" not in said
    # Named, it is refused for what it is.
    if kind == "device":
        assert "is not a file but a device" in said_of(path, backing=(folder / "/dev/zero",))


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_of_firmware_that_leads_to_no_file_is_none(folder, odd, kind, monkeypatch):
    monkeypatch.setattr(firmware, "PLACES", (folder,))
    path = odd(kind)
    parts = {"filename": str(path), "format": "raw"}
    mapping = {"device": "flash", "executable": parts, "nvram-template": parts}
    targets = [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}]
    (folder / "1.json").write_text(
        json.dumps({"interface-types": ["uefi"], "mapping": mapping, "targets": targets})
    )
    with pytest.raises(VmPortsError):
        firmware.find_firmware(X86_64)


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling link"])
def test_an_image_that_has_become_no_file_is_not_waited_for(folder, odd, kind):
    guest = Guest.disk(raw(folder / "disk"))
    (folder / "disk").unlink()
    odd(kind, "disk")
    with pytest.raises((VmPortsError, OSError)):
        disk.check(guest.root_disk, direct=True)


# --- qemu-img itself ----------------------------------------------------------------------------


def test_qemu_img_reads_and_writes_what_it_was_given_only(folder, secret, missing):
    if problem := landlock.problem():
        missing("Landlock", problem)
    path = image(folder, backing=secret)
    chain = ["info", "-U", "--backing-chain", str(path)]
    assert confined_qemu_img(chain, read=[path, secret])[0] == 0
    code, _, said = confined_qemu_img(chain, read=[path])
    assert code == 1 and "Permission denied" in said
    create = ["create", "-q", "-f", "raw", str(secret.parent / "new"), "1M"]
    assert confined_qemu_img(create, read=[], write=[folder])[0] == 1
    assert not (secret.parent / "new").exists()


def test_a_fifo_is_not_waited_for_by_qemu_img_either(folder, odd, missing):
    if problem := landlock.problem():
        missing("Landlock", problem)
    path = image(folder, backing=odd("fifo"))
    assert confined_qemu_img(["info", "-U", "--backing-chain", str(path)], read=[path])[0] == 1


def test_qemu_img_runs_with_a_limit_of_memory(tmp_path, monkeypatch):
    program = tmp_path / "qemu-img"
    # It is limited as soon as it runs, and not before.
    program.write_text('#!/bin/sh\nwhile [ "$(ulimit -d)" = unlimited ]; do :; done\nulimit -d\n')
    program.chmod(0o755)
    monkeypatch.setattr(surroundings, "which", lambda _: str(program))
    _, said, _ = confined_qemu_img([], read=())
    assert int(said) << 10 <= 4 << 30


def test_qemu_img_is_not_given_all_memory(folder):
    # A file of holes whose tables have one entry for each 512 bytes.
    path = folder / "wide.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
    try:
        os.truncate(path, 8 << 40)
    except OSError:
        os.truncate(path, 2 << 40)
    with pytest.raises((ImageError, ProgramStoppedError), match=r"memory|truncated or damaged"):
        disk.check(Disk(path), direct=False)
    path.unlink()

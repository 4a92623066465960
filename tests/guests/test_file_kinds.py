"""Files that are given for another: told by their bytes before anything boots."""

# ruff: noqa: ISC004 - what is said of a file stands beside it, in more than one line
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import zipfile

import pycdlib
import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import BootFileError, ImageError
from pytest_vmports.guests import file_kinds, initramfs
from pytest_vmports.guests import image as disk
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.guests.file_kinds import DATA, DISK, INITRD, KERNEL, KINDS
from pytest_vmports.guests.image import Disk
from pytest_vmports.guests.initrd import has_busybox
from pytest_vmports.system.architecture import AARCH64, X86_64, architecture_named

MIB = 1 << 20
# What a disk begins with that a BIOS boots.
WHOLE = b"\xeb\xfe" + bytes(508) + b"\x55\xaa" + bytes(MIB)
CPIO = initramfs.archive([initramfs.file_entry("bin/busybox", b"x", 0o755)], alone=True)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def archived(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("disk.raw", data)
    return out.getvalue()


def cd():
    out, iso = io.BytesIO(), pycdlib.PyCdlib()
    iso.new(vol_ident="cd")
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def by_program(*command):
    return lambda data: subprocess.run(command, input=data, capture_output=True, check=True).stdout


def converted(image_format, *options):
    def made(tmp_path):
        raw, target = tmp_path / "raw", tmp_path / f"made.{image_format}"
        raw.write_bytes(WHOLE)
        qemu_img("convert", "-f", "raw", "-O", image_format, *options, raw, target)
        return target.read_bytes()

    return made


def ext4(tmp_path):
    image = tmp_path / "ext4"
    image.write_bytes(bytes(4 * MIB))
    subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    return image.read_bytes()


def at(place, mark):
    return bytes(place) + mark + bytes(MIB)


def elf(kind, machine):
    numbers = kind.to_bytes(2, "little") + machine.to_bytes(2, "little")
    return b"\x7fELF\x02\x01\x01" + bytes(9) + numbers + bytes(MIB)


def partitioned(_tmp_path):
    head = bytearray(WHOLE)
    head[446:462] = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 1, 2000)
    return bytes(head)


def kernel_of_the_package(_tmp_path):
    return find_images()[0].read_bytes()


# What a file is, or makes it; what is said; and what it may be given for.
FILES = {
    "gzip": (gzip.compress(WHOLE), "compressed by gzip; decompress it: gunzip -k", {INITRD}),
    "xz": (lzma.compress(WHOLE), "compressed by xz; decompress it: xz -dk", {INITRD}),
    "bzip2": (bz2.compress(WHOLE), "compressed by bzip2; decompress it: bzip2 -dk", {INITRD}),
    "lzma": (
        lzma.compress(WHOLE, format=lzma.FORMAT_ALONE), "compressed by lzma; decompress", {INITRD},
    ),
    "zstd": (by_program("zstd", "-c")(WHOLE), "compressed by zstd; decompress it: zstd", {INITRD}),
    "lz4": (by_program("lz4", "-c")(WHOLE), "compressed by lz4; decompress it: lz4 -d", {INITRD}),
    "lz4 (legacy)": (by_program("lz4", "-lc")(WHOLE), "decompress it: lz4 -d", {INITRD}),
    "lzop": (b"\x89LZO\0\r\n\x1a\n" + WHOLE, "decompress it: lzop -d", {INITRD}),
    "compress": (b"\x1f\x9d\x90" + WHOLE, "decompress it: gunzip", set()),
    "lzip": (b"LZIP\x01" + WHOLE, "decompress it: lzip", set()),
    "zip": (zipped(WHOLE), "it is a zip archive; unpack it: unzip", set()),
    "7z": (b"7z\xbc\xaf\x27\x1c" + WHOLE, "it is a 7z archive; unpack it: 7z x", set()),
    "rar": (b"Rar!\x1a\x07\x01\0" + WHOLE, "it is a rar archive; unpack it", set()),
    "deb": (b"!<arch>\ndebian-binary   " + WHOLE, "it is a Debian package", set()),
    "rpm": (b"\xed\xab\xee\xdb" + WHOLE, "it is an RPM package", set()),
    "wim": (b"MSWIM\0\0\0" + WHOLE, "install from it into a disk", set()),
    "tar": (archived("disk.raw", WHOLE), "it is a tar archive; unpack it: tar -xf", set()),
    "ova": (archived("vm.ovf", b"<?xml"), "it is an OVA (an archive with a vmdk", set()),
    "tar.gz": (
        gzip.compress(archived("disk.raw", WHOLE)), "it is a tar archive, compressed by gzip",
        set(),
    ),
    "ova.xz": (
        lzma.compress(archived("vm.ovf", WHOLE)), "it is an OVA (an archive with a vmdk in it), "
        "compressed by xz", set(),
    ),
    "simg": (b"\x3a\xff\x26\xed" + WHOLE, "simg2img", set()),
    "qcow2": (converted("qcow2"), "it is a qcow2 image; give it to Guest.disk", {DISK, DATA}),
    "qcow2 (2)": (
        converted("qcow2", "-o", "compat=0.10"), "it is a qcow2 image", {DISK, DATA},
    ),
    "qcow2 in gzip": (gzip.compress(b"QFI\xfb\0\0\0\x03" + WHOLE), "compressed by gzip", set()),
    "qcow": (converted("qcow"), "it is a qcow image; convert it: qemu-img convert -O", set()),
    "qed": (converted("qed"), "it is a qed image; convert it", set()),
    "vmdk": (converted("vmdk"), "it is a vmdk image; convert it: qemu-img convert -O", set()),
    "vmdk, flat": (
        b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n', "a vmdk image", set(),
    ),
    "vmdk, of ESX": (b"COWD" + WHOLE, "it is a vmdk image", set()),
    "vdi": (converted("vdi"), "it is a vdi image; convert it: qemu-img convert -O", set()),
    "vhdx": (converted("vhdx"), "it is a vhdx image; convert it: qemu-img convert -O", set()),
    "vhd": (converted("vpc"), "it is a vhd image; convert it: qemu-img convert -f vpc", set()),
    "vhd, fixed": (
        converted("vpc", "-o", "subformat=fixed,force_size"), "it is a vhd image; convert it: "
        "qemu-img convert -f vpc", set(),
    ),
    "parallels": (converted("parallels"), "it is a parallels image; convert it", set()),
    "parallels, older": (b"WithoutFreeSpace" + WHOLE, "it is a parallels image", set()),
    "luks 1": (b"LUKS\xba\xbe\0\x01" + WHOLE, "it is encrypted (LUKS 1); nobody would", set()),
    "luks 2": (b"LUKS\xba\xbe\0\x02" + WHOLE, "it is encrypted (LUKS 2); nobody would", set()),
    "bzImage": (kernel_of_the_package, "it is a Linux kernel for x86; give it as", {KERNEL}),
    "arm64 Image": (at(56, b"ARM\x64"), "a Linux kernel for arm64; give it as", {KERNEL}),
    "arm64 Image with EFI": (
        b"MZ" + at(54, b"ARM\x64"), "a Linux kernel for arm64; give it as", {KERNEL},
    ),
    "riscv Image": (at(56, b"RSC\x05"), "a Linux kernel for RISC-V", {KERNEL}),
    "arm zImage": (at(36, b"\x18\x28\x6f\x01"), "a Linux kernel for arm;", {KERNEL}),
    "zboot": (b"MZ\0\0zimg" + bytes(MIB), "a Linux kernel (EFI zboot)", {KERNEL}),
    "vmlinux": (elf(2, 62), "it is an ELF program for x86, as a vmlinux", {KERNEL}),
    "vmlinux of 32 bits": (elf(2, 3), "it is an ELF program for x86 of 32 bits", {KERNEL}),
    "vmlinux of RISC-V": (elf(3, 243), "it is an ELF program for RISC-V", {KERNEL}),
    "vmlinux of arm64": (elf(3, 183), "it is an ELF program for arm64", {KERNEL}),
    "vmlinux of arm": (elf(2, 40), "it is an ELF program for arm,", {KERNEL}),
    "vmlinux of another": (elf(2, 22), "it is an ELF program, as a vmlinux", {KERNEL}),
    "module": (elf(1, 62), "it is an object file, as a module of a kernel; name the", set()),
    "uImage": (b"\x27\x05\x19\x56" + bytes(MIB), "it is an image for U-Boot", {KERNEL}),
    "efi": (b"MZ" + at(126, b"PE\0\0"), "it is an EFI program", set()),
    "cpio": (CPIO, "it is a cpio archive, as an initrd; give it as initrd=", {INITRD}),
    "cpio (crc)": (b"070702" + CPIO[6:], "a cpio archive, as an initrd", {INITRD}),
    "cpio (odc)": (b"070707" + CPIO[6:], "a cpio archive in a format that Linux does not", set()),
    "cpio (binary)": (b"\xc7\x71" + CPIO, "a cpio archive in a format that Linux", set()),
    "iso": (cd(), "it is an image of a CD (ISO 9660)", {DATA}),
    "iso for a stick": (
        WHOLE[:512] + cd()[512:], "it is an image of a CD (ISO 9660)", {DISK, DATA},
    ),
    "xfs": (b"XFSB" + bytes(MIB), "it is a bare xfs file system", {DATA, INITRD}),
    "squashfs": (b"hsqs" + bytes(MIB), "it is a bare squashfs file system", {DATA, INITRD}),
    "btrfs": (at(0x10040, b"_BHRfS_M"), "it is a bare btrfs file system", {DATA, INITRD}),
    "erofs": (at(1024, b"\xe2\xe1\xf5\xe0"), "it is a bare erofs file system", {DATA, INITRD}),
    "f2fs": (at(1024, b"\x10\x20\xf5\xf2"), "it is a bare f2fs file system", {DATA, INITRD}),
    "ext": (ext4, "it is a bare ext file system", {DATA, INITRD}),
    "ext with a loader": (
        bytes(510) + b"\x55\xaa" + bytes(568) + b"\x53\xef" + bytes(MIB), "a bare ext file system",
        {DISK, DATA, INITRD},
    ),
    "lvm": (at(512, b"LABELONE"), "it is a volume of LVM", {DATA}),
    "swap": (at(4086, b"SWAPSPACE2"), "it is swap space", set()),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1b2c\nsize 12345\n",
        "it is a pointer of Git LFS and not the file itself; fetch the file: git lfs pull", set(),
    ),
    "annex": (
        b"/annex/objects/SHA256E-s12--ab.qcow2\n", "it is a pointer of git-annex and not the file "
        "itself; fetch the file: git annex get", set(),
    ),
    "dmg": (b"BZh91AY&SY" + bytes(MIB) + b"koly" + bytes(508), "it is a dmg image", set()),
    "disk": (partitioned, "it is an image of a disk with partitions; give it to", {DISK, DATA}),
    "page": (PAGE, "it is a web page, as of a failed download; fetch it again", set()),
    "XML": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "a web page", set()),
    "text": (b"Not Found\n", "it is a text; fetch it again", set()),
    "text, long": ("ein längerer Text\n".encode() * 9000, "it is a text; fetch it again", set()),
}  # fmt: skip


@pytest.fixture
def made(tmp_path, qemu_binary):
    """Return a function that writes one of the files, and returns its path."""

    def write(content):
        path = tmp_path / "it's here"  # which a shell would not take as it is
        path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
        return path

    return write


@pytest.mark.parametrize(("content", "said", "right"), FILES.values(), ids=FILES)
def test_a_file_is_told_by_its_bytes_and_refused_where_it_is_wrong(made, content, said, right):
    path = made(content)
    found = {use: file_kinds.wrong(path, use) for use in (DISK, DATA, KERNEL, INITRD)}
    # A qcow2 is a disk, and no raw one.
    told_apart = {"qcow2"} if right == {DISK, DATA} and b"QFI" in path.read_bytes()[:4] else ()
    for use in (DISK, DATA):
        found[use] = file_kinds.wrong(path, use, right=told_apart)
    found[KERNEL] = file_kinds.wrong(path, KERNEL, right=file_kinds.KERNELS)
    assert {use for use, problem in found.items() if problem is None} == right
    texts = ["; ".join(problem) for problem in found.values() if problem is not None]
    assert not [text for text in texts if "{" in text]
    if texts:
        assert any(said in text for text in texts), texts
    if "{path}" in str(file_kinds.kind_of(path.read_bytes()[:70_000])):
        assert any("""'/""" in text and """it'"'"'s here'""" in text for text in texts)


def test_every_row_of_the_table_has_its_file(tmp_path, qemu_binary):
    heads = [c if isinstance(c, bytes) else c(tmp_path) for c, _, _ in FILES.values()]
    found = {id(file_kinds.kind_of(head[: 72 << 10])) for head in heads}
    assert [kind for kind in KINDS if id(kind) not in found] == []


@pytest.mark.parametrize(
    "content",
    [
        WHOLE, bytes(MIB), b"kernel", b"\xde\xad\xbe\xef" * 1000, bytes(range(256)) * 4,
        b"Not\0Found " * 100, b" \n\t\n", b"\xff\xfe text\n",
    ],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("use", [DISK, DATA, KERNEL, INITRD])
def test_what_cannot_be_told_is_let_through(made, content, use):
    assert file_kinds.wrong(made(content), use) is None


@pytest.mark.parametrize("inner", [b"Not Found\n", b"QFI\xfb\0\0\0\x03", archived("a", b"b"), PAGE])
@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_an_initrd_is_told_by_what_is_compressed_too(made, inner, compress):
    problem = file_kinds.wrong(made(compress(inner)), INITRD)
    assert problem is not None and ", compressed by " in problem[0]
    assert file_kinds.wrong(made(compress(CPIO)), INITRD) is None


@pytest.mark.parametrize("size", range(1, 12))
def test_a_file_that_is_cut_within_its_first_bytes_stops_nothing(made, size):
    for content in (gzip.compress(CPIO), lzma.compress(CPIO), bz2.compress(CPIO), CPIO):
        for use in (DISK, DATA, KERNEL, INITRD):
            file_kinds.wrong(made(content[:size]), use)


# --- where they are given -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tar", "luks 2", "gzip", "iso", "ext", "vmlinux", "page", "lvm"])
def test_a_disk_image_that_is_none_is_refused_with_either_firmware(made, name):
    path = made(FILES[name][0])
    for firmware in ("bios", "uefi"):
        with pytest.raises(ImageError, match="it is ") as caught:
            disk.check(Disk(path, firmware=firmware), direct=False)
        assert "no boot sector" not in str(caught.value)


@pytest.mark.parametrize("name", ["gzip", "tar", "zip", "page", "luks 2", "vdi"])
def test_no_template_is_looked_for_of_a_disk_image_that_is_none(made, name):
    with pytest.raises(ImageError, match="it is "):
        disk.identity(Disk(made(FILES[name][0])), X86_64)


def test_a_bare_file_system_is_a_disk_for_a_kernel_of_ones_own(made):
    path = made(ext4)
    assert disk.check(Disk(path), direct=True) == "raw"
    with pytest.raises(ImageError, match="a bare ext file system; nothing in it boots by itself"):
        disk.check(Disk(path), direct=False)


def test_a_format_that_is_given_is_believed_of_what_may_be_raw(made):
    fixed = made(FILES["vhd, fixed"][0])
    assert disk.check(Disk(fixed, format="raw"), direct=False) == "raw"
    encrypted = made(FILES["luks 2"][0])
    assert disk.check(Disk(encrypted, format="raw"), direct=True) == "raw"
    qcow2 = made(FILES["qcow2"][0])
    with pytest.raises(ImageError, match="it is a qcow2 image; leave format out"):
        disk.check(Disk(qcow2, format="raw"), direct=True)
    with pytest.raises(ImageError, match="compressed by gzip"):
        disk.check(Disk(made(FILES["gzip"][0]), format="raw"), direct=True)


@pytest.mark.parametrize(
    "name", ["qcow2", "efi", "gzip", "cpio", "page", "iso", "zstd", "disk", "module", "annex"]
)
def test_a_kernel_that_is_none_is_refused_before_anything_is_written(made, tmp_path, name):
    guest = Guest.kernel(made(FILES[name][0]), setup="true")
    with pytest.raises(BootFileError, match=r"^the kernel .* cannot be booted: it is "):
        guest.boot_files(tmp_path / "cache", tmp_path, X86_64)
    assert not (tmp_path / "cache").exists()


def test_a_kernel_of_a_disk_is_looked_at_too(made, tmp_path):
    path = made(FILES["efi"][0])
    guest = Guest.disk(path, kernel=path)
    with pytest.raises(BootFileError, match="objcopy"):
        guest.boot_files(tmp_path, tmp_path, X86_64)


def test_a_compressed_kernel_is_right_where_qemu_decompresses_it(made, tmp_path):
    guest = Guest.kernel(made(gzip.compress(FILES["arm64 Image"][0])))
    assert guest.boot_files(tmp_path, tmp_path, AARCH64) == (guest.kernel_path, None)
    with pytest.raises(BootFileError, match="gunzip"):
        guest.boot_files(tmp_path, tmp_path, X86_64)
    for wrong in (archived("Image", b"x"), elf(2, 62), FILES["qcow2 (2)"][0](tmp_path)):
        guest = Guest.kernel(made(gzip.compress(wrong)))
        with pytest.raises(BootFileError, match="compressed by gzip"):
            guest.boot_files(tmp_path, tmp_path, AARCH64)


BOOTED = {
    "x86_64": ("bzImage", "vmlinux", "vmlinux of 32 bits", "vmlinux of another"),
    "i386": ("bzImage", "vmlinux", "vmlinux of 32 bits", "vmlinux of another"),
    "aarch64": (
        "arm64 Image", "arm64 Image with EFI", "zboot", "vmlinux of arm64", "uImage",
        "vmlinux of another",
    ),
    "arm": ("arm zImage", "vmlinux of arm", "uImage", "vmlinux of another"),
    "riscv64": ("riscv Image", "vmlinux of RISC-V", "uImage", "vmlinux of another"),
}  # fmt: skip
ALL_KERNELS = [name for name, (_, _, right) in FILES.items() if right == {KERNEL}]


@pytest.mark.parametrize("name", ALL_KERNELS)
@pytest.mark.parametrize("architecture", [*BOOTED, "s390x"])
def test_a_kernel_of_another_architecture_is_refused(made, tmp_path, name, architecture):
    guest, emulated = Guest.kernel(made(FILES[name][0])), architecture_named(architecture)
    if name in BOOTED.get(architecture, ALL_KERNELS):
        assert guest.boot_files(tmp_path, tmp_path, emulated) == (guest.kernel_path, None)
    else:
        with pytest.raises(BootFileError, match="QEMU boots no such kernel here"):
            guest.boot_files(tmp_path, tmp_path, emulated)


@pytest.mark.parametrize("name", ["qcow2", "text", "bzImage", "zip", "iso", "cpio (odc)", "disk"])
def test_an_initrd_that_is_none_is_refused(made, tmp_path, name):
    kernel = tmp_path / "kernel"
    shutil.copyfile(find_images()[0], kernel)
    guest = Guest.kernel(kernel, made(FILES[name][0]))
    with pytest.raises(BootFileError, match=r"^the initrd .* cannot be booted: it is "):
        guest.boot_files(tmp_path, tmp_path, X86_64)


# --- busybox --------------------------------------------------------------------------------------


def link(path, target):
    return initramfs.Entry(path, 0o120777, target.encode())


def newc(*entries):
    return initramfs.archive(entries, alone=True)


BUSYBOX = initramfs.file_entry("bin/busybox", b"x" * 1001, 0o755)
IN_USR = initramfs.file_entry("usr/bin/busybox", b"x", 0o755)
OTHER = initramfs.file_entry("bin/bash", b"x" * 300_000, 0o755)
MICROCODE = newc(initramfs.file_entry("kernel/x86/microcode/GenuineIntel.bin", b"x" * 1000))
BEHIND = MICROCODE + bytes(-len(MICROCODE) % 512)


def dotted(archive):
    """Return the archive as `find . | cpio` writes it: the name is two bytes longer."""
    name = b"bin/busybox\0"
    at_ = archive.index(name) - 110
    head = archive[at_ : at_ + 94] + b"%08x" % (len(name) + 2) + archive[at_ + 102 : at_ + 110]
    rest = archive[at_ + 110 + len(name) :].lstrip(b"\0")
    padded = head + b"./" + name
    return archive[:at_] + padded + bytes(-(len(padded)) % 4) + rest


INITRDS = {
    "plain": (newc(OTHER, BUSYBOX), True),
    "with ./": (dotted(newc(OTHER, BUSYBOX)), True),
    "gzip": (gzip.compress(newc(OTHER, BUSYBOX)), True),
    "xz": (lzma.compress(newc(OTHER, BUSYBOX)), True),
    "bzip2": (bz2.compress(newc(OTHER, BUSYBOX)), True),
    "behind microcode": (BEHIND + gzip.compress(newc(BUSYBOX)), True),
    "in the second": (gzip.compress(newc(OTHER)) + bytes(512) + gzip.compress(newc(BUSYBOX)), True),
    "in /usr": (newc(link("bin", "usr/bin"), OTHER, IN_USR), True),
    "in /usr, linked later": (newc(IN_USR, link("bin", "/usr/bin")), True),
    "in /usr without the link": (newc(IN_USR), False),
    "none": (newc(OTHER), False),
    "none, gzip": (BEHIND + gzip.compress(newc(OTHER)), False),
    "none, xz": (lzma.compress(newc(OTHER)), False),
    "another's name": (newc(initramfs.file_entry("opt/bin/busybox", b"")), False),
    "behind zstd": (BEHIND + by_program("zstd", "-c")(newc(OTHER)), None),
    "lz4": (by_program("lz4", "-lc")(newc(OTHER)), None),
    "behind what is unknown": (newc(OTHER) + b"unknown", None),
    "cut": (newc(OTHER)[:-600], None),
    "cut, gzip": (gzip.compress(newc(OTHER))[:-20], None),
}


@pytest.mark.parametrize(("content", "found"), INITRDS.values(), ids=INITRDS)
def test_a_setup_is_refused_where_the_initrd_surely_lacks_busybox(tmp_path, content, found):
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"kernel")
    initrd.write_bytes(content)
    (tmp_path / "cache").mkdir()
    prepared = Guest.kernel(kernel, initrd, setup="true")
    if found is False:
        with pytest.raises(BootFileError, match=r"it holds no /bin/busybox.*setup"):
            prepared.boot_files(tmp_path / "cache", tmp_path, X86_64)
    else:
        assert prepared.boot_files(tmp_path / "cache", tmp_path, X86_64)[1].exists()
    # By its own init it boots without, and a setup may be given its busybox.
    assert Guest.kernel(kernel, initrd).boot_files(tmp_path, tmp_path, X86_64)[1] == initrd
    (tmp_path / "busybox").write_bytes(b"x")
    given = Guest.kernel(kernel, initrd, files={"busybox": "/bin/busybox"}, setup="true")
    assert given.boot_files(tmp_path / "cache", tmp_path, X86_64)[1].exists()


@pytest.mark.parametrize("field", [6, 11], ids=["content", "name"])
def test_an_initrd_of_hostile_sizes_is_no_trouble(tmp_path, field):
    initrd = tmp_path / "initrd"
    broken = bytearray(newc(OTHER))
    broken[6 + 8 * field : 14 + 8 * field] = b"ffffffff"
    initrd.write_bytes(broken)
    assert has_busybox(initrd) is None

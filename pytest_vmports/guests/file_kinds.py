"""What a file is by its bytes, and what to do where another kind of file was wanted.

Sources: each format's own specification, as file(1)'s table of magic numbers sums them up; for
kernels the kernel's ``Documentation/arch/x86/boot.rst``, ``arm64/booting.rst`` and
``riscv/boot-image-header.rst``, and ``drivers/firmware/efi/libstub/zboot-header.S``.
"""

from __future__ import annotations

import bz2
import lzma
import shlex
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_vmports.guests import host_files

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

DISK: Final = "disk"
"""A disk that firmware boots."""
DATA: Final = "data"
"""A disk of a guest whose kernel is booted directly: it needs no boot loader."""
KERNEL: Final = "kernel"
INITRD: Final = "initrd"
_ANYTHING = (DISK, DATA, KERNEL, INITRD)

_HEAD = 36 << 10  # the volume descriptor of a CD's image begins at 32 KiB
_SECTOR = 512
_MOST_MEMORY = 256 << 20  # as unpacking by xz needs at its highest level, and some more
_FOOTER = b"conectix"
_FOOTER_OF_DMG = b"koly"
_PARTITIONS = range(446, 510, 16)
_BOOT_SECTOR = (510, b"\x55\xaa")
_CONVERT = "convert it: qemu-img convert -O qcow2 {path} new.qcow2"
_AGAIN = "fetch it again and look at what came"
_AS_KERNEL = "give it as kernel="
_AS_DISK = "give it to Guest.disk as the disk to boot"


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        name: a word for it.
        what: what to call it in a sentence.
        marks: the bytes that tell it, each with its place in the file; all have to be there.
        remedies: for each use that it is wrong for, what to do; ``{path}`` is the file's path.
        unless: marks of which one makes it right as a disk all the same.
    """

    name: str
    what: str
    marks: tuple[tuple[int, bytes], ...]
    remedies: Mapping[str, str]
    unless: tuple[tuple[int, bytes], ...] = ()


def _compressed(name: str, marks: tuple[tuple[int, bytes], ...], command: str) -> Kind:
    # Linux decompresses an initrd by itself, in any of these ways.
    remedies = dict.fromkeys((DISK, DATA, KERNEL), f"decompress it: {command}")
    return Kind(name, f"compressed by {name}", marks, remedies)


def _archive(name: str, what: str, mark: bytes, remedy: str, *, at: int = 0) -> Kind:
    return Kind(name, what, ((at, mark),), dict.fromkeys(_ANYTHING, remedy))


def _image(name: str, *marks: tuple[int, bytes], disk: str = _CONVERT) -> Kind:
    remedies = {**dict.fromkeys((DISK, DATA), disk)}
    remedies.update(dict.fromkeys((KERNEL, INITRD), _AS_DISK))
    return Kind(name, f"a {name} image", marks, remedies)


def _file_system(name: str, *marks: tuple[int, bytes]) -> Kind:
    disk = (
        "nothing in it boots by itself: give kernel= and append='root=/dev/vda', or name an image "
        "of a whole disk"
    )
    kernel = "take the kernel out of it, or give it to Guest.disk with that kernel"
    what = f"a bare {name} file system"
    return Kind(name, what, marks, {DISK: disk, KERNEL: kernel}, unless=(_BOOT_SECTOR,))


def _cpio(name: str, what: str, mark: bytes, *, initrd: str | None = None) -> Kind:
    remedies = dict.fromkeys((DISK, DATA, KERNEL), "give it as initrd=")
    return Kind(
        name, what, ((0, mark),), remedies if initrd is None else {**remedies, INITRD: initrd}
    )


def _kernel(name: str, what: str, *marks: tuple[int, bytes]) -> Kind:
    foreign = (
        "QEMU boots no such kernel here: name one of the architecture that it emulates, or another "
        "QEMU by the setting qemu"
    )
    return Kind(
        name, what, marks, {**dict.fromkeys((DISK, DATA, INITRD), _AS_KERNEL), KERNEL: foreign}
    )


def _elf(machine: bytes = b"") -> tuple[tuple[int, bytes], ...]:
    return ((0, b"\x7fELF"), (18, machine))


# The first that fits counts, so what is told by more bytes stands before what is told by fewer.
KINDS: Final = (
    _compressed("gzip", ((0, b"\x1f\x8b"),), "gunzip -k {path}"),
    _compressed("xz", ((0, b"\xfd7zXZ\0"),), "xz -dk {path}"),
    _compressed("zstd", ((0, b"\x28\xb5\x2f\xfd"),), "zstd -d {path}"),
    _compressed("bzip2", ((0, b"BZh"), (4, b"1AY&SY")), "bzip2 -dk {path}"),
    _compressed("lz4", ((0, b"\x04\x22\x4d\x18"),), "lz4 -d {path}"),
    _compressed("lz4 (legacy)", ((0, b"\x02\x21\x4c\x18"),), "lz4 -d {path}"),
    _compressed("lzma", ((0, b"\x5d\0\0"),), "xz -dk --format=lzma {path}"),
    _compressed("lzop", ((0, b"\x89LZO\0\r\n\x1a\n"),), "lzop -d {path}"),
    _archive("compress", "compressed by compress", b"\x1f\x9d", "decompress it: gunzip -k {path}"),
    _archive("lzip", "compressed by lzip", b"LZIP\x01", "decompress it: lzip -dk {path}"),
    _archive("zip", "a zip archive", b"PK\x03\x04", "unpack it: unzip {path}"),
    _archive("7z", "a 7z archive", b"7z\xbc\xaf\x27\x1c", "unpack it: 7z x {path}"),
    _archive("rar", "a rar archive", b"Rar!\x1a\x07", "unpack it: unrar x {path}"),
    _archive("deb", "a Debian package", b"!<arch>\ndebian", "unpack it: dpkg-deb -x {path} ."),
    _archive("rpm", "an RPM package", b"\xed\xab\xee\xdb", "unpack it: rpm2cpio {path} | cpio -id"),
    _archive("wim", "a Windows installation image", b"MSWIM\0\0\0", "install from it into a disk"),
    _archive("tar", "a tar archive", b"ustar", "unpack it: tar -xf {path}", at=257),
    _archive("simg", "an Android sparse image", b"\x3a\xff\x26\xed", "simg2img {path} new.raw"),
    _image("qcow2", (0, b"QFI\xfb\0\0\0\x02"), disk="leave format out, or write format='qcow2'"),
    _image("qcow2", (0, b"QFI\xfb\0\0\0\x03"), disk="leave format out, or write format='qcow2'"),
    _image("qcow", (0, b"QFI\xfb")),
    _image("qed", (0, b"QED\0")),
    _image("vmdk", (0, b"KDMV")),
    _image("vmdk", (0, b"COWD")),
    _image("vmdk", (0, b"# Disk DescriptorFile")),
    _image("vdi", (0x40, b"\x7f\x10\xda\xbe")),
    _image("vhdx", (0, b"vhdxfile")),
    _image("vhd", (0, _FOOTER), disk=_CONVERT.replace("convert -O", "convert -f vpc -O")),
    _image("parallels", (0, b"WithoutFreeSpace")),
    _image("parallels", (0, b"WithouFreSpacExt")),
    *(
        Kind(
            "luks", f"encrypted (LUKS {version})", ((0, b"LUKS\xba\xbe" + mark),),
            dict.fromkeys(
                _ANYTHING, "nobody would type its passphrase: decrypt it (cryptsetup open {path} "
                "plain, then copy /dev/mapper/plain), or use an image without encryption; where "
                "the initrd has the key, format='raw' takes it as it is",
            ),
        )
        for version, mark in ((1, b"\0\x01"), (2, b"\0\x02"))
    ),
    _kernel("bzImage", "a Linux kernel for x86", (514, b"HdrS")),
    _kernel("arm64 Image", "a Linux kernel for arm64", (56, b"ARM\x64")),
    _kernel("riscv Image", "a Linux kernel for RISC-V", (56, b"RSC\x05")),
    _kernel("arm zImage", "a Linux kernel for arm", (36, b"\x18\x28\x6f\x01")),
    _kernel("zboot", "a Linux kernel (EFI zboot)", (0, b"MZ"), (4, b"zimg")),
    _kernel("U-Boot", "an image for U-Boot", (0, b"\x27\x05\x19\x56")),
    Kind(
        "module", "an object file, as a module of a kernel", ((0, b"\x7fELF"), (16, b"\1\0")),
        dict.fromkeys(_ANYTHING, "name the kernel that it belongs to, as vmlinuz"),
    ),
    _kernel("ELF for x86", "an ELF program for x86, as a vmlinux", *_elf(b"\x3e\0")),
    _kernel("ELF for x86", "an ELF program for x86 of 32 bits", *_elf(b"\x03\0")),
    _kernel("ELF for arm64", "an ELF program for arm64, as a vmlinux", *_elf(b"\xb7\0")),
    _kernel("ELF for arm", "an ELF program for arm, as a vmlinux", *_elf(b"\x28\0")),
    _kernel("ELF for RISC-V", "an ELF program for RISC-V, as a vmlinux", *_elf(b"\xf3\0")),
    _kernel("ELF", "an ELF program, as a vmlinux", *_elf()),
    Kind(
        "efi", "an EFI program, as GRUB or a unified kernel image", ((0, b"MZ"),),
        {
            KERNEL: "name the kernel itself; a unified kernel image holds one: objcopy -O binary "
            "--only-section=.linux {path} vmlinuz",
            INITRD: "name the initrd itself",
            **dict.fromkeys((DISK, DATA), "put it into an EFI system partition of a disk image"),
        },
    ),
    _cpio("cpio", "a cpio archive, as an initrd", b"070701"),
    _cpio("cpio (crc)", "a cpio archive, as an initrd", b"070702"),
    _cpio(
        "cpio (odc)", "a cpio archive in a format that Linux does not unpack", b"070707",
        initrd="make it again with cpio -o -H newc",
    ),
    _cpio(
        "cpio (binary)", "a cpio archive in a format that Linux does not unpack", b"\xc7\x71",
        initrd="make it again with cpio -o -H newc",
    ),
    Kind(
        "iso", "an image of a CD (ISO 9660)", ((0x8001, b"CD001"),),
        {
            DISK: "VMs have no CD drive: install from it into a disk image, or use the "
            "distribution's image for clouds",
            **dict.fromkeys((KERNEL, INITRD), "take kernel and initrd out: 7z x {path}"),
        },
        unless=(_BOOT_SECTOR,),  # made to be written to a stick, which boots like a disk
    ),
    _file_system("xfs", (0, b"XFSB")),
    _file_system("squashfs", (0, b"hsqs")),
    _file_system("btrfs", (0x10040, b"_BHRfS_M")),
    _file_system("erofs", (1024, b"\xe2\xe1\xf5\xe0")),
    _file_system("f2fs", (1024, b"\x10\x20\xf5\xf2")),
    _file_system("ext", (1024 + 56, b"\x53\xef")),
    Kind(
        "lvm", "a volume of LVM without a boot loader", ((512, b"LABELONE"),),
        {
            DISK: "nothing in it boots by itself: give kernel= and an initrd= that knows LVM",
            **dict.fromkeys((KERNEL, INITRD), "name the file itself"),
        },
        unless=(_BOOT_SECTOR,),
    ),
    Kind(
        "swap", "swap space", ((4086, b"SWAPSPACE2"),),
        dict.fromkeys(_ANYTHING, "no remedy: nothing is in it, name another file"),
    ),
    _archive(
        "lfs", "a pointer of Git LFS and not the file itself", b"version https://git-lfs",
        "fetch the file: git lfs pull",
    ),
    _archive(
        "annex", "a pointer of git-annex and not the file itself", b"/annex/objects/",
        "fetch the file: git annex get {path}",
    ),
)  # fmt: skip
KERNELS: Final = frozenset(kind.name for kind in KINDS if kind.remedies.get(INITRD) == _AS_KERNEL)
_TEXT = Kind("text", "a text", (), dict.fromkeys(_ANYTHING, _AGAIN))
_PAGE = Kind("page", "a web page, as of a failed download", (), dict.fromkeys(_ANYTHING, _AGAIN))
_VHD_BY_ITS_END = next(kind for kind in KINDS if kind.name == "vhd")
_DMG = _image("dmg")
_WHOLE_DISK = Kind(
    "disk", "an image of a disk with partitions", (), dict.fromkeys((KERNEL, INITRD), _AS_DISK)
)
_OVA = _archive(
    "ova", "an OVA (an archive with a vmdk in it)", b"ustar",
    "unpack it (tar -xf {path}) and convert its disk: qemu-img convert -O qcow2 *.vmdk new.qcow2",
    at=257,
)  # fmt: skip


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of file that begins so; None for one that is not in the table."""
    for kind in KINDS:
        if _has(head, kind.marks):
            return _tar_or_ova(head, kind)
    return _WHOLE_DISK if _has_partitions(head) else _text(head)


def wrong(path: Path, use: str, *, right: Collection[str] = ()) -> tuple[str, str] | None:
    """Return what a file is that cannot be used so, and what to do; None where it may be right.

    Args:
        path: the file.
        use: `DISK`, `DATA`, `KERNEL` or `INITRD`.
        right: names of kinds that are right here all the same.

    Raises:
        OSError: it cannot be read.
    """
    with host_files.open_file(path) as file:
        # As much again, so that enough of what is compressed comes out.
        head = file.read(2 * _HEAD)
        size = file.seek(0, 2)
        file.seek(max(0, size - _SECTOR))
        end = file.read(_SECTOR)
    kind = _DMG if end.startswith(_FOOTER_OF_DMG) else kind_of(head)
    if (kind is None or kind is _WHOLE_DISK) and end.startswith(_FOOTER):
        kind = _VHD_BY_ITS_END
    if kind is None:
        return None
    inner = _inside(kind, head)
    # What Linux decompresses, or QEMU, is judged by what comes out.
    unpacked = use == INITRD or kind.name in right
    if inner is not None and unpacked and use in inner.remedies and inner.name not in right:
        return f"it is {inner.what}, {kind.what}", _said(inner.remedies[use], path)
    if kind.name in right:
        return None
    remedy = kind.remedies.get(use)
    if remedy is None or (use == DISK and any(_has(head, (mark,)) for mark in kind.unless)):
        return None
    if inner is not None and inner.name in {"tar", "ova"}:
        return f"it is {inner.what}, {kind.what}", _said(inner.remedies[use], path)
    return f"it is {kind.what}", _said(remedy, path)


def _inside(kind: Kind, head: bytes) -> Kind | None:
    """Return the kind of what is compressed, where that can be told."""
    try:
        if kind.name == "gzip":
            start = zlib.decompressobj(31).decompress(head, _HEAD)
        elif kind.name in {"xz", "lzma"}:
            start = lzma.LZMADecompressor(memlimit=_MOST_MEMORY).decompress(head, _HEAD)
        elif kind.name == "bzip2":
            start = bz2.BZ2Decompressor().decompress(head, _HEAD)
        else:
            return None
    except (zlib.error, lzma.LZMAError, OSError):  # the last is bzip2's word
        return None
    return kind_of(start)


def _said(remedy: str, path: Path) -> str:
    return remedy.replace("{path}", shlex.quote(str(path)))


def _has(head: bytes, marks: tuple[tuple[int, bytes], ...]) -> bool:
    return all(head[at : at + len(mark)] == mark for at, mark in marks)


def _has_partitions(head: bytes) -> bool:
    if not _has(head, (_BOOT_SECTOR,)):
        return False
    flags, kinds = ({head[at + more] for at in _PARTITIONS} for more in (0, 4))
    return flags <= {0, 0x80} and kinds != {0}


def _tar_or_ova(head: bytes, kind: Kind) -> Kind:
    first = head[:100].partition(b"\0")[0]
    return _OVA if kind.name == "tar" and first.endswith(b".ovf") else kind


def _text(head: bytes) -> Kind | None:
    start = head[:_SECTOR]
    # The last character may be cut.
    text = start.decode(errors="replace").rstrip("\N{REPLACEMENT CHARACTER}").lstrip("\ufeff")
    if not any(c.isspace() for c in text) or not all(c.isprintable() or c.isspace() for c in text):
        return None
    if "\N{REPLACEMENT CHARACTER}" in text or text.isspace():
        return None
    return (
        _PAGE if text.lstrip().lower().startswith(("<!doctype html", "<html", "<?xml")) else _TEXT
    )

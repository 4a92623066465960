"""What the first bytes of a raw image tell: whether it is whole, and whether a BIOS can boot it.

Sources: the UEFI specification, chapter 5 (GPT), and the kernel's
``Documentation/filesystems/ext4`` (super block).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pytest_vmports.guests import host_files

if TYPE_CHECKING:
    from pathlib import Path

_SECTOR: Final = 512
_HEAD: Final = 8192
_CODE: Final = 440
"""The bytes of a boot sector that hold its program, and nothing else."""
_AGAIN: Final = "fetch or build it again"
_GPT_ENTRY_TYPE: Final = 0xEE
_EXT_64BIT: Final = 0x80


def problem(path: Path, firmware: str | None) -> tuple[str, str] | None:
    """Return what is wrong and what to do, or None.

    Args:
        path: a raw image.
        firmware: what boots it, ``bios`` or ``uefi``; None where a kernel of its own does.

    Raises:
        OSError: it cannot be read.
    """
    with host_files.open_file(path) as file:
        head = file.read(_HEAD)
        size = file.seek(0, 2)
    wanted = _least_size(head)
    if wanted > size:
        return f"it is truncated: {size} bytes of {wanted} that its own tables name", _AGAIN
    if firmware is None:
        return None
    if not _has_boot_sector(head) and not _is_gpt(head):
        remedy = f"{_AGAIN}, or give kernel= and append='root=/dev/vda' for a bare file system"
        return "it has no boot sector and no partitions, so no firmware can boot it", remedy
    if firmware == "bios" and not (_has_boot_sector(head) and any(head[:_CODE])):
        return "it has no boot loader for a BIOS", "give firmware='uefi', which may find another"
    return None


def _is_gpt(head: bytes) -> bool:
    # A header is in the second sector, whose size may be that of newer disks.
    return any(head[sector : sector + 8] == b"EFI PART" for sector in (_SECTOR, 4096))


def _has_boot_sector(head: bytes) -> bool:
    return head[510:512] == b"\x55\xaa"


def _least_size(head: bytes) -> int:
    """Return the bytes that the image's tables say it has; 0 when they say nothing."""
    if head[512:520] == b"EFI PART" and len(head) >= 2 * _SECTOR:
        (last,) = struct.unpack_from("<Q", head, 512 + 32)
        return int(last + 1) * _SECTOR
    if _ext_magic(head):
        return _ext_size(head)
    if not _has_boot_sector(head):
        return 0
    ends = [0]
    for entry in range(446, 510, 16):
        kind = head[entry + 4]
        first, count = struct.unpack_from("<II", head, entry + 8)
        # A file system's own boot sector ends alike, and has code where a table would be.
        if head[entry] not in {0x00, 0x80}:
            return 0
        if kind not in {0, _GPT_ENTRY_TYPE}:
            ends.append((first + count) * _SECTOR)
    return max(ends)


def _ext_magic(head: bytes) -> bool:
    return head[1024 + 56 : 1024 + 58] == b"\x53\xef"


def _ext_size(head: bytes) -> int:
    low, log_size = struct.unpack_from("<I", head, 1024 + 4)[0], head[1024 + 24]
    (features,) = struct.unpack_from("<I", head, 1024 + 96)
    high = struct.unpack_from("<I", head, 1024 + 336)[0] if features & _EXT_64BIT else 0
    return int((high << 32 | low) * (1024 << log_size))

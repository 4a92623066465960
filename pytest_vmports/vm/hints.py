"""What to do about a kernel's panic, where its words tell."""

from __future__ import annotations

import re
from typing import Final

from pytest_vmports.vm.crashes import clean

_MEMORY: Final = (
    "it has too little memory: raise memory (the setting, or the one of its Guest), or give it "
    "less to unpack"
)
_BUSYBOX: Final = (
    "its init could not be run: where the guest has a setup, our init needs /bin/busybox in the "
    "initrd, for the guest's own processor"
)
_ROOT: Final = (
    "it found no root: give append='root=/dev/vda' (or the partition's name, as /dev/vda1) and an "
    "initrd= where the kernel has no driver of its own for the disk"
)
# What a panic comes of stands just before it. Lines are cut, since patterns go over them in turns.
_LINES, _LONGEST_LINE = 500, 300
# The first that fits counts: a kernel that could not unpack its initrd finds no root for that.
_HINTS: Final = (
    (
        (
            r"System is deadlocked on memory|Out of memory and no killable processes"
            r"|Initramfs unpacking failed: (?:write error|[^\n]*memory)|panic_on_oom is enabled"
            r"|initrd extends beyond end of memory"
            r"|Kernel panic[^\n]*(?i:not enough|out of|fail\w* to allocate)[^\n]* memory"
        ),
        _MEMORY,
    ),
    (
        (
            r"(?:Failed to execute|Requested init) /(?:init|bin/busybox)\b[^\n]*error -(?:2|8)\b"
            r"|No working init found"
        ),
        _BUSYBOX,
    ),
    (r"VFS: Unable to mount root fs|Cannot open root device", _ROOT),
)


def of(console: str) -> str:
    """Return a line that tells what to do, or nothing.

    Args:
        console: of a guest whose kernel has panicked.
    """
    lines = clean(console).splitlines()[-_LINES:]
    text = "\n".join(line[:_LONGEST_LINE] for line in lines)
    hint = next((hint for words, hint in _HINTS if re.search(words, text)), None)
    return "" if hint is None else f"{hint}\n"

"""A kernel for riscv64 and an initrd for it, put together from the packages of a Debian release.

Debian has this architecture from its release 13 on: on an older one the packages come from that.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import apt_sources
import arm64_guest
from cached import cached

PROGRAMS = ("qemu-system-riscv64", "apt-get", "dpkg-deb")
_BEFORE, _FIRST = {"bullseye", "bookworm"}, "trixie"


def missing() -> list[str]:
    """Return what has to be installed before the guest can be made here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def kernel_and_initrd() -> tuple[Path, Path]:
    """Return both, fetched and made when they are not in the cache.

    Raises:
        CannotMakeError: this machine's sources do not tell where from.
    """
    source = Path(__file__).read_bytes() + Path(arm64_guest.__file__).read_bytes()
    folder = cached("riscv64", source, _make)
    return folder / "vmlinuz", folder / "initrd"


def _make(folder: Path) -> None:
    suite = _FIRST if apt_sources.release("VERSION_CODENAME") in _BEFORE else ""
    arm64_guest.put_together(folder, arm64_guest.Apt(folder / "apt", "riscv64", suite))

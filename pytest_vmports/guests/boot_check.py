"""Whether kernel and initrd are what they are given for, told by their bytes before they boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import BootFileError
from pytest_vmports.guests import file_kinds
from pytest_vmports.guests.initrd import BUSYBOX, has_busybox

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def check(
    kernel: Path | None, initrd: Path | None, *, kernels: Collection[str], busybox: bool
) -> None:
    """Refuse files that cannot be booted. What cannot be told is let through.

    Args:
        kernel: the kernel; None where firmware finds it.
        initrd: the initrd, or None.
        kernels: the kinds that QEMU boots; none where that is not known.
        busybox: the initrd has to bring it.

    Raises:
        BootFileError: one of them is of another kind, or lacks what it needs.
    """
    if kernel is not None:
        right = kernels or file_kinds.KERNELS
        _refuse("the kernel", kernel, file_kinds.wrong(kernel, file_kinds.KERNEL, right=right))
    if initrd is None:
        return
    _refuse("the initrd", initrd, file_kinds.wrong(initrd, file_kinds.INITRD))
    if busybox and has_busybox(initrd) is False:
        remedy = (
            "leave the setup out and let its own init boot, put busybox there with files= (a "
            f"static one, as /{BUSYBOX}), or name another initrd"
        )
        found = f"it holds no /{BUSYBOX}, which our init needs for the guest's setup"
        _refuse("the initrd", initrd, (found, remedy))


def _refuse(what: str, path: Path, problem: tuple[str, str] | None) -> None:
    if problem is not None:
        raise BootFileError(what=what, path=str(path), problem=problem[0], remedy=problem[1])

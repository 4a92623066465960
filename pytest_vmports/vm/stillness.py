"""What QEMU tells of a guest that is silent: processors that halted, or a boot that never began.

Of PCs alone: of other processors QEMU shows no such thing, and nothing is concluded. Of most silent
guests nothing can be: one that serves and one that never will both wait for interrupts. What is
certain is a processor that halted with its interrupts off. And who has not switched paging on for a
minute, and neither read a disk nor wrote a word, is no system that still starts.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

from pytest_vmports.errors import MonitorError
from pytest_vmports.system import clock

# Source: QEMU's cpu-dump.c of that target.
_FLAGS = re.compile(r"\b[ER]FL=([0-9a-f]+) .*\bHLT=([01])\b")
_CR0 = re.compile(r"^CR0=([0-9a-f]+)\b", re.MULTILINE)
_INTERRUPTS, _PAGING = 1 << 9, 1 << 31
# Between two looks: QEMU stops its processors for each, for a millisecond.
_SECONDS = 5.0
_HALTED_LOOKS = 2
# A minute. Ubuntu's GRUB shows its menu for 30 s after a boot that failed, on whatever screen.
# Looks are counted, so that time in which this machine was suspended counts for nothing.
_LOADER_LOOKS = 12


class Processor(NamedTuple):
    """One of a guest's processors.

    Attributes:
        halted: it waits for an interrupt.
        interrupts: it takes them.
        paging: it has paging switched on, as Linux has from its begin on.
    """

    halted: bool
    interrupts: bool
    paging: bool

    @property
    def dead(self) -> bool:
        """Whether it will never do anything again."""
        return self.halted and not self.interrupts


class Verdict(NamedTuple):
    """Why a guest will never be ready: what it means, as the rest of a sentence; what to do."""

    means: str
    remedy: str


HALTED: Final = Verdict(
    "its processors have halted for good, with interrupts switched off",
    "a boot sector or kernel that gives up does so, and may have said why on another console: "
    "give its kernel console=ttyS0; with display = yes a failing test's artifacts show its screen",
)
NO_SYSTEM: Final = Verdict(
    "it has not left its BIOS or boot loader, which do nothing any more",
    "they may wait for a key, or show a menu, on a screen that nobody sees (with display = yes a "
    "failing test's artifacts show it): set a timeout in the image (GRUB_TIMEOUT=0 and "
    "update-grub), or boot past them with kernel=, initrd= and append=; or what they booted is not "
    "made for this machine",
)


class Monitor(Protocol):
    """What is asked of QEMU's monitor."""

    def registers(self) -> str:
        """Return what HMP's ``info registers -a`` prints."""

    def disk_operations(self) -> object:
        """Return what changes with each operation of a disk."""


def processors(registers: str) -> list[Processor]:
    """Return a guest's processors; none where this is no PC.

    Args:
        registers: what HMP's ``info registers -a`` prints.
    """
    flags, controls = _FLAGS.findall(registers), _CR0.findall(registers)
    if len(flags) != len(controls):
        return []
    return [
        Processor(halted == "1", bool(int(flag, 16) & _INTERRUPTS), bool(int(cr0, 16) & _PAGING))
        for (flag, halted), cr0 in zip(flags, controls, strict=True)
    ]


class Stillness:
    """Looks at a guest's processors for as long as its console is silent.

    Args:
        monitor: QEMU's; one that does not answer concludes nothing.
        by_bios: a PC's BIOS begins its boot. UEFI works for long without paging, and in silence.
    """

    def __init__(self, monitor: Monitor, *, by_bios: bool) -> None:
        self._monitor = monitor
        self._by_bios = by_bios
        self.begin()

    def begin(self) -> None:
        """Begin anew: the guest has just shown that it lives."""
        self._next = clock.now() + _SECONDS
        self._disks: object = None
        self._halted_looks = self._loader_looks = 0

    def look(self) -> Verdict | None:
        """Return why the guest will never be ready; None where that is not certain.

        May be called often.
        """
        now = clock.now()
        if now < self._next:
            return None
        self._next = now + _SECONDS
        try:
            seen = processors(self._monitor.registers())
            disks = self._monitor.disk_operations()
        except MonitorError:
            seen, disks = [], None
        halted = bool(seen) and all(one.dead for one in seen)
        self._halted_looks = self._halted_looks + 1 if halted else 0
        idle = self._by_bios and bool(seen) and not any(one.paging for one in seen)
        self._loader_looks = self._loader_looks + 1 if idle and disks == self._disks else 0
        self._disks = disks
        if self._halted_looks >= _HALTED_LOOKS:
            return HALTED
        return NO_SYSTEM if self._loader_looks >= _LOADER_LOOKS else None

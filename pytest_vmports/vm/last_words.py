"""A table of last words: what a console ends with when a boot is over and has failed.

Whoever writes such words waits for somebody to type, or for nothing. They count only while a VM is
waited for, at the very end of the console, and when nothing came behind them for some seconds: a
menu that counts down, a service that quotes them and a prompt that a program answers end no wait.

A console that stays empty ends none by itself: a guest may be silent and serve. See `stillness`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_vmports.constants import GUEST_IP
from pytest_vmports.errors import GuestStuckError
from pytest_vmports.system import clock
from pytest_vmports.vm.crashes import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.stillness import Stillness, Verdict

_LOOK_BYTES: Final = 64 << 10
_END = 4000
_LINE_BEGIN, _LINE_END = 200, 2000
# What is written in one go may come in parts from a slow guest.
_SECONDS = 5.0
# A countdown's first number comes behind the menu; a server of keys (Clevis, Tang) needs a while.
_MENU_SECONDS, _KEY_SECONDS = 10.0, 30.0
# A kernel's line comes whenever it has something to say, behind a prompt too.
_KERNEL_LINE = re.compile(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? [^\n]*(?:\n|\Z)")
# Who has come so far has left firmware and boot loader, for as long as this QEMU lives.
_LINUX = re.compile(
    r"^\[ *\d+\.\d{6}\]|^Linux version \d|^\[ +OK +\]|^Welcome to (?!GRUB)|systemd\[1\]: ",
    re.MULTILINE,
)
# ... and all of its boot.
_UP = re.compile(r"^\S+ login: |Reached target .*(?:Multi-User|multi-user|Graphical)", re.MULTILINE)


class LastWords(NamedTuple):
    """One row.

    Attributes:
        words: a pattern; it has to match to the console's end, from the begin of a line.
        means: what it means, as the rest of a sentence.
        remedy: what to do.
        before_linux: they are firmware's or a boot loader's.
        beside: a pattern that has to stand before them.
        seconds: how long nothing may have come behind them.
    """

    words: str
    means: str
    remedy: str
    before_linux: bool = False
    beside: str = ""
    seconds: float = _SECONDS


def _firmware(words: str, means: str, remedy: str, beside: str = "") -> LastWords:
    return LastWords(words, means, remedy, before_linux=True, beside=beside)


_OTHER_FIRMWARE = (
    "is the image whole, and made for this firmware? Try firmware='uefi' (or 'bios'), or give "
    "kernel= and append='root=/dev/vda'"
)
_LOADER = (
    "its configuration or a file that it names is not where it looks: repair the image, or boot "
    "past it with kernel=, initrd= and append="
)
_RESCUE = (
    "look for the reason above; most often a disk or file system that /etc/fstab, root= or "
    "crypttab names is not in this VM, whose disk is /dev/vda"
)
_UNLOCK = "nobody types it: use an image without encryption, or one that is unlocked by a key file"
TABLE: Final = (
    _firmware(
        r"(?:No bootable device\.|Boot failed\b)[^\n]*",
        "its BIOS found nothing to boot on the disk", _OTHER_FIRMWARE,
    ),
    _firmware(
        r"BdsDxe: No bootable option or device was found\."
        r"(?:\s+BdsDxe: Press any key to enter the Boot Manager Menu\.)?",
        "its UEFI firmware found nothing to boot on the disk", _OTHER_FIRMWARE,
    ),
    _firmware(
        r"Shell>", "its UEFI firmware found nothing to boot on the disk, and offers its own shell",
        _OTHER_FIRMWARE, beside=r"UEFI Interactive Shell|EFI Shell version",
    ),
    _firmware(
        r"[^\n]*<Enter>=Select Entry.{0,400}",
        "its UEFI firmware found nothing to boot on the disk, and shows its own menu",
        _OTHER_FIRMWARE,
    ),
    _firmware(
        r"(?:Missing operating system|Operating system not found|No operating system found"
        r"|Error loading operating system|Invalid partition table|(?:BOOTMGR|NTLDR) is missing"
        r"|Non-System disk(?: or disk error)?|This is not a bootable disk)\b[^\n]*"
        # Each begins a line: else one could be read in two ways, and a few dozen in 2**36.
        r"(?:\n\s*(?:Press|press|Replace|Remove) [^\n]*)*",
        "the disk's boot sector found no system to boot", _OTHER_FIRMWARE,
    ),
    _firmware(r"boot:", "its boot loader (SYSLINUX) asks what to boot", _LOADER),
    _firmware(
        r"grub rescue>", "its boot loader (GRUB) did not find its own files", _LOADER
    ),
    _firmware(r"grub>", "its boot loader (GRUB) found no configuration", _LOADER),
    LastWords(
        r"[^\n]*Press enter to boot the selected OS"
        r"(?:(?!executed automatically|Booting [`']|Loading |error: |(?:\n[^\n]*){7}).){0,3000}",
        "its boot loader (GRUB) shows its menu and has no timeout",
        "set a timeout in the image (GRUB_TIMEOUT=0 and update-grub), or boot past it with "
        "kernel=, initrd= and append=",
        before_linux=True, seconds=_MENU_SECONDS,
    ),
    LastWords(
        r"\(initramfs\)", "its initrd found no root file system and offers a shell", _RESCUE
    ),
    LastWords(
        r"(?:dracut:/[^\n]*#|:/(?:root)?#|sh-[\d.]+#)",
        "its initrd (dracut) found no root file system and offers a shell", _RESCUE,
        beside=r"rdsosreport|Entering emergency mode|Dropping to debug shell|dracut-emergency",
    ),
    LastWords(
        r"[^\n]*initramfs emergency recovery shell launched.{0,200}",
        "its initrd (Alpine's) found no root file system and offers a shell", _RESCUE,
    ),
    LastWords(
        r"\[rootfs [^\n\]]*\]#",
        "its initrd (mkinitcpio) found no root file system and offers a shell", _RESCUE,
    ),
    LastWords(
        r"[^\n]*You are in (?:emergency|rescue) mode\. After logging in, type \"journalctl"
        r"(?:(?!^\[ +OK +\]).){0,800}",
        "systemd has ended its boot in emergency mode", _RESCUE,
    ),
    LastWords(
        r"(?:(?:Press Enter|Give root password) for (?:system )?maintenance\s+"
        r"\(or (?:press|type) Control-D[^\n]*"
        r"|[^\n]*root account is locked\.\s+See sulogin\(8\)[^\n]*\s+Press Enter to continue\.)",
        "systemd has ended its boot in emergency mode", _RESCUE,
    ),
    LastWords(r"mountroot>", "its kernel (FreeBSD) found no root file system", _RESCUE),
    LastWords(
        r"(?:\W* )?(?:Please enter (?:the )?(?:LUKS )?(?:passphrase|password|PIN|key)"
        r"(?: or [^\n]*?)? for (?:disk|volume|device) [^\n]*|Please unlock disk [^\n]*"
        r"|Enter (?:LUKS )?passphrase for [^\n]*)",
        "its disk is encrypted (LUKS), and it asks for the passphrase", _UNLOCK,
        seconds=_KEY_SECONDS,
    ),
)  # fmt: skip
# Of a guest whose kernel we boot ourselves, past firmware and boot loader.
AFTER_LOADER: Final = tuple(row for row in TABLE if not row.before_linux)
# No proof that nothing will come, and worth a word when it was waited for in vain.
_LAST_OF_LOADER = re.compile(
    r"(?:Booting from [^\n]*\.\.\.|Loading (?:Linux|initial ramdisk)[^\n]*|EFI stub: [^\n]*"
    r"|Booting (?:`[^\n]*'|a command list)|BdsDxe: starting [^\n]*)\Z"
)
_ELSEWHERE = (
    "and may write to another console: give its kernel console=ttyS0, or what its serial port is "
    "called; or it is not made for this machine"
)

# What a DHCP client says, as u-root's, busybox's or ISC's, on one line with one of these words. It
# ends no wait: some go another way then, and who gives up goes on to a shell, or is silent.
_NO_SUCH_SOCKETS = "address family not supported by protocol"
_OF_PACKETS = "packet", "lpf", "dhc"
_AF_PACKET = (
    "its console tells of a kernel without packet sockets, by which a DHCP client asks for an "
    "address: have its init load their module, af_packet (the bundled kernel's is on its "
    f"package's disk), or set the address without asking: {GUEST_IP}/24"
)


class Watch:
    """Looks at a console for as long as its guest is waited for.

    Args:
        console: the guest's.
        table: the rows that count for it.
        stillness: looks at its processors; None where they are not asked.
    """

    def __init__(
        self, console: Console, table: Sequence[LastWords], stillness: Stillness | None = None
    ) -> None:
        self._console = console
        self._table = table
        self._stillness = stillness
        self._size = -1
        self._since = clock.now()
        self._found: LastWords | None = None
        self._looked = False

    def look(self) -> None:
        """Raise when the console's end or QEMU says that nothing more will come. Costs little.

        Raises:
            GuestStuckError: it does.
        """
        if not self._table and self._stillness is None:
            return
        size, now = self._console.size, clock.now()
        if size != self._size:
            self._size, self._since, self._looked, self._found = size, now, False, None
            if self._stillness is not None:
                self._stillness.begin()
            return
        silent = now - self._since
        if silent >= _SECONDS and not self._looked:
            self._looked = True
            self._found = self._read()
        if self._found is not None and silent >= self._found.seconds:
            raise self._stuck(self._found, self._found.seconds)
        if self._stillness is not None and (verdict := self._stillness.look()) is not None:
            raise self._stuck(verdict, round(silent))

    def so_far(self) -> str:
        """Return what the console's end tells of a guest that was waited for in vain, if anything.

        It goes on from what was waited for, and begins with a semicolon.
        """
        text = clean(self._console.recent()[-_LOOK_BYTES:]).strip()
        if not text:
            return f"; it wrote nothing to its console, {_ELSEWHERE}"
        if _LAST_OF_LOADER.search(text):
            return f"; it wrote nothing since its boot loader did, {_ELSEWHERE}"
        found = self._read()
        if found is None and _lacks_packet_sockets(text):
            return f"; {_AF_PACKET}"
        return "" if found is None else f"; it stands still: {found.means}; {found.remedy}"

    def _stuck(self, why: LastWords | Verdict, seconds: float) -> GuestStuckError:
        words = self._console.last_line()
        ending = f"ends with {words!r}" if words else "is empty"
        return GuestStuckError(
            means=why.means, remedy=why.remedy, words=words, ending=ending, seconds=seconds,
            console=self._console.tail(),
        )  # fmt: skip

    def _read(self) -> LastWords | None:
        return last_words(self._console.end(_LOOK_BYTES), self._table)


def _lacks_packet_sockets(text: str) -> bool:
    lines = (line for line in text.lower().splitlines() if _NO_SUCH_SOCKETS in line)
    return any(word in line for line in lines for word in _OF_PACKETS)


def last_words(console: str, table: Sequence[LastWords] = TABLE) -> LastWords | None:
    """Return the row that a console ends with; None where it ends with no such words."""
    lines = clean(console).split("\n")
    # Cut, since patterns go over a line in turns; its begin is kept as one and no other made.
    text = "\n".join(
        line if len(line) <= _END else f"{line[:_LINE_BEGIN]} … {line[-_LINE_END:]}"
        for line in lines
    )
    if _UP.search(text):
        return None
    linux = _LINUX.search(text) is not None
    text = _KERNEL_LINE.sub("", text).rstrip()
    end = text[-_END:]
    for row in table:
        if row.before_linux and linux:
            continue
        if not re.search(rf"^(?:{row.words})\Z", end, re.MULTILINE | re.DOTALL):
            continue
        if re.search(row.beside, text):
            return row
    return None

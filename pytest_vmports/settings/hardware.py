"""How a setting's text becomes a piece of hardware; see parse."""

from __future__ import annotations

import re
import shlex
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pytest_vmports.settings import parse

if TYPE_CHECKING:
    from pathlib import Path

_NAME = r"[A-Za-z0-9_.-]+"
_CPU = re.compile(rf"{_NAME}(,[+-]?{_NAME}(=[^,\s]*)?)*")

_BY_SETTING = {
    **dict.fromkeys(("-cpu",), "cpu"), **dict.fromkeys(("-m",), "memory"), "-smp": "cpus",
    **dict.fromkeys(("-accel", "-enable-kvm", "-no-kvm"), "accel"),
    "-kernel": "kernel", "-initrd": "initrd", "-append": "append", "-no-reboot": "on_reboot",
}  # fmt: skip
_MONITOR = "QEMU's monitor is ours; one for people comes with pytest-vmports run and keep"
_LISTENS = "it would listen where no lease is held, or wait for a window on a desktop"
_ENDS = "QEMU would only tell something and end"
_LEAVES = "QEMU has to stay our child, with the rights and walls that it is given"
_STARTS = "it decides how QEMU starts, which clones and paused VMs need for themselves"
_REFUSED = {
    **{word: f"use the setting {name}" for word, name in _BY_SETTING.items()},
    **dict.fromkeys(("-monitor", "-mon", "-qmp", "-qmp-pretty"), _MONITOR),
    **dict.fromkeys(
        ("-vnc", "-spice", "-gdb", "-s", "-display", "-nographic", "-curses", "-sdl"), _LISTENS
    ),
    **dict.fromkeys(("-h", "-help", "-version", "-dump-vmstate"), _ENDS),
    **dict.fromkeys(
        ("-daemonize", "-runas", "-run-with", "-chroot", "-pidfile", "-sandbox"), _LEAVES
    ),
    **dict.fromkeys(
        ("-S", "-incoming", "-loadvm", "-preconfig", "-only-migratable", "-snapshot", "-action",
         "-no-shutdown", "-readconfig", "-writeconfig"),
        _STARTS,
    ),
}  # fmt: skip
_OPENS_PORTS = re.compile(r"(^|,)(hostfwd|guestfwd)=")
_MACHINE = ("-machine", "-M")
_SIZE = re.compile(r"(\d{1,7})\s*([MGT])(?:i?B)?", re.IGNORECASE)
_MIB_OF = {"M": 1, "G": 1024, "T": 1024 * 1024}
_MOST_DISKS = 8
_MOST_CARDS = 8
_LARGEST_DISK = 4 * 1024 * 1024
_DISKS = (
    f"up to {_MOST_DISKS} disks: sizes from 1M to 4T, and paths of images, like 512M data.qcow2"
)


def nics(value: Any) -> int | None:
    """Read how many cards a guest has at least; empty means as many as it needs."""
    if value is None or value == "":
        return None
    return parse.whole(1, _MOST_CARDS)(value)


def disks(value: Any, root: Path | None = None) -> tuple[int | str, ...]:
    """Read disks, MiB for each empty one and a path for each image: a text, or a list."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = shlex.split(parse.text(value))
    if not isinstance(value, list | tuple) or len(value) > _MOST_DISKS:
        raise TypeError(f"write {_DISKS}")
    return tuple(_disk(one, root) for one in value)


def _disk(value: Any, root: Path | None) -> int | str:
    if isinstance(value, bool | int | float) or str(value).isdigit():
        raise ValueError(f"{value} has no unit; write {_DISKS}")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        path = parse.path(value, root)
        if path is None:
            raise ValueError(f"one is empty; write {_DISKS}")
        return path
    size = int(match[1]) * _MIB_OF[match[2].upper()]
    if not 1 <= size <= _LARGEST_DISK:
        raise ValueError(f"{value} is no such size; write {_DISKS}")
    return size


def qemu_args(value: Any) -> tuple[str, ...]:
    """Read words for QEMU: a text, as a shell splits it, or a list of words."""
    if value is None:
        return ()
    if isinstance(value, str):
        words = shlex.split(parse.text(value))
    elif isinstance(value, list | tuple):
        words = [parse.text(word) for word in value]
    else:
        raise TypeError("write a text like '-device edu', or a list of words")
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if why := _why_not(word, following):
            raise ValueError(f"{word} is not to be given to QEMU so: {why}")
    return tuple(words)


def _why_not(word: str, following: str) -> str | None:
    """Return why a word is refused; None where it is not."""
    if "\0" in word or "\n" in word:
        return "it has no such characters in it"
    if _OPENS_PORTS.search(word):
        return "ports are forwarded by the marker's, and services of the host by host_ports"
    if not word.startswith("-"):
        return None
    plain = f"-{word.lstrip('-').partition('=')[0]}"  # QEMU takes one sign and two
    if plain in _MACHINE and not re.match(r"[a-z0-9_-]+=", following.removeprefix("type=")):
        return "use the setting machine; of its own options alone, as usb=on, this may follow"
    return _REFUSED.get(plain)


def cpu(value: Any) -> str | None:
    """Read a processor as QEMU's ``-cpu`` takes it; empty means the one that is best here."""
    if re.fullmatch(r"\d{1,3}", str(value)):
        raise ValueError("write a processor, like max; how many there are says cpus")
    written = parse.text_or_none(value)
    if written is not None and not _CPU.fullmatch(written.strip()):
        raise ValueError(
            "write a processor as QEMU's -cpu takes it, like max or qemu64,+avx, without blanks"
        )
    return None if written is None else written.strip()

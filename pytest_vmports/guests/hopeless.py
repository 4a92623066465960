"""Guests that can never be ready as they are asked for: refused before anything boots."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.system.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.guests.guest import Guest

_MIB = 1 << 20
# Beside what is unpacked: kernel, programs and their data.
_FOR_THE_REST, _STEP = 64, 64
_SCRIPTS = frozenset({".sh", ".bash", ".ash", ".py", ".pl", ".rb", ".lua"})
# What replaces or joins the parts by which our init begins; see init.sh and boot.sh.
_BEGINNINGS = frozenset({"/init", "/etc/inittab", "/vmports/boot"})
_SETUPS = PurePosixPath("/vmports/setup.d")


def refuse(guest: Guest, ports: Sequence[int], memory: int, root: Path) -> None:
    """Refuse what cannot work.

    Args:
        guest: what is to be booted.
        ports: the guest ports that will be waited for by TCP.
        memory: its MiB.
        root: what relative paths of its files are relative to.

    Raises:
        SettingError: a setup that names no file, no setup at all where one is needed, or more
            files than memory.
    """
    if guest.image is not None:
        return
    brought = dict(_brought(guest, root))
    for setup in guest.setup:
        _refuse_missing_script(guest, setup, brought, root)
    if guest.prepared and ports:
        _refuse_without_server(guest, ports, brought, root)
    _refuse_too_large(guest, sum(brought.values()), memory)


def _refuse_missing_script(
    guest: Guest, setup: str, brought: dict[PurePosixPath, int], root: Path
) -> None:
    if not _names_a_script(setup) or _is_file(root / setup):
        return
    # It may be one that comes into the guest by `files`, wherever the shell finds it there.
    if PurePosixPath(setup).name in {path.name for path in brought}:
        return
    what = "is a folder" if (root / setup).is_dir() else "does not exist"
    raise SettingError(
        source=f"guest {guest.name}", name="setup", value=setup,
        allowed=f"it looks like a script's path, and {root / setup} {what}: name a script relative "
        f"to pytest's rootdir, which is {root}; for a command of the guest's own write "
        f"'exec {setup}'",
    )  # fmt: skip


def _names_a_script(setup: str) -> bool:
    """Whether a setup is a file's name, and no shell text: `reboot` or `/usr/sbin/sshd` is one."""
    if (
        len(setup.split()) != 1
        or setup != setup.strip()
        or any(c in setup for c in "&;|<>$`(){}'\"")
    ):
        return False
    path = PurePosixPath(setup)
    return path.suffix in _SCRIPTS or ("/" in setup and not path.is_absolute())


def _refuse_without_server(
    guest: Guest, ports: Sequence[int], brought: dict[PurePosixPath, int], root: Path
) -> None:
    if any(_does_something(_text(setup, root)) for setup in guest.setup):
        return
    if any(str(path) in _BEGINNINGS or path.parent == _SETUPS for path in brought):
        return
    shown = ", ".join(map(str, ports))
    raise SettingError(
        f"no setup starts a server, so nothing would ever answer on port {shown} of the guest "
        f'{guest.name}: give the test a setup that starts one, like setup="server &"; or, where '
        'the test does so by vm.run, set wait_for="none"; or put an init script at '
        "/vmports/setup.d/ by files, or name a guest whose own init starts it",
        source=f"guest {guest.name}", name="setup", value="\n".join(guest.setup) or None,
    )  # fmt: skip


def _refuse_too_large(guest: Guest, files: int, memory: int) -> None:
    initrd = guest.initrd_path.stat().st_size if guest.initrd_path is not None else 0
    # Linux unpacks the archive into memory while it is there itself.
    needed = 2 * files + initrd
    if not files or needed <= memory * _MIB:
        return
    enough = -(-(needed // _MIB + 1 + _FOR_THE_REST) // _STEP) * _STEP
    raise SettingError(
        source=f"guest {guest.name}", name="files", value=f"{files / _MIB:.0f} MiB",
        allowed=f"they are unpacked in the guest's memory, which is {memory} MiB, and needed twice "
        f"for that: set memory = {enough}, or boot a disk image that has them",
    )  # fmt: skip


def _brought(guest: Guest, root: Path) -> Iterator[tuple[PurePosixPath, int]]:
    """Yield the path in the guest and the size of each file of `files`; what is amiss is not told.

    That is told by who reads them.
    """
    for host, target in guest.files.items():
        try:
            source = absolute(host, root)
        except ValueError:
            continue
        place = (
            PurePosixPath(target) / source.name if target.endswith("/") else PurePosixPath(target)
        )
        if not source.is_dir():
            yield place, _size(source)
        for folder, _, names in os.walk(source):
            inside = place / Path(folder).relative_to(source)
            for name in names:
                yield inside / name, _size(Path(folder, name))


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _text(setup: str, root: Path) -> str:
    if not _is_file(root / setup):
        return setup
    return (root / setup).read_bytes().decode("utf-8", "replace")


def _does_something(text: str) -> bool:
    lines = (line.strip() for line in text.splitlines())
    # A script of another interpreter is one that we cannot judge, but for being empty.
    return any(line and not line.startswith("#") for line in lines)


def _is_file(path: Path) -> bool:
    # Unlike Path.is_file, this takes a text that is too long for a path.
    return os.path.isfile(path)  # noqa: PTH113

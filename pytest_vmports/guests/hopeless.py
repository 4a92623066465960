"""Guests that can never be ready as they are asked for: refused before anything boots."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.guests import host_files
from pytest_vmports.system.paths import absolute, existing_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.guests.guest import Guest

_MIB = 1 << 20
# Beside what is unpacked: kernel, programs and their data.
_FOR_THE_REST, _STEP = 64, 64
_SCRIPTS = frozenset({".sh", ".bash", ".ash", ".py", ".pl", ".rb", ".lua"})
# What replaces or joins the parts by which our init begins; see init.sh and boot.sh.
_BEGINNINGS = frozenset({"/init", "/etc/inittab", "/vmports/boot"})
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SETUPS = PurePosixPath("/vmports/setup.d")


def refuse(guest: Guest, ports: Sequence[int], memory: int, root: Path) -> None:
    """Refuse what cannot work.

    Args:
        guest: what is to be booted.
        ports: the guest ports that will be waited for by TCP.
        memory: its MiB.
        root: what relative paths of its files are relative to.

    Raises:
        SettingError: a setup that names no file or has lines that no shell reads, no setup at all
            where one is needed, or more files than memory.
    """
    if guest.image is not None:
        return
    brought = dict(_brought(guest, root))
    for setup in guest.setup:
        _refuse_missing_script(guest, setup, brought, root)
        _refuse_foreign_lines(guest, setup, root)
    if guest.prepared and ports:
        _refuse_without_server(guest, ports, brought, root)
    _refuse_too_large(guest, sum(brought.values()), memory)


def _refuse_missing_script(
    guest: Guest, setup: str, brought: dict[PurePosixPath, int], root: Path
) -> None:
    if not _names_a_script(setup) or existing_file(setup, root) is not None:
        return
    # It may be one that comes into the guest by `files`, wherever the shell finds it there.
    if PurePosixPath(setup).name in {path.name for path in brought}:
        return
    try:
        path = absolute(setup, root)
        what, remedy = host_files.problem(path, setup) or ("cannot be read", "name another")
    except ValueError as error:
        path, what, remedy = Path(setup), "cannot be found", str(error)
    raise SettingError(
        source=f"guest {guest.name}", name="setup", value=setup,
        allowed=f"it looks like a script's path, and {path} {what}: {remedy} (relative to pytest's "
        f"rootdir, which is {root}); for a command of the guest's own write 'exec {setup}'",
    )  # fmt: skip


def _refuse_foreign_lines(guest: Guest, setup: str, root: Path) -> None:
    content = _content(setup, root)
    lines = content.splitlines(keepends=True)
    if content.startswith(_UTF_16):
        found, remedy = "is UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"
    elif lines and all(line.endswith(b"\r\n") for line in lines):
        found, remedy = "has the line ends of Windows", "convert it: sed -i 's/\\r$//'"
    else:
        return
    raise SettingError(
        source=f"guest {guest.name}", name="setup", value=setup,
        allowed=f"the script {found}, which no shell of the guest reads; {remedy}",
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
    if any(_does_something(_content(setup, root)) for setup in guest.setup):
        return
    if any(str(path) in _BEGINNINGS or path.parent == _SETUPS for path in brought):
        return
    shown = ", ".join(map(str, ports))
    raise SettingError(
        source=f"guest {guest.name}", name="setup", value="\n".join(guest.setup) or None,
        allowed=f"it starts no server by itself, so nothing would ever answer on port {shown}: "
        'give the test a setup that starts one, like setup="server &"; or, where the test does '
        'so by vm.run, set wait_for="none"; or put an init script at /vmports/setup.d/ by files, '
        "or name a guest whose own init starts it",
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
        if not os.path.isdir(source):  # noqa: PTH112 - takes any path
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


def _content(setup: str, root: Path) -> bytes:
    script = existing_file(setup, root)
    if script is None:
        return setup.encode("utf-8", "replace")
    return host_files.read(script, "the setup")


def _does_something(content: bytes) -> bool:
    lines = (line.strip() for line in content.splitlines())
    # A script of another interpreter is one that we cannot judge, but for being empty.
    return any(line and not line.startswith(b"#") for line in lines)

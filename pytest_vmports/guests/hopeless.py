"""Guests that can never be ready as they are asked for: refused before anything boots."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.guests import host_files
from pytest_vmports.system.paths import absolute, existing_file, text_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.guests.cloud_init import Seed
    from pytest_vmports.guests.guest import Guest

_MIB = 1 << 20
# Beside what is unpacked: kernel, programs and their data.
_FOR_THE_REST, _STEP = 64, 64
_SCRIPTS = frozenset({".sh", ".bash", ".ash", ".py", ".pl", ".rb", ".lua"})
# What replaces or joins the parts by which our init begins; see init.sh and boot.sh.
_BEGINNINGS = frozenset({"/init", "/etc/inittab", "/vmports/boot"})
_SETUPS = PurePosixPath("/vmports/setup.d")
# In the place of one that is there Linux unpacks no file, and says nothing.
_FOLDERS = frozenset({
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/mnt", "/opt", "/proc", "/root", "/run",
    "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local",  # noqa: S108
    "/usr/local/bin", "/usr/sbin", "/var", "/var/lib", "/var/www",
})  # fmt: skip


def refuse(
    guest: Guest, ports: Sequence[int], memory: int, root: Path, *, may_reboot: bool = False
) -> None:
    """Refuse what cannot work.

    Args:
        guest: what is to be booted.
        ports: the guest ports that will be waited for by TCP.
        memory: its MiB.
        root: what relative paths of its files are relative to.
        may_reboot: a reboot of it ends no VM.

    Raises:
        SettingError: what cloud-init is given has it reboot, where it may not; a setup that names
            no file or is none that a shell reads, no setup at all where one is needed, a file for a
            folder, or more files than memory.
    """
    _refuse_larger_than_memory(guest, memory)
    if guest.root_disk is not None:
        _refuse_reboot(guest.name, guest.root_disk.seed, may_reboot=may_reboot)
        return
    brought = dict(_brought(guest, root))
    contents = []
    for setup in guest.setup:
        _refuse_missing_script(guest, setup, brought, root)
        contents.append(_content(guest, setup, root))
    if guest.prepared and ports:
        _refuse_without_server(guest, ports, brought, contents)
    _refuse_file_for_folder(guest, brought)
    _refuse_too_large(guest, sum(brought.values()), memory)


def _refuse_reboot(name: str, seed: Seed | None, *, may_reboot: bool) -> None:
    if seed is not None and seed.reboots and not may_reboot:
        raise SettingError(
            source=f"guest {name}", name="on_reboot", value="fail",
            allowed="its user_data has it reboot when cloud-init ends (power_state), which would "
            "fail each of its VMs: set on_reboot = allow",
        )  # fmt: skip


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


def _content(guest: Guest, setup: str, root: Path) -> bytes:
    """Return a setup's text, or its script's; refuse what no shell reads."""
    script, data = existing_file(setup, root), b""
    try:
        data = text_bytes(setup) if script is None else host_files.read(script, "the setup")
    except UnicodeEncodeError as error:
        trouble = f"it has {setup[error.start]!r} in it, which is no character"
    else:
        trouble = _trouble_with(data, whole=script is None)
    if trouble:
        value = setup if script is None else str(script)
        raise SettingError(source=f"guest {guest.name}", name="setup", value=value, allowed=trouble)
    return data


def _trouble_with(data: bytes, *, whole: bool) -> str:
    """Return why a shell, or what a script's first line names, would run none or half of it.

    Args:
        data: the script.
        whole: there is nothing but text in it; a script may have other data behind its text.
    """
    first, *more = data.split(b"\n")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in (data if whole else first):
        return (
            "it has NULs in it, so it is no text in UTF-8 but one in UTF-16 or a program: save it "
            "as UTF-8; a program goes into files, and a line of the setup starts it"
        )
    if data.startswith(b"\xef\xbb\xbf"):
        return (
            "it begins with a byte order mark, which a shell takes for a part of its first "
            "command: save it as UTF-8 without one"
        )
    ended = [first, *more][:-1]
    foreign = bool(ended) and all(line.endswith(b"\r") for line in ended)
    if foreign or (first.startswith(b"#!") and first.endswith(b"\r")):
        return (
            "its lines end as on Windows, and each CR is taken for a part of a command or of a "
            "program's name: save it with LF alone; to have git do so, write '*.sh text eol=lf' "
            "into .gitattributes"
        )
    return ""


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
    guest: Guest,
    ports: Sequence[int],
    brought: dict[PurePosixPath, int],
    contents: Sequence[bytes],
) -> None:
    if any(map(_does_something, contents)):
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


def _refuse_file_for_folder(guest: Guest, brought: dict[PurePosixPath, int]) -> None:
    below = {parent: path for path in brought for parent in path.parents}
    for path in brought:
        if path not in below and str(path) not in _FOLDERS:
            continue
        why = f", where {below[path]} is to be as well" if path in below else " in any guest"
        raise SettingError(
            source=f"guest {guest.name}", name="files", value=str(path),
            allowed=f"it is to be a file, and is a folder{why}: to put a file into it write "
            f"'{str(path).rstrip('/')}/'",
        )  # fmt: skip


def _refuse_larger_than_memory(guest: Guest, memory: int) -> None:
    """Refuse what QEMU would take into the host's memory first, or we copy, and in vain.

    A file of holes costs whoever made it nothing.
    """
    for what, path in (("kernel", guest.kernel_path), ("initrd", guest.initrd_path)):
        size = 0 if path is None else _size(path)
        if size > memory * _MIB:
            raise SettingError(
                source=f"guest {guest.name}", name=what, value=str(path),
                allowed=f"it has {size / _MIB:.0f} MiB, and is loaded into the guest's memory, "
                f"which is {memory} MiB: name another file, or set memory",
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


def _does_something(content: bytes) -> bool:
    lines = (line.strip() for line in content.splitlines())
    # A script of another interpreter is one that we cannot judge, but for being empty.
    return any(line and not line.startswith(b"#") for line in lines)

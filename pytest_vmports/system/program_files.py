"""Which files a program needs to run, whoever it runs for: its own, its libraries, the system's."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.system import process, surroundings, tools
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.probing import ask
from pytest_vmports.system.remembered import remembered

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = (
    *(f"{root}/{kind}" for root in ("", "/usr", "/usr/local")
      for kind in ("bin", "sbin", "lib", "lib32", "lib64", "libexec")),
    "/nix/store", "/gnu/store", "/opt/homebrew", "/home/linuxbrew/.linuxbrew",
)  # fmt: skip
"""Programs and libraries, nobody's secrets; not /usr, where projects lie too (/usr/src)."""
LOADER: Final = (
    "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
)  # fmt: skip
"""What the loader of programs looks at."""
_MUSLS_LOADER = tuple(map(str, Path("/etc").glob("ld-musl-*.path")))
# What libraries and QEMU look at, and musl's loader.
_SYSTEM = (
    *_MUSLS_LOADER, "/etc/localtime",
    "/usr/share/zoneinfo", "/usr/share/locale", "/etc/gnutls", "/etc/crypto-policies",
    "/etc/ssl/openssl.cnf", "/sys/kernel/mm", "/sys/devices/system", "/sys/bus/nd",
    "/proc/meminfo", "/proc/cpuinfo", "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel",
    "/proc/sys/crypto",
)  # fmt: skip
DEVICES: Final = tuple(
    Path(name) for name in ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random")
)
"""Those that every program may use."""
_SECONDS = 20.0
# Where it is everywhere, as scripts rely on; PATH may be a folder of few programs.
_ENV = "/usr/bin/env"
# Variables that lead the loader elsewhere, where a library may come to lie that was not there.
_LEADING = ("LD_", "GLIBC_")


@lru_cache(maxsize=16)
def needed_by(
    program: str,
    *,
    asks: bool = False,
    trial: tuple[str, ...] = ("--version",),
    change: tuple[Path, ...] = (),
) -> tuple[Path, ...] | None:
    """Return files and folders that a program reads to run; None where nobody can tell.

    That is a script outside the system's own folders, which may run anything, and what runs, but
    not with these files alone: found by trying, of all that is not the system's own program.

    Args:
        program: its path.
        asks: it is a QEMU, and says itself where its firmware is.
        trial: arguments with which it ends at once, or as soon as it reads ``quit``.
        change: what it needs beside its own, to read and to write.
    """
    path = Path(os.path.realpath(program))
    of_the_system, script = any(path.is_relative_to(place) for place in PROGRAMS), is_script(path)
    if script and not of_the_system:
        return None
    found = [*map(Path, (*PROGRAMS, *LOADER, *_SYSTEM)), path, Path(program), *launcher()]
    found += map(Path, _named(program, str(path), asks=asks))
    if asks:
        found += _modules(path)
    # Each costs a rule of each VM's walls. Of a folder of another user's nothing is told.
    real = dict.fromkeys(Path(os.path.realpath(one)) for one in found)
    there = {one: None for one in real if os.path.exists(one)}  # noqa: PTH110 - Path's raises then
    needed = tuple(one for one in there if not any(above in there for above in one.parents))
    if of_the_system and not script:
        return needed
    walls = Walls(needed, change=(*DEVICES, *change))
    if _runs(program, trial, Confinement(walls)):
        return needed
    # One that does not run at all tells more where it is wanted.
    return None if _runs(program, trial) else needed


def _modules(path: Path) -> Iterator[Path]:
    """Yield where a QEMU may have its modules."""
    named = surroundings.variables().get("QEMU_MODULE_DIR")
    yield from () if named is None else (Path(named),)
    for pattern in ("lib/qemu", "lib64/qemu", "libexec/qemu", "lib/*/qemu"):
        yield from path.parent.parent.glob(pattern)


def _runs(program: str, trial: tuple[str, ...], confinement: Confinement | None = None) -> bool:
    try:
        answer = ask([program, *trial], timeout=_SECONDS, stdin="quit\n", confinement=confinement)
    except ProgramStoppedError:
        return False
    return answer.code == 0


def _named(program: str, real: str, *, asks: bool) -> list[str]:
    """Return files outside the system's folders that a program, and its loader, name."""
    ask = partial(_asked, program, asks=asks)
    if any(name.startswith(_LEADING) for name in surroundings.variables()):
        found = [os.path.realpath(name) for name in ask()[0]]
    else:
        files = [program, real, *LOADER, *_MUSLS_LOADER]
        found = remembered([program, real, asks], files, ask)
    system = tuple(f"{os.path.realpath(place)}/" for place in PROGRAMS)
    return [one for one in found if not one.startswith(system)]


def _asked(program: str, *, asks: bool) -> tuple[list[str], bool]:
    """Return the names of a program's libraries and data, and whether these are all."""
    # Asked for its version, where the loader does not know this variable and runs it.
    libraries, all_of_them = _said([program, "--version"], LD_TRACE_LOADED_OBJECTS="1")
    data, all_data = _said([program, "-L", "help"]) if asks else ([], True)
    found = []
    for library in libraries:
        # ``name => /path (0x…)``, or ``/path (0x…)``
        name = library.partition("=>")[2].strip() or library.strip()
        if name.startswith("/"):
            found.append(name.partition(" (0x")[0])
    for folder in data:
        if folder.startswith("/"):
            # Firmware is often a link into another package's folder.
            links = (str(one) for one in Path(folder).glob("*") if os.path.islink(one))  # noqa: PTH114 - Path's raises
            found += [folder, *links]
    return found, all_of_them and all_data


def is_script(path: Path) -> bool:
    """Whether a program is one that another program reads and runs."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def launcher() -> tuple[Path, ...]:
    """Return where the program lies that starts it, where that is our Python."""
    if not process.starts_by_python():
        return ()
    return tuple(map(Path, {sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)}))


def _said(command: list[str], **variables: str) -> tuple[list[str], bool]:
    """Return the lines that a program writes, and whether it ended well."""
    given = [f"{name}={value}" for name, value in variables.items()]
    try:
        child = tools.run([_ENV, *given, *command], timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return [], False
    lines = child.stdout.decode("utf-8", "surrogateescape").splitlines()
    return lines, child.returncode == 0

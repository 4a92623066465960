"""Which files a program needs to run, whoever it runs for: its own, its libraries, the system's."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from pytest_vmports.system import process, tools

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
# What libraries and QEMU look at, and musl's loader.
_SYSTEM = (
    *map(str, Path("/etc").glob("ld-musl-*.path")), "/etc/localtime",
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


@lru_cache(maxsize=16)
def needed_by(program: str, *, asks: bool = False) -> tuple[Path, ...] | None:
    """Return files and folders that a program reads to run; None where nobody can tell.

    That is a script outside the system's own folders, which may run anything.

    Args:
        program: its path.
        asks: it is a QEMU, and says itself where its firmware is.
    """
    path = Path(os.path.realpath(program))
    if not any(path.is_relative_to(place) for place in PROGRAMS) and is_script(path):
        return None
    found = [*map(Path, (*PROGRAMS, *LOADER, *_SYSTEM)), path, Path(program), *launcher()]
    # Asked for its version, where the loader does not know this variable and runs it.
    for library in _said([program, "--version"], LD_TRACE_LOADED_OBJECTS="1"):
        # ``name => /path (0x…)``, or ``/path (0x…)``
        name = library.partition("=>")[2].strip() or library.strip()
        if name.startswith("/"):
            found.append(Path(name.partition(" (0x")[0]))
    if asks:
        data = [Path(line) for line in _said([program, "-L", "help"]) if line.startswith("/")]
        # Firmware is often a link into another package's folder.
        found += [*data, *(one for folder in data for one in folder.glob("*") if one.is_symlink())]
        found += [path.parents[1] / kind / "qemu" for kind in ("lib", "libexec")]  # its modules
    # Each costs a rule of each VM's walls.
    real = dict.fromkeys(Path(os.path.realpath(one)) for one in found)
    there = {one: None for one in real if one.exists()}
    return tuple(one for one in there if not any(above in there for above in one.parents))


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


def _said(command: list[str], **variables: str) -> list[str]:
    given = [f"{name}={value}" for name, value in variables.items()]
    try:
        child = tools.run(["env", *given, *command], timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return child.stdout.decode("utf-8", "surrogateescape").splitlines()

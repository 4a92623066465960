"""Which files a program needs to run, whoever it runs for: its own, its libraries, the system's."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from pytest_vmports.system import tools

# Programs and libraries, which are nobody's secrets.
_PLACES = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/opt/homebrew")
# What loaders, libraries and allocators look at.
_SYSTEM = (
    "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path", "/etc/localtime", "/etc/gnutls",
    "/etc/ssl/openssl.cnf", "/etc/crypto-policies", "/etc/alternatives", "/gnu/store",
    "/sys/kernel/mm", "/sys/devices/system", "/sys/bus/nd", "/proc/meminfo",
    "/proc/cpuinfo", "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/proc/sys/crypto",
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
    if not _within_the_system(path) and _is_script(path):
        return None
    # Whoever starts it is run behind the same walls: see `process`.
    found = [*map(Path, (*_PLACES, *_SYSTEM)), path, Path(program), *_of_python()]
    # Asked for its version, where the loader does not know this variable and runs it.
    for library in _said([program, "--version"], LD_TRACE_LOADED_OBJECTS="1"):
        # ``name => /path (0x…)``, or ``/path (0x…)``
        name = library.partition("=>")[2].strip() or library.strip()
        if name.startswith("/"):
            found.append(Path(name.partition(" (0x")[0]))
    if asks:
        found += [Path(line) for line in _said([program, "-L", "help"]) if line.startswith("/")]
        # Modules, and what a QEMU beside its data has.
        found += [path.parents[1] / "lib" / "qemu", path.parents[1] / "libexec" / "qemu"]
    return tuple(dict.fromkeys(found))


def _within_the_system(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in _PLACES)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _of_python() -> tuple[Path, ...]:
    """Return what our own Python needs, which starts the child where no setpriv does."""
    if _within_the_system(Path(os.path.realpath(sys.executable))):
        return ()
    return (
        Path(sys.executable),
        Path(os.path.realpath(sys.executable)),
        Path(sys.base_prefix, "lib"),
    )


def _said(command: list[str], **variables: str) -> list[str]:
    given = [f"{name}={value}" for name, value in variables.items()]
    try:
        child = tools.run(["env", *given, *command], timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return child.stdout.decode("utf-8", "surrogateescape").splitlines()

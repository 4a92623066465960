"""virtiofsd: a folder of the host that a guest's kernel sees by virtiofs.

It is a process beside QEMU, and is given the guest's memory, in which it finds what is asked.
Whoever has taken it over is where it is, so it has walls of its own: of the host's files it has
that folder alone. Its own sandbox, by namespaces, needs rights that not everybody has, and cannot
be made behind ours. Of the two programs of that name the older, which came with QEMU up to 7.2, has
no way without.
"""

from __future__ import annotations

import re
import resource
import socket
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import ProgramStoppedError
from pytest_vmports.system import landlock, program_files, seccomp, sockets, surroundings
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.probing import ask
from pytest_vmports.system.process import Process, spawn

if TYPE_CHECKING:
    from pytest_vmports.vm.share import Share

# Where distributions put it, which is on nobody's PATH.
_PLACES: Final = (
    "virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd",
)  # fmt: skip
_VERSION = re.compile(r"virtiofsd (\d+\.\d+\.\d+)\s*")
_SECONDS = 20.0
# What it would keep where we are root, and has not got behind our walls.
_RIGHTS = ("chown", "fowner", "fsetid", "setuid", "setgid", "mknod", "setfcap")
_RENOUNCED = ":".join(f"-{right}" for right in _RIGHTS)
# It keeps one for each file that the guest's kernel remembers.
_DESCRIPTORS = 1 << 16
_LIMITS = (Path("/proc/sys/fs/nr_open"), Path("/proc/sys/fs/file-max"))


@lru_cache(maxsize=1)
def find() -> str | None:
    """Return a virtiofsd that runs here behind walls of ours; None where there is none."""
    if not sys.platform.startswith("linux") or landlock.problem() or seccomp.problem():
        return None
    for place in _PLACES:
        path = surroundings.which(place)
        if path is None:
            continue
        try:
            answer = ask([path, "--version"], timeout=_SECONDS)
        except ProgramStoppedError:
            continue
        if answer.code == 0 and _VERSION.fullmatch(answer.text):
            needed = program_files.needed_by(path)
            if needed is not None:
                return path
    return None


def serve(program: str, share: Share, workdir: Path) -> tuple[Process, socket.socket]:
    """Start one, and return it with the end of its wire that QEMU is given.

    Whether it comes up shows when QEMU asks it something.

    Args:
        program: see `find`.
        share: the folder.
        workdir: the VM's private folder.

    Raises:
        OSError: it does not start.
    """
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1] % (1 << 64), _DESCRIPTORS)
    path, log = workdir / f"{share.tag}.sock", workdir / f"{share.tag}.log"
    command = [
        program, "--shared-dir", str(share.folder), "--sandbox=none", "--cache=never",
        "--log-level=error", "--inode-file-handles=never", f"--rlimit-nofile={most}",
        f"--modcaps={_RENOUNCED}",
    ]  # fmt: skip
    path.unlink(missing_ok=True)
    with sockets.module().socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            listener.listen(1)
            command += ["--fd", str(listener.fileno())]
            child = spawn(
                "virtiofsd", command, log=log, pass_fds=[listener.fileno()],
                confinement=_confinement(program, share),
            )  # fmt: skip
            ours = sockets.module().socket(socket.AF_UNIX)
            ours.connect(str(path))
        finally:
            path.unlink(missing_ok=True)
    return child, ours


def _confinement(program: str, share: Share) -> Confinement:
    needed = program_files.needed_by(program) or ()
    read, write = ((share.folder,), ()) if share.readonly else ((), (share.folder,))
    walls = Walls((*needed, *read, *_LIMITS), write, program_files.DEVICES)
    refused = (
        seccomp.ATTRIBUTES, *seccomp.SOCKETS,
        *(() if share.readonly else (seccomp.RIGHTS,)),
    )  # fmt: skip
    return Confinement(
        walls, binds=False, connects=False, refused=refused, sheds=True, descriptors=_DESCRIPTORS
    )

"""What keeps gvproxy from serving the guest: a filter in the kernel, before gvproxy's own socket.

gvproxy takes frames by a socket of its own, one message a frame (``-listen-bess``, a Unix socket of
type seqpacket). We connect to it, fetch gvproxy's end out of its process, put a filter on it that
nobody can take off again, gvproxy included, and give the other end to QEMU, which has not started
by then. The filter lives as long as the connection, also when we do not.

Sources: unix(7), socket(7) (``SO_ATTACH_FILTER``, ``SO_LOCK_FILTER``), pidfd_getfd(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from functools import lru_cache
from subprocess import DEVNULL
from typing import TYPE_CHECKING

from pytest_vmports.errors import LaunchError
from pytest_vmports.network.guest_frames import program
from pytest_vmports.network.links import attach_filter
from pytest_vmports.system import clock, foreign, sockets, tools
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.probing import is_of_the_host, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_vmports.system.process import Process

# Source: asm-generic/socket.h; the same on x86-64 and arm64.
_LOCK_FILTER = 44
_ACCEPT_SECONDS = 20.0
# Frames for the guest that may wait for QEMU, which reads one a turn of its main loop: where fewer
# or more wait, they come slower (seen from 20,000 to 400,000 bytes).
_WAITING_BYTES = 120_000
_LOOK_SECONDS = 0.002


def connect(listener: Path, process: Process, *, sealed: bool) -> int:
    """Return a connection to gvproxy for QEMU to inherit.

    Args:
        listener: where gvproxy listens for one connection.
        process: gvproxy.
        sealed: what is sent there passes the filter.

    Raises:
        LaunchError: gvproxy ended, or its end cannot be fetched or filtered.
    """
    with sockets.Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours:
        try:
            ours.connect(str(listener))
            if sealed:
                with _accepted(listener, process) as gvproxys:
                    attach(gvproxys)
                    gvproxys.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING_BYTES)
        except OSError as error:
            raise LaunchError(
                program="gvproxy", returncode=f"no connection behind a filter ({error})",
                stderr=process.output, command=" ".join(process.command),
            ) from error  # fmt: skip
        return ours.detach()


def attach(receiver: socket.socket) -> None:
    """Put the filter on a socket for good.

    Args:
        receiver: what is sent to it is filtered.

    Raises:
        OSError: the kernel has no such filters.
    """
    attach_filter(receiver, program())
    receiver.setsockopt(socket.SOL_SOCKET, _LOCK_FILTER, 1)


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Return why gvproxy cannot be sealed on this host; None where it can. Tried, not guessed."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no filter that could stand before it"
    try:
        ours, childs = sockets.pair(socket.SOCK_SEQPACKET)
        with ours, childs:
            # Any child will do that holds a socket; it ends when we hang up.
            child = tools.start(["cat"], stdin=childs.fileno(), stdout=DEVNULL)
            childs.close()
            try:
                _try_on(child.pid)
            finally:
                ours.close()
                child.wait()
    except OSError as error:
        if is_of_the_host(error):  # of a limit that passes nothing follows for the whole run
            raise stopped("cat", error) from error
        return f"this host does not let us put a filter before it: {error}"
    return None


def _try_on(pid: int) -> None:
    os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - where it is looked for
    pidfd = os.pidfd_open(pid)
    try:
        with foreign.fetch(pidfd, 0) as standard_input:
            attach(standard_input)
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def _accepted(listener: Path, process: Process) -> Iterator[socket.socket]:
    """Yield a copy of gvproxy's end of our connection, once gvproxy has accepted it."""
    deadline = clock.now() + _ACCEPT_SECONDS
    while (found := _find(listener, process)) is None:
        # An accept raises no event outside of the process; its end does.
        code = process.wait(_LOOK_SECONDS)
        if code is not None or clock.now() > deadline:
            raise LaunchError(
                program="gvproxy", stderr=process.output, command=" ".join(process.command),
                returncode="no connection taken" if code is None else code,
            )  # fmt: skip
    with found:
        yield found


def _find(listener: Path, process: Process) -> socket.socket | None:
    assert process.death is not None
    for number in os.listdir(f"/proc/{process.pid}/fd"):  # noqa: PTH208 - numbers, no paths
        try:
            if not os.readlink(f"/proc/{process.pid}/fd/{number}").startswith("socket:"):  # noqa: PTH115
                continue
            copy = foreign.fetch(process.death, int(number))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EBADF}:  # closed since it was listed
                continue
            raise
        listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if copy.family == socket.AF_UNIX and _address(copy) == as_bytes(listener) and not listens:
            return copy
        copy.close()
    return None


def _address(of: socket.socket) -> bytes:
    """Return a Unix socket's path; one in no folder has bytes already, or an empty text."""
    name = of.getsockname()
    return name if isinstance(name, bytes) else as_bytes(name)

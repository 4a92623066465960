"""What a process has around it, as it was before any test could change it.

A test may empty the environment, lower its limits or remove its working directory. Programs that
we start get what was there before, and so do we while a VM is started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from shutil import which as _which
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "win32":
    import resource

_LIMITS = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NPROC")


def _soft_limits() -> dict[int, int]:
    if sys.platform == "win32":
        return {}
    known = [getattr(resource, name) for name in _LIMITS if hasattr(resource, name)]
    return {limit: resource.getrlimit(limit)[0] for limit in known}


def _umask() -> int:
    # It can only be read by setting it.
    now = os.umask(0o077)
    os.umask(now)
    return now


_variables = dict(os.environ)
_limits = _soft_limits()
_mask = _umask()
_lock = threading.Lock()
_socket = socket.socket


class _Inside:
    """How many are in `restored` now, and what the last one puts back."""

    number = 0
    limits: dict[int, int]
    mask: int
    socket: Any


def variables() -> dict[str, str]:
    """Return the environment as it was."""
    return dict(_variables)


def which(program: str) -> str | None:
    """Return where a program is: on PATH as it is now, or as it was."""
    for path in (os.environ.get("PATH"), _variables.get("PATH", os.defpath)):
        found = _which(program, path=path or "")
        if found is not None:
            return os.path.join(directory() or os.getcwd(), found)  # noqa: PTH109, PTH118 - as it is asked for
    return None


def directory() -> str | None:
    """Return where a program is to be started: None for where we are, unless that was removed."""
    try:
        os.getcwd()  # noqa: PTH109 - it is asked whether it is there
    except OSError:
        return os.sep
    return None


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Have what was there before within a ``with`` block, where a VM is started.

    That is soft limits no lower than then, the umask, and `socket.socket`, which pytest-socket and
    others replace. These are the process's, so a test sees them too; but it waits for us meanwhile.
    """
    with _lock:
        _Inside.number += 1
        if _Inside.number == 1:
            _Inside.limits, _Inside.mask = _raise_limits(), os.umask(_mask)
            _Inside.socket, socket.socket = socket.socket, _socket  # type: ignore[misc]
    try:
        yield
    finally:
        with _lock:
            _Inside.number -= 1
            if not _Inside.number:
                socket.socket = _Inside.socket  # type: ignore[misc]
                os.umask(_Inside.mask)
                _lower_limits(_Inside.limits)


def _raise_limits() -> dict[int, int]:
    """Raise what was lowered, as far as the hard limits let us; return how low it was."""
    lowered = {}
    for limit, soft in _soft_limits().items():
        hard = resource.getrlimit(limit)[1]
        wanted = _limits[limit]
        if _is_less(hard, wanted):
            wanted = hard
        if _is_less(soft, wanted):
            lowered[limit] = soft
            resource.setrlimit(limit, (wanted, hard))
    return lowered


def _lower_limits(limits: dict[int, int]) -> None:
    for limit, soft in limits.items():
        resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))


def _is_less(one: int, other: int) -> bool:
    return one != other and (other == resource.RLIM_INFINITY or -1 < one < other)

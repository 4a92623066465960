"""Whose fault a failed start is: the guest's, its saved state's, or the host's at that moment."""

from __future__ import annotations

import re
import signal

from pytest_vmports.errors import (
    CloudInitError,
    DiskFullError,
    GuestPanicError,
    GuestSaidError,
    GuestStuckError,
    MachineDiedError,
    MachineError,
    MonitorError,
    SetupError,
)
from pytest_vmports.system.probing import short_of

# What kills a process for somebody else's reasons: people, the kernel short of memory, limits.
# Faults of its own end it by SIGABRT, SIGSEGV, SIGBUS, SIGILL and the like.
_FROM_OUTSIDE = {
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU,
    signal.SIGXFSZ,
}  # fmt: skip
_FULL = re.compile(r"no space left|disk quota|file too large", re.IGNORECASE)
_SIGNAL = re.compile(r"signal (\d+)")
_TOLD_TO = ("a signal told it to", "an error of the host")


def host_may_be(error: MachineError) -> bool:
    """Whether the host may be the reason why a start failed, so that another try may end well."""
    theirs = SetupError, CloudInitError, GuestPanicError, GuestStuckError, GuestSaidError
    if isinstance(error, theirs):
        return False
    if isinstance(error, MachineDiedError) and error.program == "QEMU":
        # QEMU ends with 0 where its guest has powered off or rebooted.
        return not str(error.returncode).startswith("0 ") or _by_the_host(error)
    return True


def state_may_be(error: MachineError) -> bool:
    """Whether the saved state that was being restored may be the reason.

    A QEMU that did not come up has not seen the state yet. One that was ended from outside, or has
    said that the host is short of something, tells nothing about it.
    """
    if isinstance(error, MonitorError):
        return error.command == "migrate-incoming" and not _is_short(error.reply)
    if isinstance(error, (GuestPanicError, GuestSaidError)):
        return True
    return (
        isinstance(error, MachineDiedError) and error.program == "QEMU" and not _by_the_host(error)
    )


def _by_the_host(error: MachineDiedError) -> bool:
    if isinstance(error, DiskFullError):
        return True
    ended = str(error.returncode)
    by = _SIGNAL.match(ended)
    if by is not None and int(by[1]) in _FROM_OUTSIDE:
        return True
    return any(words in ended for words in _TOLD_TO) or _is_short(error.stderr)


def _is_short(said: str) -> bool:
    """Whether the host had no more of something, by what QEMU said."""
    return short_of(said) is not None or _FULL.search(said) is not None

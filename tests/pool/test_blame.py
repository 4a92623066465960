"""Whose fault a failed start is: a table of errors."""

from __future__ import annotations

import pytest

from pytest_vmports.errors import (
    BootTimeoutError,
    CloudInitError,
    GuestPanicError,
    GuestStuckError,
    LaunchError,
    MachineDiedError,
    MonitorError,
    SetupError,
    TemplateBusyError,
)
from pytest_vmports.pool import blame


def died(ended, said="(nothing)", program="QEMU"):
    return MachineDiedError(program=program, returncode=ended, stderr=said, console="")


def refused(command, reply):
    return MonitorError(command=command, reply=reply)


PANIC = GuestPanicError(
    panic="sysrq", console="", program="QEMU", returncode="0 (kernel panic: sysrq)", stderr=""
)
LAUNCH = LaunchError(program="QEMU", returncode="exit status 1", stderr="bad option", command="q")

# error, whether the host may be at fault, whether the saved state that was restored may be
ERRORS = {
    "setup": (SetupError(returncode=3, console=""), False, False),
    "stuck": (
        GuestStuckError(means="m", words="w", ending="", seconds=5.0, console="", remedy="r"),
        False,
        False,
    ),
    "cloud-init": (CloudInitError(errors="no", console=""), False, False),
    "panic": (PANIC, False, True),
    "power off": (died("0 (the guest powered off)"), False, True),
    "reboot": (died("0 (the guest rebooted)"), False, True),
    "told to end": (died("0 (a signal told it to)"), True, False),
    "error of the host": (died("0 (an error of the host)"), True, False),
    "killed": (died("signal 9"), True, False),
    "terminated": (died("signal 15"), True, False),
    "too much time": (died("signal 24"), True, False),
    "too large a file": (died("signal 25"), True, False),
    "aborted": (died("signal 6", "assertion failed"), True, True),
    "crashed": (died("signal 11"), True, True),
    "bad state": (died("exit status 1", "load of migration failed: Invalid argument"), True, True),
    "no memory": (died("exit status 1", "mmap: Cannot allocate memory"), True, False),
    "GLib's memory": (died("signal 5", "GLib-ERROR: failed to allocate 64 bytes"), True, False),
    "no threads": (died("signal 6", "thread: Resource temporarily unavailable"), True, False),
    "QEMU's threads": (died("exit status 1", "qemu: pthread_create: failed"), True, False),
    "a full disk": (died("exit status 1", "write: No space left on device"), True, False),
    "gvproxy": (died("exit status 2", program="gvproxy"), True, False),
    "gvproxy ended well": (died("exit status 0", program="gvproxy"), True, False),
    "not started": (LAUNCH, True, False),
    "timeout": (BootTimeoutError(timeout=1, waited_for="", ports="", console=""), True, False),
    "busy": (TemplateBusyError(name="x", timeout=1, lock="l"), True, False),
    "not loaded": (refused("migrate-incoming", "it ended as 'failed'"), True, True),
    "no descriptors": (refused("migrate-incoming", "Too many open files"), True, False),
    "other command": (refused("cont", "no"), True, False),
}


@pytest.mark.parametrize("name", ERRORS)
def test_another_try_may_help_where_the_host_may_be_at_fault(name):
    error, host, _ = ERRORS[name]
    assert blame.host_may_be(error) is host


@pytest.mark.parametrize("name", ERRORS)
def test_only_a_failed_restore_is_evidence_against_a_saved_state(name):
    error, _, state = ERRORS[name]
    assert blame.state_may_be(error) is state

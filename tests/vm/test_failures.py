"""How a QEMU's end is told; the ends themselves are real in test_vm_panic.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_vmports.errors import DiskFullError, GuestPanicError
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.failures import Vitals, at_the_end, status_of, why_qemu_ended

DISK_FULL = "io-error"
QEMU = SimpleNamespace(name="QEMU", returncode=0)


@pytest.fixture
def vitals(tmp_path):
    """Return what is left of a machine whose QEMU ended with 0 and said why, or did not."""

    def left(reason, console, qemu=QEMU, resets=0):
        made = Console(tmp_path / "console.log")
        made.path.write_text(console)
        monitor = SimpleNamespace(
            why_ended=lambda: reason, hung_up=False, panicked=False, disk_full=reason == DISK_FULL,
            resets=SimpleNamespace(count=resets),
        )  # fmt: skip
        return Vitals(qemu, (), made, monitor)

    return left


@pytest.mark.parametrize(
    ("reason", "console", "said"),
    [
        ("guest-shutdown", "", "0 (the guest powered off)"),
        ("guest-reset", "", "0 (the guest rebooted)"),
        ("guest-reset", "GRUB loading.\n", "0 (the guest rebooted)"),
        (
            "guest-reset",
            "[    5.1] x\n[    5.179510] reboot: Restarting system\r\n",
            "0 (the guest rebooted)",
        ),
        ("guest-reset", "[    5.179510] sysrq: Resetting\n", "0 (the guest rebooted)"),
        (
            "guest-reset",
            "\x1b[m[    5.179510] random: crng init done\r\n/ # ",
            "0 (the guest was reset without a word of its kernel, as by a triple fault)",
        ),
        ("guest-reset", "Kernel panic - not syncing: why\n", "0 (kernel panic: why)"),
        ("host-signal", "", "0 (a signal told it to)"),
        ("host-qmp-quit", "", "0 (its monitor told it to)"),
        ("some-new-word", "", "0 (some-new-word)"),
        # QEMU was not heard: a command was under way when it hung up.
        ("", "[    5.179510] reboot: Restarting system\n", "0 (the guest rebooted)"),
        ("", "[    5.071820] reboot: Power down\n", "0 (the guest powered off)"),
        ("", "", "0 (the guest powered off or rebooted)"),
    ],
)
def test_a_qemu_that_ended_well_is_told_by_its_reason_or_by_the_guests_last_words(
    vitals, reason, console, said
):
    assert why_qemu_ended(vitals(reason, console)) == said


@pytest.mark.parametrize(
    ("code", "said"), [(0, "exit status 0"), (2, "exit status 2"), (-9, "signal 9")]
)
def test_another_program_is_told_by_its_status(code, said):
    assert status_of(SimpleNamespace(name="gvproxy", returncode=code)) == said


def test_a_vm_that_ends_within_the_words_of_a_panic_is_given_time_to_say_them(vitals):
    """Faked: that moment, which is too short to be met on purpose."""

    def wait(_seconds):
        left.console.path.write_text("[    3.0] Kernel panic - not syncing: why\n")
        qemu.running, qemu.returncode = False, 0

    qemu = SimpleNamespace(
        name="QEMU", running=True, ending=False, returncode=None, output="", wait=wait
    )
    left = vitals("guest-reset", "[    3.0] Kernel panic - not sync", qemu)
    error = at_the_end(left)
    assert isinstance(error, GuestPanicError) and error.panic == "why"


def test_a_guest_that_is_paused_at_its_end_fails_its_test(vitals, tmp_path):
    """Met in earnest in test_broken_suites.py."""
    qemu = SimpleNamespace(name="QEMU", running=True, ending=False, returncode=None, output="")
    error = at_the_end(vitals(DISK_FULL, "the last line\n", qemu))
    assert isinstance(error, DiskFullError) and error.folder == str(tmp_path)
    assert "the last line" in str(error)

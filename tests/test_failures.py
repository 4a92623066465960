"""How a QEMU's end is told; the ends themselves are real in test_vm_panic.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_vmports.vm.console import Console
from pytest_vmports.vm.failures import exit_words


@pytest.fixture
def machine(tmp_path):
    """Return what is left of a machine whose QEMU ended with 0 and said why, or did not."""

    def left(reason, console):
        made = Console(tmp_path / "console.log")
        made.path.write_text(console)
        return SimpleNamespace(console=made, monitor=SimpleNamespace(why_ended=lambda: reason))

    return left


@pytest.mark.parametrize(
    ("reason", "console", "said"),
    [
        ("guest-shutdown", "", "0 (the guest powered off)"),
        ("guest-reset", "", "0 (the guest rebooted)"),
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
    machine, reason, console, said
):
    qemu = SimpleNamespace(name="QEMU", returncode=0)
    assert exit_words(machine(reason, console), qemu) == said


@pytest.mark.parametrize(
    ("code", "said"), [(0, "exit status 0"), (2, "exit status 2"), (-9, "signal 9")]
)
def test_another_program_is_told_by_its_status(machine, code, said):
    gvproxy = SimpleNamespace(name="gvproxy", returncode=code)
    assert exit_words(machine("guest-reset", ""), gvproxy) == said

"""A guest that reboots is a VM that lives where its test allows that; else it fails the test."""

from __future__ import annotations

import contextlib
import textwrap
import time
from pathlib import Path

import pytest
from vm_helpers import (
    FROM_TEMPLATE,
    GUEST,
    SHELL_PORT,
    alive,
    ask_shell,
    ask_tcp,
    count_boots_from,
    until,
)

from pytest_vmports.errors import (
    BootTimeoutError,
    GuestPanicError,
    GuestRebootError,
    GuestRebootWarning,
    MachineError,
)
from pytest_vmports.vm.machine import Machine

PORT, PANIC = SHELL_PORT, "echo c >/proc/sysrq-trigger"


@pytest.fixture
def make(vm_factory):
    """Return a function that makes a VM which may reboot; from a template unless told otherwise."""

    def made(**settings):
        return vm_factory(ports=[PORT, 8080], setup=GUEST, on_reboot="allow", **settings)

    return made


def tell(vm, command):
    with vm.connect(PORT) as connection:
        connection.sendall(f"{command}\n".encode())


@pytest.mark.parametrize("wiring", [{}, {"allow_network": True}], ids=["usernet", "gvproxy"])
@pytest.mark.slow_as("gvproxy")
def test_a_clone_that_reboots_lives_on_with_its_forwards_and_is_waited_for(make, wiring):
    with make(**wiring) as vm:
        assert vm.origin in FROM_TEMPLATE
        qemu, forwards = vm.pids["QEMU"], list(vm.ports)
        vm.run("touch /root/old")
        vm.reboot()
        # Asked at once: nothing is tried twice.
        assert ask_tcp(vm, 8080, b"hello") == b"hello"
        assert vm.run("ls /root").stdout == ""
        # Its board has the host's time.
        assert abs(float(vm.run("date +%s").stdout) - time.time()) < 60
        assert (vm.pids["QEMU"], list(vm.ports), vm.reboots) == (qemu, forwards, 1)
        # By itself, and what is asked next waits for it.
        tell(vm, "reboot -f")
        until(lambda: vm.reboots == 2, 60, lambda: vm.console)
        assert vm.run("ls /root; uname").stdout == "Linux\n"
        # By whatever makes it reboot; here a command whose answer never comes.
        vm.reboot(lambda: vm.run("sync; reboot -f"))
        assert vm.reboots == 3
        moment = vm.snapshot()
        vm.reboot()
        vm.restore(moment)
        assert (vm.reboots, ask_shell(vm, "uname")) == (0, "Linux\n")
        vm.reset()
        assert (vm.reboots, vm.run("uname").stdout) == (0, "Linux\n")


def test_a_command_that_a_reboot_cuts_short_says_so_and_the_next_one_runs(make):
    with make() as vm:
        with pytest.raises(GuestRebootError, match=r"rebooted while this was asked.*vm\.reboot"):
            # It writes while it is reset, so a frame of its own is cut.
            vm.run("(sleep 1; reboot -f) & cat /dev/zero", max_output=1 << 30)
        assert vm.run("echo back").stdout == "back\n"


@pytest.mark.parametrize("fresh", [True, False], ids=["booted", "cloned"])
@pytest.mark.slow_as("booted")
def test_a_guest_that_panics_and_reboots_has_panicked_all_the_same(make, fresh):
    """By what waits for it, by the next call, and at the end, when it runs again since long."""

    def use(vm):
        tell(vm, PANIC)
        until(lambda: vm.reboots == 1, 60, lambda: vm.console)
        for ask in (lambda: vm.run("true"), vm.reboot, vm.reset, lambda: vm.connect(PORT)):
            with pytest.raises(GuestPanicError, match="sysrq triggered crash"):
                ask()
        assert alive(vm.pids["QEMU"])

    with (
        pytest.raises(GuestPanicError, match="sysrq triggered crash") as caught,
        make(fresh_boot=fresh) as vm,
    ):
        use(vm)
    assert "Call Trace" in caught.value.console


def test_a_guest_that_panics_when_it_is_asked_to_reboot_has_not_rebooted(make):
    with (
        contextlib.suppress(GuestPanicError),
        make() as vm,
        pytest.raises(GuestPanicError, match="sysrq triggered crash"),
    ):
        vm.reboot(lambda: tell(vm, PANIC))


def test_a_wanted_crash_that_reboots_may_be_begun_anew(make):
    with make(allow_crash=True) as vm:
        tell(vm, PANIC)
        until(lambda: vm.reboots == 1, 60, lambda: vm.console)
        vm.reset()
        assert vm.run("uname").stdout == "Linux\n"


# Its board's clock is the same after a reboot, as an installer's disk is.
AN_INSTALLERS = f"""
[ "$(date +%Y)" -lt 2010 ] || {{ date -s 200101010000; hwclock -w -u; reboot -f; }}
{GUEST}"""


def test_a_guest_that_reboots_before_it_is_ready_is_waited_for_and_saved(vm_factory):
    """And the template is that of its second boot, which its clones do not repeat."""
    with vm_factory(ports=[PORT], setup=AN_INSTALLERS, on_reboot="allow") as vm:
        assert vm.console.count("reboot: Restarting system") == 1
        assert (vm.run("uname").stdout, vm.reboots) == ("Linux\n", 0)


def test_a_guest_that_reboots_without_end_is_told_of_with_how_often(boot, monkeypatch):
    words = "reboot: Restarting system"
    monkeypatch.setattr(Machine, "wait_ready", Machine.wait_ready)
    count_boots_from(words)
    booting = boot(PORT, setup="reboot -f", on_reboot="allow", boot_timeout=5)
    with (
        pytest.raises(BootTimeoutError, match=r"has rebooted (once|twice|\d+ times) meanwhile"),
        booting,
    ):
        pass


def test_a_reboot_that_is_not_allowed_fails_whatever_asks_and_the_test(vm_factory):
    def use(vm):
        with pytest.raises(MachineError, match=r"on_reboot = allow, or use vm.reset\(\)"):
            vm.reboot()
        tell(vm, "reboot -f")
        until(lambda: not alive(vm.pids["QEMU"]), 60, lambda: vm.console)
        with pytest.raises(GuestRebootError):
            vm.run("true")

    with (
        pytest.raises(GuestRebootError, match=r"rebooted by itself.*on_reboot = allow") as caught,
        vm_factory(ports=[PORT], setup=GUEST) as vm,
    ):
        use(vm)
    assert caught.value.returncode == "0 (the guest rebooted)"


def test_a_guest_that_was_asked_to_reboot_and_does_not_is_told_of(make):
    with (
        make() as vm,
        pytest.raises(BootTimeoutError, match="asked to reboot, and has not begun anew"),
    ):
        vm.reboot(lambda: None, timeout=0.1)


@pytest.mark.slow
def test_a_reset_without_a_word_of_the_kernel_is_told_of_where_reboots_are_allowed(make):
    def use():
        with make() as vm:
            # Faked: a kernel whose words are lost, as of one that a triple fault ends.
            tell(vm, "dmesg -n 1; reboot -f")
            until(lambda: vm.reboots == 1, 60, lambda: vm.console)
            path = vm._machine.console.path
            text = path.read_text()
            path.write_text(text.replace("reboot: Restarting system", ""))

    with pytest.warns(GuestRebootWarning, match="reset without a word of its kernel"):
        use()


# A VM that waits for its test reboots, by the way that our own commands go.
WAITS = """
    import contextlib
    import pytest
    from pytest_vmports.errors import VmPortsError
    from vm_helpers import until

    pytestmark = pytest.mark.vmports({port}, setup={setup!r}, on_reboot="allow")

    def test_first(vm_with_ports, vmports_pool):
        standby = vmports_pool.standby
        standby.join()
        ((_, machine),) = standby._ready
        with contextlib.suppress(VmPortsError):
            machine.shell.execute("reboot -f", timeout=60, input=b"")
        until(lambda: machine.reboots.count, 60, machine.console.text)

    def test_second(vm_with_ports):
        assert vm_with_ports.origin == "cloned"
        assert (vm_with_ports.reboots, vm_with_ports.run("uname").stdout) == (0, "Linux\\n")
"""


def test_a_vm_that_rebooted_while_it_waited_is_handed_to_nobody(
    pytester, qemu_binary, shared_templates, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makepyfile(textwrap.dedent(WAITS.format(port=PORT, setup=GUEST)))
    words = ["-p", "no:randomly", "-p", "no:xdist", "--vmports-prewarm=1"]
    pytester.runpytest_subprocess(*words).assert_outcomes(passed=2)

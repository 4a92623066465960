"""A guest whose kernel fails short of a panic: real lines of a real kernel, and what comes of them.

What no test can bring about in a sound kernel is written to /dev/kmsg: the kernel then writes it to
its console as any other line.
"""

from __future__ import annotations

import pytest
from vm_helpers import GUEST, SHELL_PORT, until

from pytest_vmports.errors import GuestCrashError, GuestKernelWarning, GuestPanicError

PORT = SHELL_PORT
OOPS = "BUG: kernel NULL pointer dereference, address: 0000000000000000"
HUNG = "INFO: task dd:12 blocked for more than 120 seconds."
STALL = "rcu: INFO: rcu_sched self-detected stall on CPU"


@pytest.fixture
def make(vm_factory):
    """Return a function that makes a VM of these settings, which does what it is told."""

    def made(**settings):
        return vm_factory(ports=[PORT], setup=GUEST, **settings)

    return made


def failing(block, use, kind=GuestCrashError):
    """Return what the block of a VM raises at its end, or before."""
    with pytest.raises(kind) as caught, block as vm:
        use(vm)
    return caught.value


def says(vm, line):
    """Let a guest's kernel say a line, with nobody there to wait for an answer."""
    with vm.connect(PORT) as connection:
        connection.sendall(f"echo '<2>{line}' >/dev/kmsg\n".encode())
    until(lambda: line in vm.console, 60, lambda: vm.console)


@pytest.mark.parametrize(
    ("line", "what"),
    [(OOPS, "has a fault of its own (an oops)"), (HUNG, "found a task that hangs")],
)
def test_what_a_kernel_says_of_its_failing_fails_the_test_at_the_end(make, line, what):
    with pytest.raises(GuestCrashError) as caught, make() as vm:
        says(vm, line)
    assert type(caught.value) is GuestCrashError
    assert str(caught.value).startswith(f"the guest's kernel {what}: {line}\n")
    assert "still runs" in caught.value.returncode


def test_and_ends_whatever_waits(make):
    told = f"the guest's kernel has a fault of its own (an oops): {OOPS}\n"

    def use(vm):
        with pytest.raises(GuestCrashError) as caught:
            vm.run(f"echo '<2>{OOPS}' >/dev/kmsg; sleep 10000", timeout=None)
        assert str(caught.value).startswith(told)
        for ask in (vm.pause, vm.reset, vm.snapshot, vm.shutdown, lambda: vm.connect(PORT)):
            with pytest.raises(GuestCrashError):
                ask()

    failing(make(), use)


def test_a_boot_is_waited_for_no_longer_either(boot):
    setup = f"echo '<2>{OOPS}' >/dev/kmsg; sleep 10000"
    with pytest.raises(GuestCrashError), boot(PORT, setup=setup, boot_timeout=10_000):
        pass


def test_a_test_that_wants_that_goes_on_with_its_guest(make):
    with make(allow_crash=True) as vm:
        says(vm, OOPS)
        assert vm.run("echo $(uname)").stdout == "Linux\n"


@pytest.mark.slow
def test_a_guest_that_crashed_where_that_is_allowed_is_a_template_for_nobody(boot_and_lines):
    boot, lines = boot_and_lines
    setup = f"{GUEST}echo '<2>{OOPS}' >/dev/kmsg\n"
    with boot(PORT, setup=setup, allow_crash=True, fresh_boot=False) as vm:
        assert vm.origin == "booted"
    assert any("crashed" in line for line in lines), lines
    with pytest.raises(GuestCrashError), boot(PORT, setup=setup, fresh_boot=False):
        pass


def test_what_a_kernel_goes_on_after_is_said(make):
    warned = pytest.warns(GuestKernelWarning, match=f"missed a processor for a while: {STALL}")
    with warned, make() as vm:
        says(vm, STALL)


def test_a_service_that_was_killed_for_want_of_memory_fails_its_test(make):
    command = "echo 1 >/proc/sys/vm/overcommit_memory; tail /dev/zero"
    error = failing(make(), lambda vm: vm.run(command, check=False, timeout=120))
    assert error.kind == "out of memory"
    assert "(tail)" in error.crash
    assert "give the guest more memory" in str(error)


def test_an_oops_before_a_panic_is_told_with_it(make):
    command = f"echo '<2>{OOPS}' >/dev/kmsg; echo c >/proc/sysrq-trigger\n"

    def use(vm):
        with vm.connect(PORT) as connection:
            connection.sendall(command.encode())
        until(lambda: "Kernel panic" in vm.console, 60, lambda: vm.console)

    told = f"the guest's kernel panicked: sysrq triggered crash\nbefore that it said: {OOPS}\n"
    assert str(failing(make(), use, GuestPanicError)).startswith(told)

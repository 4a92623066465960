"""The cause before the consequence: whoever is found dead first, it is told who ended the VM.

QEMU's end hangs up gvproxy, which ends with that, by itself and with 0; and a guest that panics or
powers off ends QEMU. Each is a race, so each is tried several times.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

import pytest
from vm_helpers import GUEST, SHELL_PORT, ask_on, until

from pytest_vmports.errors import (
    CommandTimeoutError,
    GuestPanicError,
    GuestShellError,
    MachineDiedError,
)
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.settings import options

PORT = SHELL_PORT
PANIC, POWER_OFF = "echo c >/proc/sysrq-trigger", "poweroff -f"
ENDS = ["panic", "power-off", "QEMU killed", "gvproxy killed"]
BOTH = range(2)


WIRINGS = ["usernet", "gvproxy_089"]


@pytest.fixture(scope="module")
def wiring(request, qemu_binary):
    """Return the settings of a wiring."""
    if request.param == "usernet":
        return {}
    return {"allow_network": True, "gvproxy": str(request.getfixturevalue(request.param))}


def ending(wirings):
    """Try each end with each wiring; a VM without a gvproxy has none that could be killed."""
    pairs = [
        (wiring, end)
        for wiring in wirings
        for end in ENDS
        if "gvproxy" in wiring or end != ENDS[-1]
    ]
    return pytest.mark.parametrize(("wiring", "end"), pairs, indirect=["wiring"])


def kill(end, machine):
    program = end.partition(" ")[0]
    (pid,) = (process.pid for process in machine.processes() if process.name == program)
    os.kill(pid, signal.SIGKILL)


def bring_about(end, machine, address):
    """Let a machine end so, with nobody there to wait for an answer."""
    if "killed" in end:
        kill(end, machine)
        return
    with socket.create_connection(address) as connection:
        connection.sendall(f"{PANIC if end == 'panic' else POWER_OFF}\n".encode())


def assert_told(error, end, panic="sysrq triggered crash"):
    __tracebackhide__ = True
    said = f"{type(error).__name__}: {error}"
    if end == "panic":
        assert type(error) is GuestPanicError and panic in error.panic, said
        return
    assert type(error) is MachineDiedError, said
    told = {
        "power-off": ("QEMU", "0 (the guest powered off)"),
        "QEMU killed": ("QEMU", "signal 9"),
        "gvproxy killed": ("gvproxy", "signal 9"),
    }[end]
    assert (error.program, error.returncode) == told, said


def wait_long(vm):
    vm.run("sleep 10000", timeout=None)


def reach(vm):
    paced = threading.Event()
    while True:
        with contextlib.suppress(OSError), vm.connect(PORT, timeout=1) as connection:
            connection.sendall(b"exit\n")
            connection.recv(1)
        # On a busy host a guest that does nothing but refuse connections never comes to its end.
        paced.wait(0.02)


def raised(use):
    with pytest.raises(MachineDiedError) as caught:
        use()
    return caught.value


@pytest.mark.parametrize("use", [ask_on, wait_long, reach])
@ending(WIRINGS)
def test_a_vm_that_ends_while_its_test_waits(vm_factory, wiring, end, use):
    block = vm_factory(ports=[PORT], setup=GUEST, **wiring)
    with contextlib.suppress(MachineDiedError), block as vm:
        arguments = (end, vm._machine, vm[PORT].address)
        timer = threading.Timer(0.05, bring_about, arguments)
        timer.start()
        error = raised(lambda: use(vm))
        timer.join()
    assert_told(error, end)


@pytest.mark.parametrize("number", BOTH)
@ending(WIRINGS)
def test_a_vm_that_ends_while_it_is_handed_over(request, vmports_pool, wiring, end, number):
    wanted = {"expose": [PORT], "setup": GUEST, **wiring}
    settings = options.resolve(request.config, wanted, "the test")
    with vmports_pool.vm(settings, following=[settings]):
        pass
    standby = vmports_pool.standby
    plan = vmports_pool.plan(settings, vmports_pool.guest(settings))
    exposed = vmports_pool.lease(settings.expose, settings)
    plan = plan.with_forwards(exposed.ports)
    machine = standby.take(plan.standby_key)
    assert machine is not None

    def hand_over():
        if "killed" in end:
            kill(end, machine)
        else:
            with contextlib.suppress(GuestShellError, CommandTimeoutError, MachineDiedError):
                command = PANIC if end == "panic" else POWER_OFF
                # Handed over before the guest has got far, or when it is about to end.
                machine.shell.execute(f"sleep 0.{number}; {command} &", timeout=10, input=b"")
        machine.hand_over(plan, exposed.pass_fds, exposed.since)
        while True:
            machine.check_alive()

    try:
        assert_told(raised(hand_over), end)
    finally:
        machine.stop()
        machine.discard()
        exposed.release()


@ending(WIRINGS)
def test_a_vm_that_ends_while_it_boots(boot, wiring, end):
    kernel = {"kernel": str(find_images()[0])}  # without an initrd there is no init to be found
    settings = {"setup": POWER_OFF} if end == "power-off" else kernel
    machines = []

    def kill_it():
        until(lambda: machines and machines[0].running, 60, "it runs")
        kill(end, machines[0])

    killer = threading.Thread(target=kill_it if "killed" in end else int)
    killer.start()
    # Each a kind of its own: what was met once is remembered.
    settings["append"] = f"case={end.partition(' ')[0]}"
    block = boot(PORT, observe=machines.append, **settings, **wiring)
    error = raised(lambda: contextlib.ExitStack().enter_context(block))
    killer.join()
    assert_told(error, end, "Unable to mount root fs")

"""The cause before the consequence: whoever is found dead first, it is told who ended the VM.

QEMU's end hangs up gvproxy, which ends with that, by itself and with 0; and a guest that panics or
powers off ends QEMU. Each is a race, so each is tried several times.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest
from vm_helpers import alive, until

from pytest_vmports.errors import GuestPanicError, MachineDiedError
from pytest_vmports.settings import options

PORT = 8080
SETUP = f"nc -lk -p {PORT} -e sh &\n"
PANIC, POWER_OFF = "echo c >/proc/sysrq-trigger", "poweroff -f"
ROUNDS = range(3)
ENDS = ["panic", "power-off", "QEMU killed", "gvproxy killed", "QEMU told to end"]


@pytest.fixture(scope="module", params=["usernet", "gvproxy_081", "gvproxy_089"])
def wiring(request, qemu_binary):
    """Return the settings of each wiring in turn."""
    if request.param == "usernet":
        return {}
    return {"allow_network": True, "gvproxy": str(request.getfixturevalue(request.param))}


@pytest.fixture(params=ENDS)
def end(request, wiring):
    """Return what ends a VM; only one with a gvproxy has one to be killed."""
    if "gvproxy" in request.param and not wiring:
        return "QEMU killed"
    return request.param


def bring_about(end, machine):
    """Let a machine end so, without a wait for it."""
    if end in {"panic", "power-off"}:
        command = PANIC if end == "panic" else POWER_OFF
        with contextlib.suppress(MachineDiedError):
            # What the guest's end does to our own command is not what is asked here.
            machine.kind.shell(lambda: None).execute(command, timeout=0, input=b"")
    else:
        program, _, how = end.partition(" ")
        pids = {process.name: process.pid for process in machine.processes()}
        os.kill(pids[program], signal.SIGKILL if how == "killed" else signal.SIGTERM)


def assert_told(error, end):
    __tracebackhide__ = True
    said = f"{type(error).__name__}: {error}"
    if end == "panic":
        assert type(error) is GuestPanicError and error.panic == "sysrq triggered crash", said
        return
    assert type(error) is MachineDiedError, said
    told = {
        "power-off": ("QEMU", "0 (the guest powered off)"),
        "QEMU killed": ("QEMU", "signal 9"),
        "QEMU told to end": ("QEMU", "0 (a signal told it to)"),
        "gvproxy killed": ("gvproxy", "signal 9"),
    }[end]
    assert (error.program, error.returncode) == told, said


def ask_on(vm):
    """Ask this and that of a VM until one of it tells that the VM has ended."""
    while True:
        vm.run("true")
        vm.pause()
        vm.resume()
        vm.expose(9090)
        vm.unexpose(9090)


def wait_long(vm):
    vm.run("sleep 10000", timeout=None)


def reach(vm):
    while True:
        with contextlib.suppress(OSError), vm.connect(PORT, timeout=0.1):
            pass


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize("use", [ask_on, wait_long, reach])
def test_while_a_test_waits(vm_factory, wiring, end, use, number):
    machines = []
    with contextlib.suppress(MachineDiedError):
        with vm_factory(ports=[PORT], setup=SETUP, **wiring) as vm:
            machine = vm._machine
            machines.append(machine)
            # From a thread of its own for what comes from outside: the wait has begun by then.
            ending = threading.Timer(0.05 * number, tell_end, (vm, machine, end))
            ending.start()
            with pytest.raises(MachineDiedError) as caught:
                use(vm)
            ending.join()
    assert_told(caught.value, end)


def tell_end(vm, machine, end):
    if end in {"panic", "power-off"}:
        command = PANIC if end == "panic" else POWER_OFF
        with contextlib.suppress(MachineDiedError, OSError), vm.connect(PORT) as connection:
            connection.sendall(f"{command}\n".encode())
    else:
        bring_about(end, machine)

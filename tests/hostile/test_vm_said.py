"""A real guest that says nonsense on its own control channel, while a command of the test runs."""

from __future__ import annotations

import pytest
from vm_helpers import GUEST, ask_tcp

from pytest_vmports.errors import CommandTimeoutError, GuestSaidError, MachineError

SETTINGS = {"setup": GUEST, "port_wait": 0.1}
PORT = "/dev/ttyS1"
# What root of a guest may write beside our agent, as bytes for printf.
ATTACKS = {
    "an unknown type": r"?\0\0\0",
    "a length of 16 MiB": r"O\377\377\377",
    "a frame that is longer than any": r"E\001\020\0",
    "no number": r"X\003\0\0abc",
    "digits of another script": r"X\004\0\0\331\241\331\242",
    "a status of a process that was stopped": r"X\004\0\0004991",
    "a status that is out of range": r"X\005\0\00099999",
    "random bytes": r"\001\377\0\200\177\033[2J\r\n\t",
}


ENDED, CLOCK_SET = r"X\001\0\0000", r"C\001\0\0000"


def saying(said):
    return f"printf '{said}' >{PORT}"


@pytest.mark.slow
def test_a_guest_that_breaks_its_channel_is_named_at_once_and_serves_on(vm_factory):
    with vm_factory(ports=[8080], **SETTINGS) as vm:
        moment = vm.snapshot()
        for said in ATTACKS.values():
            for command in (f"{saying(said)}; sleep 1000", "true"):
                with pytest.raises(GuestSaidError, match="the guest's control channel"):
                    vm.run(command, timeout=None)
            assert ask_tcp(vm, 8080, b"still there") == b"still there"
            vm.restore(moment)  # another QEMU, another channel
            assert vm.run("echo healed").stdout == "healed\n"

        # In the right form a guest may lie of its own commands, as it may anyway.
        assert vm.run(f"{saying(ENDED)}; sleep 1000", timeout=None).returncode == 0
        vm.restore(moment)

        # What never ends is left at the timeout, or where it has torn a frame of the agent's.
        with pytest.raises(MachineError) as caught:
            vm.run(f"while :; do {saying(CLOCK_SET)}; done", timeout=2)
        assert isinstance(caught.value, CommandTimeoutError | GuestSaidError)
        vm.restore(moment)
        assert vm.run("echo healed").stdout == "healed\n"

"""What is said of a port that nobody answers on: the guest's condition, by each wiring.

One VM for each wiring; its condition is changed from inside. How the guest's words are read is
tried without VMs in `test_listening.py`.
"""

from __future__ import annotations

import pytest
from vm_helpers import GUEST, WIRINGS, until

from pytest_vmports.system import clock
from pytest_vmports.vm.inside.listening import ask, explained
from pytest_vmports.vm.readiness import ALL, REFUSED, Probe

PORT, OTHER = 8080, 9090
AS_BEFORE = """
killall nc
echo 0 >/proc/sys/net/ipv6/bindv6only
ip link set eth0 up
ip addr add 192.168.127.2/24 dev eth0
ip route add default via 192.168.127.1
"""
# What is run in the guest, what a probe alone says of the port, and with the guest's own tables.
# busybox's nc has no option for IPv6 alone; where the kernel's default says so, it is.
CONDITIONS = {
    "the card has no address": (
        "ip addr flush dev eth0", "the guest ",
        "the guest's network card eth0 has not the address 192.168.127.2, and has none",
    ),
    "the card is down": (
        "ip link set eth0 down", "the guest ", "the guest's network card eth0 is down",
    ),
    "nothing listens": (
        ":", "the guest refused",
        "no program in the guest listens on any TCP port",
    ),
    "on 127.0.0.1": (
        f"nc -lk -s 127.0.0.1 -p {PORT} -e cat &", "the guest refused",
        f"in the guest a server listens on 127.0.0.1:{PORT}, for this address alone, which",
    ),
    "on ::1": (
        f"nc -lk -s ::1 -p {PORT} -e cat &", "the guest refused",
        f"the guest refused: in the guest a server listens on [::1]:{PORT}, for IPv6 alone",
    ),
    "on [::], IPv6 alone": (
        f"echo 1 >/proc/sys/net/ipv6/bindv6only; nc -lk -s :: -p {PORT} -e cat &",
        "the guest refused",
        f"the guest refused: in the guest a server listens on [::]:{PORT}, for IPv6 alone",
    ),
    "on another port": (
        f"nc -lk -s 0.0.0.0 -p {OTHER} -e cat &", "the guest refused",
        f"listens on port {PORT}; servers listen on 0.0.0.0:{OTHER}",
    ),
    "by UDP": (
        f"nc -lu -p {PORT} -e cat &", "the guest refused",
        f'the UDP port {PORT} open, and nothing listens there by TCP: declare "{PORT}/udp"',
    ),
    "as it should": (f"nc -lk -s 0.0.0.0 -p {PORT} -e cat &", "answered", "answered"),
}  # fmt: skip


@pytest.fixture(scope="module", params=WIRINGS)
def vm(request, boot):
    if request.param == "gvproxy":
        request.getfixturevalue("gvproxy_089")
    with boot(PORT, setup=GUEST, wait_for="none", fresh_boot=False, **WIRINGS[request.param]) as vm:
        yield vm


def listens(vm):
    """Whether a server has begun to listen."""
    tables = "/proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6"
    return vm.run(f"cat {tables} | grep -E ' 0A | 07 '", check=False).stdout


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_is_said_of_a_guest_in_this_condition(vm, condition):
    command, alone, reason = CONDITIONS[condition]
    vm.run(AS_BEFORE, check=False)
    vm.run(command)
    if "nc -l" in command:
        until(lambda: listens(vm), 60, "no server in the guest")
    machine = vm._machine
    probe = Probe(ALL, machine.cards.first, machine.monitor)
    deadline = clock.now() + 20

    def answers():
        probe.step(deadline, machine.check_alive)
        return probe.answers[PORT].startswith(alone)

    if "card" not in condition:
        # With a card that was down just now it may not be reached at once.
        until(answers, 20, lambda: probe.answers[PORT])
    else:
        # gvproxy gives a guest that it has not seen up after three seconds, and closes what it
        # took.
        late = clock.now() + (4 if vm.wiring == "gvproxy" else 0)
        while answers() and clock.now() < late:
            assert probe.answers[PORT] != REFUSED
        assert probe.answers[PORT].startswith(alone)
    said = explained(probe.answers, ask(lambda: machine.shell))[PORT]
    assert reason in said
    if "card" in condition:
        assert "refused" not in said and "nothing listens" not in said

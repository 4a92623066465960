"""How a restricted guest with UDP ports is connected, without starting QEMU."""

from __future__ import annotations

import os
import socket
import stat

import pytest
from held import held

from pytest_vmports.errors import ForwardError, MachineError
from pytest_vmports.models import ExposedPort
from pytest_vmports.network import relayed, usernet
from pytest_vmports.network.choose import Network
from pytest_vmports.network.exposed import ExposedPorts
from pytest_vmports.network.relayed import RelayedUsernetWiring

TCP = ExposedPort(internal=80, external=20080)


def udp(external=20053):
    return ExposedPort(internal=53, external=external, protocol="udp")


@pytest.fixture
def taken():
    with socket.socket(type=socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_tcp_alone_goes_without_a_hub():
    args = " ".join(usernet.card_args([TCP], restrict=True))
    assert "hub" not in args
    assert args.count("-netdev") == 1


def test_qemu_forwards_tcp_only_and_inherits_the_relays_end_of_the_link():
    wiring = RelayedUsernetWiring((TCP, udp()))
    (link,) = wiring.start([7])
    try:
        assert stat.S_ISSOCK(os.fstat(link).st_mode)
        args = " ".join(relayed.card_args(wiring.ports, link))
    finally:
        wiring.stop()
    assert f"local.type=fd,local.str={link}" in args
    assert "restrict=on" in args
    assert args.count("hostfwd=") == 1
    assert "hostfwd=tcp:127.0.0.1:20080-192.168.127.2:80" in args


def test_the_guests_card_is_the_same_with_and_without_the_relay():
    """Else a guest saved with one could not be restored with the other."""
    hub, plain = relayed.card_args([udp()], 7)[-1], usernet.card_args([TCP], restrict=True)[-1]
    assert hub.replace("netdev=h2", "") == plain.replace("netdev=n0", "")


def test_forwards_by_the_relay_end_with_this_process():
    with_relay, without = Network("usernet", relayed=True), Network("usernet", restrict=False)
    assert [with_relay.outlives(port) for port in (TCP, udp())] == [True, False]
    assert [without.outlives(port) for port in (TCP, udp())] == [True, True]


def test_a_start_that_fails_leaves_nothing(taken):
    before = held()
    wiring = RelayedUsernetWiring((udp(), udp(taken)))
    with pytest.raises(ForwardError) as caught:
        wiring.start([])
    assert caught.value.port == taken
    wiring.stop()
    assert held() <= before


def test_a_stop_leaves_nothing_and_may_come_twice_or_alone():
    before = held()
    wiring = RelayedUsernetWiring((udp(),))
    wiring.stop()
    wiring.start([])
    assert held() - before
    wiring.stop()
    wiring.stop()
    assert held() <= before


def test_a_forward_that_is_not_there_cannot_be_removed():
    wiring = RelayedUsernetWiring((udp(),))
    with pytest.raises(MachineError, match="is not forwarded"):
        wiring.remove_forward(udp(20054), None, None)


class Monitor:
    """Remembers what it was asked; adds and removes every forward."""

    def __init__(self):
        self.asked = []

    def give_and_hmp(self, descriptor, name, line):
        self.give(descriptor, name)
        return self.hmp(line)

    def give(self, descriptor, name):
        self.asked.append(f"give {descriptor} {name}")

    def execute(self, command, **arguments):
        self.asked.append(f"{command} {arguments}")

    def hmp(self, line):
        self.asked.append(line)
        return "removed" if "remove" in line else ""


def test_while_the_guest_runs_qemu_is_asked_for_tcp_and_the_relay_for_udp(taken):
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        asked, more = udp(one.getsockname()[1]), udp(two.getsockname()[1])
    wiring, monitor = RelayedUsernetWiring((TCP, asked)), Monitor()
    wiring.start([])
    try:
        wiring.add_forward(more, 7, monitor)
        assert monitor.asked == []
        with pytest.raises(ForwardError):
            wiring.add_forward(udp(taken), 7, monitor)
        assert wiring.ports == (TCP, asked, more)
        wiring.remove_forward(asked, 7, monitor)
        assert monitor.asked == []
        with socket.socket(type=socket.SOCK_DGRAM) as taker:
            with pytest.raises(OSError, match="in use"):
                taker.bind(more.address)
            taker.bind(asked.address)  # so it is free
        wiring.remove_forward(TCP, None, monitor)
        assert monitor.asked == ["hostfwd_remove n0 tcp:127.0.0.1:20080"]
        assert wiring.ports == (more,)
    finally:
        wiring.stop()


def test_a_launcher_of_ones_own_gets_plain_forwards():
    class Lease:
        def fileno(self):
            return 7

    args = ExposedPorts([(udp(), Lease())]).qemu_args()
    assert "restrict=on" in args[1]
    assert "hostfwd=udp:127.0.0.1:20053-192.168.127.2:53" in args[1]
    assert "hub" not in " ".join(args)

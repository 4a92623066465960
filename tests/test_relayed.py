"""How a restricted guest with UDP ports is connected, without starting QEMU."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from pytest_vmports.errors import ForwardError, MachineError
from pytest_vmports.models import ExposedPort
from pytest_vmports.network.exposed import ExposedPorts
from pytest_vmports.network.relayed import RelayedUsernetWiring
from pytest_vmports.network.usernet import UsernetWiring

TCP = ExposedPort(internal=80, external=20080)


def udp(external=20053):
    return ExposedPort(internal=53, external=external, protocol="udp")


@pytest.fixture
def taken():
    with socket.socket(type=socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def started():
    """What a wiring may leave behind in this process."""
    return set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))


def test_tcp_alone_goes_without_a_hub():
    args = " ".join(UsernetWiring((TCP,)).qemu_args())
    assert "hub" not in args
    assert args.count("-netdev") == 1


def test_qemu_forwards_tcp_only_and_inherits_the_relays_end_of_the_link():
    wiring = RelayedUsernetWiring((TCP, udp()))
    wiring.start([7])
    try:
        lease, link = wiring.qemu_fds([7])
        args = " ".join(wiring.qemu_args())
    finally:
        wiring.stop()
    assert lease == 7
    assert f"local.type=fd,local.str={link}" in args
    assert "restrict=on" in args
    assert args.count("hostfwd=") == 1
    assert "hostfwd=tcp:127.0.0.1:20080-192.168.127.2:80" in args


def test_the_guests_card_is_the_same_with_and_without_the_relay():
    """Else a guest saved with one could not be restored with the other."""
    with_relay, without = RelayedUsernetWiring((udp(),)), UsernetWiring((TCP,))
    with_relay.start([])
    try:
        cards = [wiring.qemu_args()[-2:] for wiring in (with_relay, without)]
    finally:
        with_relay.stop()
    ((_, hub), (_, plain)) = cards
    assert hub.replace("netdev=h2", "") == plain.replace("netdev=n0", "")


def test_forwards_by_the_relay_end_with_this_process():
    assert list(RelayedUsernetWiring((TCP, udp())).outliving()) == [TCP]
    assert list(UsernetWiring((TCP,)).outliving()) == [TCP]


def test_a_start_that_fails_leaves_nothing(taken):
    before = started()
    wiring = RelayedUsernetWiring((udp(), udp(taken)))
    with pytest.raises(ForwardError) as caught:
        wiring.start([])
    assert caught.value.port == taken
    wiring.stop()
    assert started() == before


def test_a_stop_leaves_nothing_and_may_come_twice_or_alone():
    before = started()
    wiring = RelayedUsernetWiring((udp(),))
    wiring.stop()
    wiring.start([])
    assert started() != before
    wiring.stop()
    wiring.stop()
    assert started() == before


def test_a_forward_that_is_not_there_cannot_be_hidden():
    wiring = RelayedUsernetWiring((udp(),))
    with pytest.raises(MachineError, match="is not forwarded"):
        wiring.hide(udp(20054), None)


def test_a_launcher_of_ones_own_gets_plain_forwards():
    class Lease:
        def fileno(self):
            return 7

    args = ExposedPorts([(udp(), Lease())]).qemu_args()
    assert "restrict=on" in args[1]
    assert "hostfwd=udp:127.0.0.1:20053-192.168.127.2:53" in args[1]
    assert "hub" not in " ".join(args)

"""Every way from a real guest to the host's loopback that was found, in each wiring."""

from __future__ import annotations

import contextlib
import ipaddress
import platform
import socket
import struct

import pytest
from frames import tcp, udp
from raw_packets import send
from vm_helpers import GUEST as SETUP
from vm_helpers import SHELL_PORT, ask_tcp, programs_of, until

from pytest_vmports.constants import (
    GATEWAY_IP,
    HOST_ALIAS_IP,
    HOST_IP,
    UDP_RELAY_IP,
    USERNET_DNS_IP,
)
from pytest_vmports.network.udp_frames import checksum

WIRINGS = {
    "usernet": (["5353/udp"], {}),
    "usernet, tcp alone": ([], {}),
    "usernet, network": ([], {"allow_network": True, "backend": "usernet"}),
    "gvproxy 0.8.1": ([], {"allow_network": True}),
    "gvproxy 0.8.9": ([], {"allow_network": True}),
    "gvproxy 0.8.9, a list": ([], {"allow_network": ["0.0.0.0/0"]}),
    "passt": (["5353/udp"], {"backend": "passt"}),
    "passt, network": (["5353/udp"], {"backend": "passt", "allow_network": True}),
}
ETHERNET = 14
EVERYWHERE = [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET),
              ("::1", socket.AF_INET6), ("::", socket.AF_INET6)]  # fmt: skip
# Of a number that is spelled oddly a packet knows nothing.
IPV4 = [
    GATEWAY_IP, HOST_ALIAS_IP, "0.0.0.0", "0.0.0.1", "0.1.2.3", "127.0.0.1", "127.0.0.2",
    "127.0.1.1", "127.0.0.53", "127.255.255.254", "127.255.255.255", "255.255.255.255",
    "192.168.127.255", "224.0.0.1", "239.255.255.250",
]  # fmt: skip
# gvproxy looks for these beyond the host, as for any other address.
OF_USERNET = [USERNET_DNS_IP, UDP_RELAY_IP, "192.168.127.0", "192.168.127.77", HOST_IP]
IPV6 = [
    "::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1", "64:ff9b::127.0.0.1",
    "::ffff:0:127.0.0.1", "2002:7f00:1::", "fec0::2", "fec0::3", "fe80::2", "fe80::1", "ff02::1",
    "ff01::1", "ff05::1", "fec0::1", "fc00::2",
]  # fmt: skip

OPEN = {(protocol, host) for protocol in ("tcp", "udp") for host, _ in EVERYWHERE if host != "::1"}


class Ears:
    """Services of the host, by protocol and address, and what they have heard."""

    def __init__(self, stack):
        self.sockets = {}
        for protocol, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
            for host, family in EVERYWHERE:
                ear = stack.enter_context(socket.socket(family, kind))
                ear.bind((host, 0))
                if protocol == "tcp":
                    ear.listen(1000)
                ear.setblocking(False)
                self.sockets[protocol, host] = ear

    def ports(self, protocol):
        return [ear.getsockname()[1] for (one, _), ear in self.sockets.items() if one == protocol]

    def heard(self):
        """Return who has heard anything since this was asked last."""
        return {place for place, ear in self.sockets.items() if self._any(*place, ear)}

    def _any(self, protocol, _host, ear):
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                if protocol == "tcp":
                    ear.accept()[0].close()
                else:
                    ear.recv(100)
                count += 1
        return count


@pytest.fixture
def ears():
    with contextlib.ExitStack() as stack:
        yield Ears(stack)


def six(target, protocol, port):
    """Return a datagram, or the first segment of a connection, by IPv6."""
    source, there = (ipaddress.ip_address(one).packed for one in ("fec0::5", target))
    if protocol == "tcp":
        body, at = struct.pack("!HHIIHHHH", 40000, port, 1000, 0, 5 << 12 | 2, 65535, 0, 0), 16
    else:
        body, at = struct.pack("!HHHH", 40000, port, 9, 0) + b"x", 6
    number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    pseudo = source + there + struct.pack("!II", len(body), number)
    body = body[:at] + checksum(pseudo + body).to_bytes(2, "big") + body[at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(body), number, 64) + source + there + body


def knocks(ears, addresses):
    """Return packets for every service at every address."""
    numbers = iter(range(40000, 65536))
    for protocol, frame in (("tcp", tcp), ("udp", udp)):
        for port in ears.ports(protocol):
            for address in addresses:
                if ":" in address:
                    yield six(address, protocol, port)
                else:
                    yield frame(address, port, source_port=next(numbers))[ETHERNET:]


# Those differ little from one beside them.
@pytest.mark.slow_as("usernet, tcp alone", "gvproxy 0.8.9, a list")
@pytest.mark.parametrize("wiring", WIRINGS)
def test_no_service_of_the_hosts_loopback_hears_a_guest(boot, ears, tmp_path, request, wiring):
    if platform.machine() != "x86_64":
        pytest.fail("write the sender of raw_packets.py for this processor")
    ports, network = WIRINGS[wiring]
    network = {**network, **programs_of(wiring, request)}
    with boot(SHELL_PORT, 8080, *ports, setup=SETUP, fresh_boot=False, **network) as vm:
        # Out by its card goes what a guest's own kernel would keep for its loopback.
        # A passt of 2025_05 ends by an assertion of its own at such a source and target together:
        # its VM has failed then, and nobody has heard anything.
        six = [one for one in IPV6 if not (wiring.startswith("passt") and "::ffff:" in one)]
        send(vm, knocks(ears, six), tmp_path)
        in_turn(vm)
        assert ears.heard() == set()
        near = OF_USERNET if wiring.startswith("usernet") else []
        send(vm, knocks(ears, [*IPV4, *near]), tmp_path)
        in_turn(vm)
        heard = ears.heard()
    heard |= ears.heard()
    # A line says so, and strict_network refuses that.
    assert heard == (OPEN if wiring == "usernet, network" else set())


def in_turn(vm):
    """Return when the guest's network has done what it was asked before this, and works."""
    until(lambda: answers(vm) and answers(vm), 120, "the forward answers again")


def answers(vm):
    with contextlib.suppress(OSError):  # of gvproxy, while it is busy with the guest's packets
        return ask_tcp(vm, 8080, b"there") == b"there"
    return False

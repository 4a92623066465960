"""Clones on a shared network: each at a place of its own, and as a boot would have made it."""

from __future__ import annotations

import contextlib
import itertools
import re

import pytest
from vm_helpers import FROM_TEMPLATE, ask_tcp, host_service

from pytest_vmports import Guest
from pytest_vmports.constants import HOST_IP
from pytest_vmports.network.lan import seat_values, template_seat
from pytest_vmports.network.moving import Move
from pytest_vmports.settings import options
from pytest_vmports.vm.inside.own_address import why_it_stays

# The same for all tests here: so one saved guest serves them, and what it asked the host for.
SETUP = f"""
nc -lk -p 9000 -e sha256sum &
nc {HOST_IP} 8000 >/root/got
ip route add 10.8.0.0/16 via 192.168.128.3
"""
PORT = 9000


@pytest.fixture(scope="module")
def machines():
    """Return what was started for `three`, builders of templates included."""
    return []


@pytest.fixture(scope="module")
def clone(boot, machines):
    """Return a function that starts a clone on a network."""
    with host_service(lambda c: c.sendall(b"from the host\n")) as port:

        def start(name, **settings):
            return boot(
                PORT, network=name, setup=SETUP, host_ports={8000: port}, fresh_boot=False,
                observe=machines.append, **settings,
            )  # fmt: skip

        yield start


@pytest.fixture(scope="module")
def three(clone):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(clone("shared")) for _ in range(3)]


def mac(number):
    return seat_values((), number).mac


def cards(vm):
    """Return the addresses of the card that has one of ours, and its own."""
    (card,) = [
        part
        for part in re.split(r"(?m)^\d+: ", vm.run("ip addr").stdout)
        if "5a:94:ef:e4:0d" in part
    ]
    own, *others = re.findall(r"(?:ether|inet6?) ([0-9a-f.:]+)", card)
    return own, others


def test_three_vms_are_clones_of_one_template_each_at_a_place_of_its_own(three, machines):
    assert [vm.origin for vm in three] == ["cloned"] * 3
    assert sum(machine.makes_template for machine in machines) <= 1
    assert [vm.lan_address for vm in three] == [f"192.168.128.{n}" for n in (2, 3, 4)]
    for number, vm in enumerate(three, 2):
        link = f"fe80::5894:efff:fee4:d{number:02x}"
        assert cards(vm) == (mac(number), [vm.lan_address, link])


def test_each_reaches_the_others_by_tcp_both_ways(three):
    for one in three:
        for other in three:
            if one is not other:
                said = one.run(f"echo to {other.lan_address} | tee /tmp/sent | sha256sum; "
                               f"nc -w 30 {other.lan_address} {PORT} </tmp/sent")  # fmt: skip
                sent, arrived = said.stdout.splitlines()
                assert sent == arrived


def test_what_one_sends_to_all_is_answered_by_each_with_its_own_address(three):
    """By IPv4's broadcast and IPv6's multicast: neither is the template's anywhere."""
    one, *others = three
    for vm in others:
        vm.run("echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")
    said = one.run("ping -c 3 -w 20 192.168.128.255", check=False).stdout
    assert set(re.findall(r"from ([0-9.]+)", said)) == {vm.lan_address for vm in others}
    card = one.run(f"grep -l {mac(2)} /sys/class/net/*/address").stdout.split("/")[4]
    said = one.run(f"ping -6 -c 3 -w 20 ff02::1%{card}", check=False).stdout
    found = {found for found in re.findall(r"from ([0-9a-f:]+?):? ", said) if found != "::1"}
    assert {f"fe80::5894:efff:fee4:d{n:02x}" for n in (3, 4)} <= found
    assert not any(address.endswith("dfd") for address in found)


def test_neighbours_know_each_other_by_their_own_cards(three):
    one, *others = three
    for vm in others:
        one.run(f"ping -c 1 -w 20 {vm.lan_address}")
    known = one.run("ip neigh").stdout
    for number, vm in enumerate(others, 3):
        assert re.search(rf"{vm.lan_address} .* {mac(number)}", known)
    assert template_seat(()).mac not in known


def test_what_the_setup_did_by_its_second_card_is_there_in_each(three):
    for vm in three:
        assert vm.run("cat /root/got").stdout == "from the host\n"
        assert "10.8.0.0/16 via 192.168.128.3" in vm.run("ip route").stdout
        assert vm.run(f"nc {HOST_IP} 8000").stdout == "from the host\n"


def test_a_clone_keeps_its_address_through_a_restored_moment_and_a_reset(clone):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(clone("ends"))
        second, third = (stack.enter_context(clone("ends")) for _ in range(2))
        moment = second.snapshot()
        first.close()  # an address before its own is free now
        for begin_anew in (lambda: second.restore(moment), second.reset):
            begin_anew()
            assert second.lan_address == "192.168.128.3"
            assert cards(second) == (mac(3), ["192.168.128.3", "fe80::5894:efff:fee4:d03"])
            third.run(f"ping -c 1 -w 20 {second.lan_address}")


KEPT = {
    "a server": ("nc -l -s 192.168.128.253 -p 80 & echo $!", "listens on its own address there"),
    "a udp server": ("nc -u -l -s 192.168.128.253 -p 81 & echo $!", "(port 81)"),
    "an argument": ("sh -c 'sleep 1000; : 192.168.128.253' & echo $!", "(sleep 1000; : 192"),
    "a variable": ("A=192.168.128.253 sleep 1000 & echo $!", "(A=192.168.128.253)"),
    "a file": ("echo =192.168.128.253/24 >/etc/own; echo", "stands in its file /etc/own"),
    "its card": ("echo 5a:94:ef:e4:0d:fd >/srv/card; echo", "stands in its file /srv/card"),
    "an address of its own": (
        "ip addr add 192.168.128.9/24 dev $card; ip addr del 192.168.128.253/24 dev $card; echo",
        "has changed",
    ),
}  # fmt: skip


def test_a_guest_that_keeps_its_address_is_told_from_one_that_does_not(boot):
    """By each of the ways in which a setup may keep it."""
    with boot(network="asked", fresh_boot=True, setup="mkdir -p /srv") as vm:
        vm._machine.kind.restored(Move(seat_values(()), template_seat(())))
        vm._machine.set_clock(60)
        vm.run("echo 192.168.128.25 192.168.128.2533 5a:94:ef:e4:0c:ee >/etc/others")
        assert why_it_stays(vm._machine.shell) is None
        card = vm.run(f"grep -l {mac(253)} /sys/class/net/*/address").stdout.split("/")[4]
        failed = {}
        for name, (command, reason) in KEPT.items():
            pid = vm.run(f"card={card}; {command} 2>/dev/null", timeout=120).stdout.strip()
            why = why_it_stays(vm._machine.shell)
            if reason not in (why or ""):
                failed[name] = why
            vm.run(f"[ -z '{pid}' ] || kill {pid or 1}; rm -f /etc/own /srv/card")
        assert failed == {}


def test_members_are_kept_ready_and_get_their_places_from_the_test_that_needs_them(
    request, vmports_pool, qemu_binary
):
    """In the order in which it asks for them; until then they are there for nobody."""
    words = {"expose": [PORT], "network": "soon", "setup": "nc -lk -p 9000 -e cat &", "prewarm": 2}
    wanted = options.resolve(request.config, words, "the test")
    with vmports_pool.vm(wanted, following=[wanted] * 2) as first:
        assert first.lan_address == "192.168.128.2"
        vmports_pool.standby.join()
        for number in (3, 4, 253, 254):
            there = f"192.168.128.{number}"
            said = first.run(f"ping -c 1 -w 2 {there}", check=False).stdout
            assert "100% packet loss" in said, said
        with (
            vmports_pool.vm(wanted, following=[wanted]) as second,
            vmports_pool.vm(wanted) as third,
        ):
            vms = first, second, third
            assert [vm.origin for vm in vms[1:]] == ["standby"] * 2
            for number, vm in enumerate(vms, 2):
                link = f"fe80::5894:efff:fee4:d{number:02x}"
                assert vm.lan_address == f"192.168.128.{number}"
                assert cards(vm) == (mac(number), [vm.lan_address, link])
                assert ask_tcp(vm, PORT, b"by its forward") == b"by its forward"
            for one, other in itertools.permutations(vms, 2):
                said = one.run(f"echo to it | nc -w 20 {other.lan_address} {PORT}").stdout
                assert said == "to it\n"
            second.reset()
            assert (second.origin, second.lan_address) == ("booted", "192.168.128.3")
    vmports_pool.standby.drop()


# What a user of cloud-init may do: an address that follows from the card's own.
BY_CARD = """
for card in /sys/class/net/*; do
  own=$(cat $card/address)
  case $own in 5a:94:ef:e4:0d:*)
    ip link set ${card##*/} up
    ip addr add 192.168.128.$((0x${own##*:}))/24 dev ${card##*/} ;;
  esac
done
"""


@pytest.mark.slow
def test_a_debian_disk_is_cloned_and_moved_by_ssh(vm_factory, debian):
    data = {"locale": False, "runcmd": [["sh", "-c", BY_CARD]]}
    guest = Guest.disk(debian.root, memory=512, user_data=data, ssh=True, **debian.direct)
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(
                vm_factory(
                    ports=[80], network="disks", guest=guest, boot_timeout=1800, wait_for="none"
                )
            )
            for _ in range(2)
        )
        for number, vm in enumerate((one, other), 2):
            assert vm.origin in FROM_TEMPLATE
            assert vm.lan_address == f"192.168.128.{number}"
            link = f"fe80::5894:efff:fee4:d{number:02x}"
            assert cards(vm) == (mac(number), [vm.lan_address, link])
        for asking, asked in ((one, other), (other, one)):
            there = f"/dev/tcp/{asked.lan_address}/80"
            ask = r"printf 'GET / HTTP/1.0\r\n\r\n' >&3; head -c 8 <&3"
            command = ["bash", "-c", f"exec 3<>{there}; {ask}"]
            said = asking.run(command, timeout=300)
            assert said.stdout == "HTTP/1.1"

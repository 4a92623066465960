"""A guest's second card gets another place on its network: by our agent, and by a shell.

A kernel of this host does it to a card of a network namespace, where nothing of the host is.
"""

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys

import agent_program
import pytest

from pytest_vmports.network.lan import seat_values, template_seat
from pytest_vmports.network.moving import Move
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import MOVED, READY, Control

MOVE = Move(template_seat(()), seat_values((), 7))
OLD_LINK, NEW_LINK = "fe80::5894:efff:fee4:dfd/64", "fe80::5894:efff:fee4:d07/64"
# As the guest's boot script makes it, with a route that leads by a neighbour, another address that
# was put on top, and a card that is not meant.
PREPARED = f"""set -e
mount -t sysfs sysfs /sys
ip link add card type veth peer name other
for one in card other; do echo 0 >/proc/sys/net/ipv6/conf/$one/accept_dad; done
ip link set other address 5a:94:ef:e4:0d:02 up
ip link set card address {MOVE.before.mac} up
ip addr add {MOVE.before.address}/24 dev card
ip addr add 10.9.0.1/16 dev card
ip route add 10.8.0.0/16 via 192.168.128.3
exec "$@"
"""


def ended():
    """Is called while we wait; there is no VM that could have ended."""


@pytest.fixture
def namespace(missing):
    """Return the words before a command that is to run in a namespace with a card."""
    if sys.platform != "linux":
        missing("the agent's kernel", "test it on Linux")
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            missing(program, "install util-linux and iproute2")
    words = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    words += ["sh", "-c", PREPARED, "sh"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        missing("a network namespace with a card", f"allow that: {tried.stderr}")
    return words


@pytest.fixture(params=agent_program.MADE_FOR, ids=lambda architecture: architecture.name)
def agent(request, tmp_path, missing, namespace):
    """Return an agent in that namespace: its channel, and its shell."""
    program = agent_program.words(request.param, tmp_path, missing)
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([*namespace, *program, "0"], stdin=theirs, stdout=theirs)
    control = Control(ours)
    try:
        assert control.await_number(READY, float("inf"), ended) == 0
        yield control, AgentShell(control, ended)
    finally:
        control.close()
        process.wait(60)


def moved(control, requests):
    control.send(MOVED, requests)
    return control.await_number(MOVED, float("inf"), ended)


def card(text):
    """Return the card's own address and the addresses that it has, of what ``ip`` says."""
    words = text.split()
    own = [words[at + 1] for at, word in enumerate(words) if word == "link/ether"]
    return own, {words[at + 1] for at, word in enumerate(words) if word in {"inet", "inet6"}}


LOOK = "ip addr show card; ip route show 10.8.0.0/16"
AFTER = [MOVE.after.mac], {f"{MOVE.after.address}/24", "10.9.0.1/16", NEW_LINK}


def test_the_agent_gives_the_card_another_place_and_leaves_all_else_as_it_was(agent):
    control, shell = agent
    before = shell.execute(LOOK, timeout=60, input=b"")[1].decode()
    assert card(before)[1] == {f"{MOVE.before.address}/24", "10.9.0.1/16", OLD_LINK}
    assert moved(control, MOVE.requests()) == 0
    _, after, _ = shell.execute(LOOK, timeout=60, input=b"")
    assert card(after.decode()) == AFTER
    assert "10.8.0.0/16 via 192.168.128.3" in after.decode()
    _, other, _ = shell.execute("ip addr show other", timeout=60, input=b"")
    assert card(other.decode())[0] == ["5a:94:ef:e4:0d:02"]


def test_the_agent_says_why_it_could_not_and_runs_on(agent):
    control, shell = agent
    requests = MOVE.requests()
    cases = {
        "no such card": (bytes(5) + b"\x07" + requests[6:], errno.ENODEV),
        "no request": (requests[:9], errno.EINVAL),
        "no address at all": (b"", errno.ENODEV),
        "a request that is cut": (requests[:-8], errno.EINVAL),
        "a size that is none": (requests[:6] + struct.pack("=I", 3) + requests[10:], errno.EINVAL),
    }
    for given, code in cases.values():
        assert moved(control, given) == code
    # The first that is needed and refused ends it: its address is there no more.
    assert moved(control, MOVE.requests()[:6] + requests[6:]) != 0
    assert shell.execute("echo on", timeout=60, input=b"")[1] == b"on\n"


def test_a_guest_without_ipv6_moves_all_the_same(agent):
    control, shell = agent
    off = "echo 1 >/proc/sys/net/ipv6/conf/card/disable_ipv6 && ip -6 addr show card"
    assert shell.execute(off, timeout=60, input=b"") == (0, b"", b"")
    assert moved(control, MOVE.requests()) == 0
    _, after, _ = shell.execute(LOOK, timeout=60, input=b"")
    assert card(after.decode()) == (AFTER[0], AFTER[1] - {NEW_LINK})


@pytest.mark.parametrize("ours", [True, False], ids=["given", "chosen"])
def test_a_shell_does_the_same_and_leaves_an_address_that_is_not_from_us(namespace, ours):
    address = f"{MOVE.before.address}/24"
    chosen = (
        "" if ours else f"ip addr del {address} dev card; ip addr add 192.168.128.9/24 dev card"
    )
    script = f"{chosen}\n{MOVE.script()}\n{LOOK}"
    done = subprocess.run(
        [*namespace, "sh", "-c", script], capture_output=True, text=True, check=True
    )
    own, addresses = card(done.stdout)
    assert own == AFTER[0]
    assert addresses == AFTER[1] if ours else "192.168.128.9/24" in addresses
    assert ("via 192.168.128.3" in done.stdout) and not done.stderr

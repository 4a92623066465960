"""What a guest says of its servers is read as that, or not at all; and what follows for a port."""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import GuestShellError, MachineDiedError
from pytest_vmports.system import clock
from pytest_vmports.vm.inside import listening
from pytest_vmports.vm.inside.listening import Heard, explained, heard
from pytest_vmports.vm.inside.waiting import Waiting
from pytest_vmports.vm.readiness import REFUSED, SILENT, UNREACHED

REST = " 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 00 100 0 0 1 0"
REST6 = REST.replace("00000000:0000 0A", f"{'0' * 32}:0000 0A")
CARD = "eth0 5a:94:ef:e4:0c:ee 0x1003"
ADDRESS = r"2: eth0    inet 192.168.127.2/24 scope global eth0\       valid_lft forever"


def said(servers=(), cards=("lo 00:00:00:00:00:00 0x9", CARD), addresses=(ADDRESS,), datagrams=()):
    lines = [
        "servers",
        *servers,
        "datagrams",
        *datagrams,
        "cards",
        *cards,
        "addresses",
        *addresses,
        "end",
        "",
    ]
    return "\n".join(lines).encode()


def row(address, port=8080):
    """Return a line of /proc/net/tcp or tcp6 as a little-endian kernel writes it."""
    packed = ipaddress.ip_address(address).packed
    words = [packed[at : at + 4][::-1].hex().upper() for at in range(0, len(packed), 4)]
    return f"   0: {''.join(words)}:{port:04X}{REST if len(packed) == 4 else REST6}"


ADDRESSES = ["0.0.0.0", "127.0.0.1", "192.168.128.7", "::", "::1", "fe80::5894:efff:fee4:cee"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_server_is_read_with_its_address_and_port(address):
    assert heard(said([row(address, 80)])).servers == ((ipaddress.ip_address(address), 80),)


def test_a_server_of_both_families_on_one_ipv4_address_is_one_of_ipv4():
    assert str(heard(said([row("::ffff:127.0.0.1")])).servers[0][0]) == "127.0.0.1"


CONDITIONS = {
    "nothing": ((), "no program in the guest listens on any TCP port"),
    "127.0.0.1": (("127.0.0.1",), "listens on 127.0.0.1:8080, for this address alone"),
    "::1": (("::1",), "listens on [::1]:8080, for IPv6 alone"),
    "::": (("::",), "listens on [::]:8080, for IPv6 alone"),
    "both loopbacks": (
        ("127.0.0.1", "::1"), "listens on 127.0.0.1:8080, [::1]:8080, for this address alone",
    ),
    "the other card": (("192.168.128.7",), "listens on 192.168.128.7:8080, for this address"),
    "0.0.0.0": (("0.0.0.0",), "the guest refused, though a server listens on 0.0.0.0:8080 now"),
    "its own": (("192.168.127.2",), "though a server listens on 192.168.127.2:8080 now"),
}  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_listens_is_the_reason(condition):
    addresses, reason = CONDITIONS[condition]
    answers = explained({8080: REFUSED}, heard(said(map(row, addresses))))
    assert reason in answers[8080] and answers[8080].startswith("the guest refused")


@pytest.mark.parametrize("servers", [(), (row("0.0.0.0", 9090),)])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1"])
def test_a_server_by_udp_where_tcp_was_asked_is_named_with_the_right_spelling(servers, address):
    datagram = row(address).replace(" 0A ", " 07 ")
    answer = explained({8080: REFUSED}, heard(said(servers, datagrams=[datagram])))[8080]
    assert answer.startswith("the guest refused: a program in the guest has the UDP port 8080 open")
    assert 'declare "8080/udp"' in answer
    other = explained({53: REFUSED}, heard(said(servers, datagrams=[datagram])))[53]
    assert "UDP" not in other
    both = heard(said([row("127.0.0.1"), *servers], datagrams=[datagram]))
    assert "UDP" not in explained({8080: REFUSED}, both)[8080]


def test_servers_on_other_ports_are_named_in_order_and_not_without_end():
    servers = [row("0.0.0.0", port) for port in (9000, 22, *range(9001, 9020))]
    answer = explained({8080: REFUSED}, heard(said(servers)))[8080]
    assert "nothing in the guest listens on port 8080; servers listen on 0.0.0.0:22, " in answer
    assert answer.endswith("0.0.0.0:9006 and 13 more")


@pytest.mark.parametrize(
    ("cards", "addresses", "problem"),
    [
        ([CARD], [ADDRESS], ""),
        ([CARD], [], ""),
        (["eth0 5a:94:ef:e4:0c:ee 0x1002"], [ADDRESS], "card eth0 is down"),
        ([CARD], [ADDRESS.replace("127.2/", "127.22/")], "and has 192.168.127.22"),
        ([CARD], [ADDRESS.replace("eth0 ", "eth1 ").replace(".2/", ".3/")], "and has none"),
        (["lo 00:00:00:00:00:00 0x9"], [ADDRESS], "no network card with the address that we gave"),
    ],
)
@pytest.mark.parametrize("answer", [REFUSED, UNREACHED])
def test_a_network_that_is_down_is_the_reason_before_any_server(cards, addresses, problem, answer):
    found = heard(said([row("127.0.0.1")], cards, addresses))
    assert problem in found.network and bool(problem) == bool(found.network)
    if problem:
        assert explained({8080: answer}, found)[8080].endswith(found.network)
        assert "127.0.0.1" not in explained({8080: answer}, found)[8080]


@pytest.mark.parametrize(
    "answer", ["answered", "answered 'HTTP/1.0 503 Busy', not a 2xx", "no HTTP answer, got ''"]
)
def test_what_has_answered_needs_no_reason(answer):
    assert explained({80: answer}, Heard()) == {80: answer}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no such file",
        said()[:-5],
        said(["anything"]),
        said(datagrams=["anything"]),
        said(datagrams=[row("0.0.0.0")]),
        said([row("0.0.0.0").replace(" 0A ", " 01 ")]),
        said([row("0.0.0.0")[:-1] + "\x1b]0;title\x07\n"]),
        said(["   0: 0100007F:ZZZZ" + REST]),
        said(["servers"]),
        said(cards=["eth0 \x1b[31m 0x1"]),
        said(cards=["eth0 5a:94:ef:e4:0c:ee"]),
        said() + b"more\n",
        said().replace(b"cards", b"c\xff"),
        said([row("0.0.0.0")] * 900),
    ],
)
def test_an_answer_that_makes_no_sense_is_ignored(answer):
    way = SimpleNamespace(execute=lambda *_, **__: (0, answer, b""))
    assert listening.ask(lambda: way) is None
    assert explained({80: REFUSED}, None) == {80: REFUSED}


@pytest.mark.parametrize(
    "error",
    [
        GuestShellError(means="ssh", detail="no", remedy="none"), OSError(), ValueError(),
        subprocess.TimeoutExpired("ssh", 5),
    ],
)  # fmt: skip
def test_a_guest_that_cannot_be_asked_is_no_further_failure(error):
    def shell():
        raise error

    assert listening.ask(shell) is None
    assert listening.ask(lambda: None) is None


def test_a_vm_that_has_ended_is_the_failure():
    def shell():
        raise MachineDiedError(program="QEMU", returncode="0", stderr="", console="")

    with pytest.raises(MachineDiedError):
        listening.ask(shell)


class Asked:
    """A probe whose port says something at its last step."""

    def __init__(self, last):
        self.answers, self.last = {8080: "not asked yet"}, last

    def step(self, deadline, check):
        check()
        self.answers[8080] = self.last


def waiting(last):
    console = SimpleNamespace(
        tail=lambda: "the end", recent=lambda: "the end", size=7, end=lambda _: ""
    )
    return Waiting(console, lambda: None, clock.now(), 7, asked=Asked(last))


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("answered", "port 8080 answers already, so the setup waits for its server"),
        (REFUSED, "its setup has not ended: a server in it"),
        ("no HTTP answer, got ''", "its setup has not ended: a server in it"),
    ],
)
def test_a_setup_that_never_ends_is_told_of_the_missing_ampersand(last, reason):
    text = str(waiting(last).setup_never_ended())
    assert reason in text and "needs & at the end of its line" in text
    assert f"port 8080: {last}" in text


@pytest.mark.parametrize("last", [SILENT, UNREACHED])
def test_a_guest_that_has_not_come_to_its_setup_is_not_told_of_an_ampersand(last):
    text = str(waiting(last).setup_never_ended())
    assert "its setup has not ended: it still boots" in text and "raise boot_timeout" in text
    assert "&" not in text


@pytest.mark.parametrize("asked", [None, Asked("no HTTP answer, got ''")], ids=["none", "http"])
def test_where_nothing_tells_how_far_the_guest_has_come_both_reasons_are_told(asked):
    text = str(replace(waiting(""), asked=asked).setup_never_ended())
    assert "needs & at the end of its line; or it still boots: raise boot_timeout" in text


def test_at_the_deadline_the_guest_is_asked_and_then_its_ports_once_more():
    way = SimpleNamespace(execute=lambda *_, **__: (0, said([row("127.0.0.1")]), b""))
    text = str(waiting(REFUSED).timed_out("waited for it", lambda: way))
    assert "port 8080: the guest refused: in the guest a server listens on 127.0.0.1:8080" in text
    late = str(waiting("answered").timed_out("waited for it", lambda: way))
    assert "port 8080: answered\n" in late

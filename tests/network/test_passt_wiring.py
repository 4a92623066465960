"""What passt is told, and what its sockets may do, without a guest."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from pytest_vmports.constants import GATEWAY_IP
from pytest_vmports.errors import HostError, PasstNotFoundError, SettingError
from pytest_vmports.leases.candidates import ephemeral_range
from pytest_vmports.models import ExposedPort
from pytest_vmports.network import passt
from pytest_vmports.network.choose import Network, make_wiring
from pytest_vmports.pool import planning
from pytest_vmports.settings import options
from pytest_vmports.system import gate
from pytest_vmports.system import passt as programs
from pytest_vmports.system.gate import Asked

PORTS = (
    ExposedPort(internal=80, external=20123),
    ExposedPort(internal=53, external=20124, protocol="udp"),
    ExposedPort(internal=5000, external=20125, protocol="udp", host="0.0.0.0"),
)
FIRST, LAST = ephemeral_range()
ELSEWHERE = ("203.0.113.9", 443)
REFUSED, TAKEN = errno.EACCES, errno.EADDRINUSE

# What is asked, by a socket bound where, and the verdict before all is bound and after.
CASES = {
    "the host's routes": (("bind", None, "0"), None, 0, REFUSED),
    "a forward": (("bind", ("127.0.0.1", 20123), "tcp"), None, 0, 0),
    "a forward's socket": (("listen", ("127.0.0.1", 20123), "tcp"), None, 0, 0),
    "a forward of the other protocol": (
        ("bind", ("127.0.0.1", 20123), "udp"), None, REFUSED, TAKEN
    ),
    "another port": (("bind", ("127.0.0.1", 20200), "tcp"), None, REFUSED, REFUSED),
    "a trial of a guest's target": (("bind", ELSEWHERE, "tcp"), None, REFUSED, REFUSED),
    "a forward of UDP": (("bind", ("127.0.0.1", 20124), "udp"), None, 0, 0),
    "one of its clients": (
        ("connect", ("127.0.0.1", 40000), "udp"), ("127.0.0.1", 20124), REFUSED, 0
    ),
    "a client of one on all addresses": (
        ("connect", ("192.0.2.9", 40000), "udp"), ("192.0.2.1", 20125), REFUSED, 0
    ),
    "such a client's socket": (("bind", ("192.0.2.1", 20125), "udp"), None, REFUSED, 0),
    "the loopback, from elsewhere": (
        ("connect", ("127.0.0.1", 40000), "udp"), ("127.0.0.1", 20126), REFUSED, REFUSED
    ),
    "the loopback, by TCP": (
        ("connect", ("127.0.0.1", 40000), "tcp"), ("127.0.0.1", 20124), REFUSED, REFUSED
    ),
    "a guest's own UDP": (("bind", ("0.0.0.0", FIRST), "udp"), None, REFUSED, 0),
    "the last of such": (("bind", ("::", LAST), "udp"), None, REFUSED, 0),
    "a port that could be a lease": (("bind", ("0.0.0.0", 20200), "udp"), None, REFUSED, TAKEN),
    "a guest's UDP at one address": (
        ("bind", ("127.0.0.1", FIRST), "udp"), None, REFUSED, TAKEN
    ),
    "the name server": (("connect", ("127.0.0.53", 53), "udp"), None, 0, 0),
    "the name server by TCP": (("connect", ("127.0.0.53", 53), "tcp"), None, 0, 0),
    "another service of its": (("connect", ("127.0.0.53", 54), "udp"), None, REFUSED, REFUSED),
    "the guest's own network": (("connect", (GATEWAY_IP, 80), "tcp"), None, REFUSED, REFUSED),
    "a Unix socket": (("connect", b"/run/docker.sock", "unix"), None, REFUSED, REFUSED),
    "to listen on one": (("bind", b"/tmp/there", "unix"), None, REFUSED, REFUSED),
}  # fmt: skip


def outgoing(asked):
    """Let what the world has, as `Outgoing` would."""
    return 0 if asked.address in {ELSEWHERE, (GATEWAY_IP, 80)} else errno.EACCES


@pytest.mark.parametrize("case", CASES)
def test_what_its_sockets_may_do(case):
    asked, bound, before, after = CASES[case]
    doorman = passt.PasstDoorman(PORTS, outgoing, "127.0.0.53")
    assert doorman(Asked(*asked, bound)) == before
    doorman.shut()
    assert doorman(Asked(*asked, bound)) == after


def test_where_a_guest_connects_to_is_anothers_to_decide():
    asked = Asked("connect", ELSEWHERE, "tcp")
    assert passt.PasstDoorman(PORTS, outgoing, "127.0.0.53")(asked) == 0
    for name_server in ("127.0.0.53", None):
        assert passt.PasstDoorman(PORTS, name_server=name_server)(asked) == errno.EACCES


@pytest.mark.parametrize(
    ("leads", "online", "more"),
    [
        ({4, 6}, True, []),
        ({4}, True, ["--ipv4-only"]),
        ({6}, True, ["--ipv4-only", "--interface", "lo"]),
        (set(), True, ["--ipv4-only", "--interface", "lo"]),
        ({4, 6}, False, ["--ipv4-only", "--interface", "lo"]),
    ],
)
def test_it_is_told_the_guests_addresses_wherever_the_host_leads(monkeypatch, leads, online, more):
    monkeypatch.setattr(passt, "_leads_to", lambda address: (6 if ":" in address else 4) in leads)
    server = "192.0.2.53" if online else None
    words = passt.arguments(PORTS, online=online, name_server=server)
    told = " ".join(words)
    assert [word for word in words if word in {"--ipv4-only", "--interface", "lo"}] == more
    for pair in ("--address 192.168.127.2", "--gateway 192.168.127.1",
                 "--map-host-loopback none", "--tcp-ports 127.0.0.1/20123:80",
                 "--udp-ports 127.0.0.1/20124:53 --udp-ports 0.0.0.0/20125:5000"):  # fmt: skip
        assert pair in told
    assert ("--dns-host 192.0.2.53" in told) == online


def test_no_forward_is_said_too():
    assert "--tcp-ports none --udp-ports none" in " ".join(
        passt.arguments((), online=False, name_server=None)
    )


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that puts a shell script in the place of passt."""

    def put(text):
        script = tmp_path / "passt"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        return script

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(programs.surroundings, "which", lambda _: _found(tmp_path))
    programs.find_passt.cache_clear()
    yield put
    programs.find_passt.cache_clear()


def _found(folder):
    script = folder / "passt"
    return str(script) if script.exists() else None


def test_one_that_knows_what_it_is_told_is_taken(program):
    script = program("echo 'Usage: passt [OPTION]...'")
    assert programs.find_passt() == programs.Passt(str(script))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "it is not on PATH"),
        ("echo no such library >&2; exit 127", r"does not run: no such library"),
        ("echo something else", r"does not run: something else"),
        ("echo Usage: passt; [ $# = 1 ]", r"too old.*127\.0\.0\.1.*--map-host-loopback"),
    ],
)
def test_one_that_cannot_be_used_is_told(program, text, said):
    if text is not None:
        program(text)
    with pytest.raises(PasstNotFoundError, match=rf"(?s){said}.*Debian 13.*backend = auto"):
        programs.find_passt()


def test_without_the_gate_it_is_not_used(monkeypatch):
    monkeypatch.setattr(gate, "problem", lambda: "this container forbids it")
    with pytest.raises(HostError, match=r"backend = passt needs a gate.*this container forbids it"):
        planning._passt()


def test_a_list_is_refused():
    words = {"backend": "passt", "allow_network": ["example.org"]}
    with pytest.raises(SettingError, match="passt reaches all or nothing") as caught:
        options.resolve(options.NoConfig(), words, "the test")
    assert caught.value.name == "backend"


def test_a_wiring_without_its_program_is_told():
    with pytest.raises(SettingError, match="a passt is needed"):
        make_wiring(
            Network("passt"), PORTS, gvproxy=None, workdir=SimpleNamespace(), allocator=None
        )


def test_what_goes_on_without_us_are_the_forwards_of_tcp():
    assert [Network("passt").outlives(port) for port in PORTS] == [True, False, False]


REFUSALS = {
    "Failed to bind port 20123 (Address already in use) for option '-t 127.0.0.1/20123:80'": 0,
    "Failed to bind port 20124 (Address already in use) for option '-u 127.0.0.1/20124:53'": 1,
    "Listen failed for HOST TCP port 127.0.0.1/20123: Address already in use": 0,
    "Listen failed for HOST UDP port ::/20125: Address already in use": 2,
    "Listen failed for HOST TCP port 127.0.0.1/20124: Address already in use": None,
    "Failed to bind port 20199 (Address already in use) for option '-t 127.0.0.1/20199:80'": None,
    "Couldn't listen on requested ports": None,
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_port_that_it_cannot_bind_is_told_from_others(said):
    found = passt.refused_port(f"Started as root\n{said}\nexiting\n", PORTS)
    number = REFUSALS[said]
    assert found == (None if number is None else PORTS[number])

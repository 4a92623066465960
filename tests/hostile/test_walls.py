"""What gvproxy may do of the host behind each of its walls, alone and together.

A gvproxy that a guest has talked into anything is played twice: by a program of ours behind the
same walls, and by real ones of both generations, whose API is told what a guest would tell it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from confined import PYTHON, tries
from frames import arp, udp
from vm_helpers import addresses, fixed_port

import pytest_vmports
from pytest_vmports import ExposedPort, PortAllocator
from pytest_vmports.constants import GATEWAY_IP
from pytest_vmports.errors import ForwardError, GuestForwardError
from pytest_vmports.network import walls
from pytest_vmports.network.doorman import Doorman
from pytest_vmports.network.gvproxy import GvproxyWiring
from pytest_vmports.network.log import NetworkLog
from pytest_vmports.network.outgoing import Outgoing
from pytest_vmports.system import foreign, listeners
from pytest_vmports.system.programs import find_gvproxy
from pytest_vmports.system.run_dir import RunDir


@pytest.fixture
def folder():
    """Return a private folder, as a VM's."""
    with RunDir() as run_dir:
        yield run_dir.path


def test_this_host_has_every_wall(qemu_binary):
    """Where it has not, the tests below would prove nothing."""
    assert [wall.problem for wall in walls.of_this_host()] == [None, None, None]


# --- a program of ours in gvproxy's place -------------------------------------------------------

READS = """
for path in readable + unreadable:
    attempt("read " + path, lambda: os.read(os.open(path, os.O_RDONLY), 10))
for path in ("/", "/tmp", "/etc", "/home", "/usr/src", folder, os.path.dirname(secret)):
    attempt("list " + path, lambda: os.listdir(path))
"""


def test_it_reads_what_it_needs_to_run_and_nothing_else_of_the_host(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    config = folder / "gvproxy.yaml"
    config.write_text("its own")
    others = [path for path in (Path.home() / ".profile", Path.home() / ".bashrc") if path.exists()]
    readable = ["/etc/resolv.conf", "/etc/hosts", "/dev/null", str(config), sys.executable]
    unreadable = [
        str(secret), "/etc/shadow", "/etc/passwd", f"/proc/{os.getpid()}/environ",
        f"/proc/{os.getpid()}/mem", "/proc/self/environ", pytest_vmports.__file__,
        str(Path(__file__)), *map(str, others),
    ]  # fmt: skip
    around = walls.around_gvproxy(sys.executable, [config, *PYTHON], Doorman((), ()), folder)
    said = tries(around, folder, READS, readable=readable, unreadable=unreadable,
                 secret=str(secret), folder=str(folder))  # fmt: skip
    assert {path for path in readable if said[f"read {path}"] != "done"} == set()
    refused = {name: what for name, what in said.items() if name[5:] not in readable}
    assert set(refused.values()) <= {"EACCES", "ENOENT"}, refused


CHANGES = """
attempt("write", lambda: os.open(victim, os.O_WRONLY))
attempt("append", lambda: os.open(victim, os.O_WRONLY | os.O_APPEND))
attempt("truncate", lambda: os.truncate(victim, 0))
attempt("remove", lambda: os.unlink(victim))
attempt("remove the folder", lambda: os.rmdir(empty))
for where in (os.path.dirname(victim), folder, "/tmp", "/dev/shm", "/var/tmp"):
    new = os.path.join(where, "new")
    attempt("make " + where, lambda: os.open(new, os.O_CREAT | os.O_WRONLY))
    attempt("make a folder " + where, lambda: os.mkdir(new))
    attempt("make a link " + where, lambda: os.symlink("/", new))
    attempt("make a name " + where, lambda: os.link(victim, new))
    attempt("make a pipe " + where, lambda: os.mkfifo(new))
    attempt("make a device " + where, lambda: os.mknod(new, stat.S_IFCHR | 0o600, 259))
    attempt("make a socket " + where, lambda: os.mknod(new, stat.S_IFSOCK | 0o600))
    attempt("move " + where, lambda: os.rename(victim, new))
"""


@pytest.mark.parametrize("gated", [True, False], ids=["", "without the gate"])
def test_it_writes_makes_and_removes_nothing(folder, tmp_path, gated, request):
    """Without the gate it makes its sockets itself, in a folder of its own."""
    if not gated:
        request.getfixturevalue("ungated")
    victim, empty = tmp_path / "precious", tmp_path / "empty"
    victim.write_text("still here")
    empty.mkdir()
    own = walls.folder_for_sockets(folder)
    assert (own == folder) == gated
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), own)
    assert (around.gate is not None) == gated
    said = tries(around, folder, CHANGES, victim=str(victim), empty=str(empty), folder=str(folder))
    # One file system is not another's, whatever the rights.
    assert set(said.values()) <= {"EACCES", "EXDEV", "EPERM"}, said
    assert victim.read_text() == "still here" and empty.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "precious"]
    made = tries(around_own := walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), own),
                 folder, 'attempt("own", lambda: os.mknod(own, stat.S_IFSOCK | 0o600))',
                 own=str(own / "x.sock"))  # fmt: skip
    assert around_own.walls is not None
    assert made == {"own": "EACCES" if gated else "done"}


def test_it_reaches_no_other_process(folder):
    code = """
        attempt("trace", lambda: call("ptrace", 16, pid, 0, 0))
        attempt("read", lambda: call("process_vm_readv", pid, None, 0, None, 0, 0))
        attempt("write", lambda: call("process_vm_writev", pid, None, 0, None, 0, 0))
        attempt("fetch", lambda: call("syscall", 438, os.pidfd_open(pid), 0, 0))
        attempt("ring", lambda: call("syscall", 425, 8, ctypes.create_string_buffer(256)))
    """
    around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), ()), folder)
    said = tries(around, folder, code, pid=os.getpid())
    assert set(said.values()) == {"EPERM"} and len(said) == 5


# --- its sockets --------------------------------------------------------------------------------


@pytest.fixture
def port():
    """Return a forward on a leased port that nobody guards."""
    with PortAllocator() as allocator:
        (lease,) = allocator.acquire()
        port = ExposedPort(internal=80, external=lease.port)
        lease.release_guard()
        yield port


SOCKETS = """
def bind(protocol, host, number, family=None):
    family = family or (socket.AF_INET6 if ":" in host else socket.AF_INET)
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    one = socket.socket(family, kind, 262 if protocol == "mptcp" else 0)
    one.bind((host, number))
    return one
for protocol in ("udp", "tcp", "mptcp"):
    for host in ("0.0.0.0", "127.0.0.2", "::", "::1", "::ffff:127.0.0.1"):
        attempt(f"{protocol} {host} allowed", lambda: bind(protocol, host, port))
    for number in (0, port + 1, 80):
        attempt(f"{protocol} {number}", lambda: bind(protocol, "127.0.0.1", number))
attempt("udp on a port of tcp", lambda: bind("udp", "127.0.0.1", port))
attempt("listen on any", lambda: tcp().listen())
attempt("listen on none", lambda: socket.socket(socket.AF_UNIX).listen())
attempt("path", lambda: unix(folder + "/new.sock"))
attempt("the api's", lambda: unix(folder + "/api.sock"))
attempt("no folder", lambda: unix(b"\\0name"))
attempt("a name of the kernel's", lambda: unix(""))
attempt("relative", lambda: unix("new.sock"))
one = bind("tcp", "127.0.0.1", port)
attempt("what was asked for", one.listen)
attempt("what was asked for, once more", lambda: one.listen(-5))
"""


def test_it_listens_on_what_was_asked_for_and_on_nothing_else(folder, port):
    doorman = Doorman([folder / "other.sock"], [port])
    around = walls.around_gvproxy(sys.executable, PYTHON, doorman, folder)
    said = tries(around, folder, SOCKETS, port=port.external, folder=str(folder))
    asked = {name: said.pop(name) for name in list(said) if name.startswith("what was asked for")}
    assert set(asked.values()) == {"done"}
    # The protocols' own way of finding out whether there is IPv6.
    trials = {name: said.pop(name) for name in list(said) if said[name] == "done"}
    assert trials == {}
    assert set(said.values()) == {"EACCES"}, said
    assert not list(folder.glob("*.sock"))


CONNECTS = """
for host in hosts:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        attempt(f"{host} {int(kind)}", lambda: socket.socket(family, kind).connect((host, port)))
attempt("mptcp", lambda: tcp(protocol=262).connect(("127.0.0.1", port)))
attempt("path", lambda: socket.socket(socket.AF_UNIX).connect(path))
attempt("no folder", lambda: socket.socket(socket.AF_UNIX).connect(b"\\0name"))
one = udp()
attempt("nothing", lambda: call("connect", one.fileno(), bytes(16), 16))
"""


def test_it_connects_to_nothing_of_the_hosts_loopback(folder):
    hosts = [
        "127.0.0.1", "127.8.7.6", "127.255.255.255", "0.0.0.0", "224.0.0.1", "::1", "::",
        "::ffff:127.0.0.1", "::ffff:0.0.0.0",
    ]  # fmt: skip
    path = str(folder / "service.sock")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(path)
        unix.listen()
        outgoing = Outgoing(None, strict=False, log=NetworkLog())  # all but the host's loopback
        doorman = Doorman((), (), outgoing)
        around = walls.around_gvproxy(sys.executable, PYTHON, doorman, folder)
        said = tries(around, folder, CONNECTS, hosts=hosts, port=tcp.getsockname()[1], path=path)
        outgoing.close()
        assert {name: what for name, what in said.items() if what != "EACCES"} == {}


def test_no_odd_socket_is_to_be_had_and_none_is_connected_unseen(folder):
    code = """
        import socket as s
        for family in (16, 17, 40, 38, 29, 31):
            for kind in (1, 2, 3, 5):
                attempt(f"{family} {kind}", lambda: s.socket(family, kind))
        for family in (s.AF_INET, s.AF_INET6):
            for kind in (s.SOCK_RAW, s.SOCK_SEQPACKET, s.SOCK_RDM, 10):
                attempt(f"{family} {int(kind)}", lambda: s.socket(family, kind))
        attempt("unix", lambda: s.socket(s.AF_UNIX, s.SOCK_DGRAM))
        attempt("pair", lambda: s.socketpair(s.AF_UNIX, s.SOCK_DGRAM | s.SOCK_CLOEXEC))
        attempt("fast", lambda: tcp().sendto(b"x", 0x20000000, ("127.0.0.1", port)))
        attempt("fast too", lambda: tcp().sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port)))
        attempt("sctp", lambda: s.socket(s.AF_INET, s.SOCK_STREAM, 132).bind(("127.0.0.1", port)))
        s.socketpair(s.AF_UNIX, s.SOCK_STREAM | s.SOCK_NONBLOCK)
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ours = ExposedPort(internal=1, external=port)
        around = walls.around_gvproxy(sys.executable, PYTHON, Doorman((), [ours]), folder)
        said = tries(around, folder, code, port=port)
        # SCTP is in few kernels; where it is, it is not TCP.
        assert said.pop("sctp") in {"EPROTONOSUPPORT", "EACCES", "ESOCKTNOSUPPORT"}
        # EOPNOTSUPP by its other name; and what hides its address does not pass at all.
        assert said.pop("fast too") == "EPERM"
        assert set(said.values()) == {"EAFNOSUPPORT", "ENOTSUP"}, said
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


# --- the real ones, told through their API what a guest would tell them -------------------------

ALONE = {"the gate": ["unsealed", "unwalled"], "Landlock": ["unsealed", "ungated"]}


@pytest.fixture
def hostile(any_gvproxy, folder):
    """Return a function that starts a gvproxy with one forward of each protocol, and its wiring."""
    with contextlib.ExitStack() as stack:
        allocator = stack.enter_context(PortAllocator())

        def start(host="127.0.0.1"):
            leases = [*allocator.acquire(), *allocator.acquire(protocol="udp")]
            ports = tuple(
                ExposedPort(internal=80, external=lease.port, protocol=protocol, host=host)
                for lease, protocol in zip(leases, ("tcp", "udp"), strict=True)
            )
            wiring = GvproxyWiring(ports, find_gvproxy(str(any_gvproxy)), folder, allocator)
            stack.callback(wiring.stop)
            wiring.start([lease.fileno() for lease in leases])
            return wiring

        yield start


def ask(wiring, call="expose", **body):
    """Return the status of what a guest would ask of the API; it is asked over its own socket."""
    body = {"remote": "192.168.127.2:22", "protocol": "tcp", **body}
    return wiring._api._call("POST", f"/services/forwarder/{call}", body)[0]


def held(wiring):
    """Return what it listens on but Unix sockets, by the kernel's tables."""
    return {place for place in listeners.of(wiring.processes()[0].pid) if place[0] != "unix"}


def test_by_the_gate_alone_it_opens_no_port_that_was_not_asked_for(hostile, unsealed, unwalled):
    wiring = hostile()
    tcp, udp = wiring.ports
    before = held(wiring)
    assert before == addresses(wiring.ports)
    number = fixed_port()
    for protocol, allowed in (("tcp", tcp.external), ("udp", udp.external)):
        places = [f"{host}:{number}" for host in ("127.0.0.1", "0.0.0.0", "[::1]", "[::]", "")]
        places += [f"{host}:{allowed}" for host in ("0.0.0.0", "[::]", "127.0.0.2", "")]
        places += ["127.0.0.1:0", ":0", "localhost:0", f"localhost:{number}"]
        assert {ask(wiring, local=one, protocol=protocol) for one in places} == {500}
    # A number of one protocol is none of the other's.
    assert ask(wiring, local=f"127.0.0.1:{udp.external}") == 500
    assert ask(wiring, local=f"127.0.0.1:{tcp.external}", protocol="udp") == 500
    assert held(wiring) == before
    wiring.look_for_opened()


@pytest.mark.parametrize("wall", ALONE)
def test_by_one_wall_alone_it_makes_and_removes_no_file(hostile, wall, request, tmp_path):
    """The gate alone keeps from it what it would make, and Landlock what it would remove."""
    for fixture in ALONE[wall]:
        request.getfixturevalue(fixture)
    wiring = hostile()
    victim, pipe = tmp_path / "precious", tmp_path / "pipe"
    (tmp_path / "empty").mkdir()
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(tmp_path / "service.sock"))
        service.listen()
        victim.write_text("still here")
        places = [
            victim, pipe, tmp_path / "service.sock", tmp_path / "new.sock", tmp_path / "empty",
            tmp_path / "empty" / ".." / "precious", "/tmp/new.sock", "\0name", "@name", "new.sock",
            wiring._config,
        ]  # fmt: skip
        tcp = {"remote": "tcp://192.168.127.2:22", "protocol": "unix"}
        said = {ask(wiring, local=str(place), **tcp) for place in places}
        if wall == "Landlock":
            # A socket in no folder is no file, and no other process reaches it.
            assert said <= {500, 200}
            assert victim.read_text() == "still here" and stat.S_ISFIFO(pipe.stat().st_mode)
            assert wiring._config.exists() == wiring.gvproxy.has_config
        else:
            assert said == {500}
        assert not (tmp_path / "new.sock").exists() and not Path("new.sock").exists()
        assert not Path("/tmp/new.sock").exists()


def test_its_own_sockets_are_not_to_be_taken_from_under_us(hostile, unsealed):
    """Else the guest would answer in gvproxy's place what we ask it."""
    wiring = hostile()
    for path in (wiring._api_socket, wiring._guest_socket):
        assert ask(wiring, local=str(path), protocol="unix", remote="tcp://192.168.127.2:22") == 500
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert ask(wiring, "unexpose", local=str(wiring._api_socket), protocol="unix") == 500
    assert len(wiring._api.forwards()) == 2


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_forward_that_was_taken_away_is_not_to_be_had_again(hostile, unsealed, protocol):
    wiring = hostile()
    (port,) = (one for one in wiring.ports if one.protocol == protocol)
    wiring.remove_forward(port, None, None)
    local = f"{port.host}:{port.external}"
    assert ask(wiring, local=local, protocol=protocol) == 500
    wiring.add_forward(port, 0, None)
    assert held(wiring) == addresses(wiring.ports)
    # What was refused is allowed to nobody by that.
    with pytest.raises(ForwardError):
        wiring.add_forward(port, 0, None)
    wiring.remove_forward(port, None, None)
    assert ask(wiring, local=local, protocol=protocol) == 500


def test_a_forward_of_ours_is_at_most_the_guests_to_close_and_no_wider_afterwards(
    hostile, unsealed
):
    wiring = hostile()
    tcp, _ = wiring.ports
    assert ask(wiring, "unexpose", local=f"127.0.0.1:{tcp.external}") == 200
    assert ask(wiring, local=f"0.0.0.0:{tcp.external}") == 500
    assert ask(wiring, local=f"[::]:{tcp.external}") == 500
    assert held(wiring) == addresses(wiring.ports[1:])


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "127.4.5.6"])
def test_behind_the_walls_every_bind_host_is_listened_on(hostile, host):
    wiring = hostile(host)
    shown = "::" if host == "0.0.0.0" else host
    expected = {(port.protocol, shown, port.external) for port in wiring.ports}
    assert held(wiring) == expected
    for port in wiring.ports:
        wiring.remove_forward(port, None, None)
        wiring.add_forward(port, 0, None)
    assert held(wiring) == expected
    wiring.look_for_opened()


def test_where_walls_are_missing_an_open_port_is_seen(hostile, unsealed, ungated):
    wiring = hostile()
    wiring.look_for_opened()
    assert ask(wiring, local=f"0.0.0.0:{fixed_port()}") == 200
    with pytest.raises(GuestForwardError):
        wiring.look_for_opened()


def test_without_the_gate_the_sockets_lie_where_no_guest_finds_them(hostile, ungated, folder):
    wiring = hostile()
    assert wiring._api_socket.parent.parent == folder
    assert len(wiring._api_socket.parent.name) > 8
    assert held(wiring) == addresses(wiring.ports)


def test_what_listens_is_tcp_that_landlock_and_the_kernels_tables_know(hostile, monkeypatch):
    """Go 1.24 and later would listen by MPTCP, whose ports Landlock has no rule on."""
    monkeypatch.setenv("GODEBUG", "multipathtcp=1")
    wiring = hostile()
    process = wiring.processes()[0]
    protocols = set()
    for number in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError), foreign.fetch(process.death, int(number)) as copy:
            if copy.family != socket.AF_UNIX:
                protocols.add(copy.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))
    assert protocols == {socket.IPPROTO_TCP, socket.IPPROTO_UDP}


@pytest.mark.slow
def test_a_guest_that_knocks_everywhere_does_not_end_gvproxy(hostile):
    """As one that scans ports: each datagram to another place is a connect that is held."""
    wiring = hostile()
    with socket.socket(fileno=os.dup(wiring._qemu_fd)) as guest:
        guest.settimeout(60)
        guest.send(arp(GATEWAY_IP))
        for number in range(1, 20_000):
            guest.send(udp("203.0.113.9", number, b"x"))
    assert wiring.processes()[0].wait(5) is None

"""TCP from end to end through every wiring: what a client and a server of the guest's see.

Where a wiring differs from a wire, a table says how, so that a change is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct

import pytest
import socket_servers
from vm_helpers import programs_of, until

# Of QEMU's user network, with network or without.
pytestmark = pytest.mark.slow_as("usernet, network")

MIB = 1 << 20
ECHO, DIGEST, HALF, RESETS, SOURCE, SINK, LATE, LEFT, NOBODY = range(8080, 8089)
TOLD, BLOB, TIMES = 50_000, 2 * MIB, 8
MUCH = BLOB * TIMES
# Of what is sent to one who does not read, what the kernels' buffers and the forwarder take: up to
# five are seen.
MOST_UNDERWAY = 12 * MIB
MANY = 40
SCRIPTS = {
    ECHO: "exec cat",
    DIGEST: "exec sha256sum",
    HALF: f"""echo said; {socket_servers.END_HALF}
        sha256sum >/tmp/half.new; mv /tmp/half.new /tmp/half""",
    RESETS: "read line",  # byte by byte, so the rest is unread when it ends
    SOURCE: "for part in $(seq 8); do cat /tmp/blob; done",
    SINK: f"head -c {BLOB} | sha256sum",
    LATE: f"until [ -e /tmp/go ]; do usleep 20000; done\nhead -c {MUCH} | sha256sum",
    LEFT: """echo >/tmp/reads
        cat >/dev/null 2>/dev/null; echo $? >/tmp/left.new; mv /tmp/left.new /tmp/left""",
}
BLOBS = f"dd if=/dev/urandom of=/tmp/blob bs=65536 count={BLOB >> 16} 2>/dev/null\n"
WIRINGS = {
    "usernet": {},
    "usernet, network": {"allow_network": True, "backend": "usernet"},
    "gvproxy 0.8.1": {"allow_network": True},
    "gvproxy 0.8.9": {"allow_network": True},
    "passt": {"backend": "passt"},
    "passt, network": {"backend": "passt", "allow_network": True},
}
# Whether one half of a connection goes on when the other has ended.
KEEPS_HALVES = {name: name != "gvproxy 0.8.1" for name in WIRINGS}
# All but passt pass no reset on: the other side sees an end, and the guest's program no error.
PASSES_RESETS = {name: name.startswith("passt") for name in WIRINGS}
RESET, END = "reset", "end"


@pytest.fixture(scope="module", params=WIRINGS)
def wiring(request):
    """Name of a wiring."""
    return request.param


@pytest.fixture(scope="module")
def vm(boot, wiring, request, tmp_path_factory):
    """Return a VM with a server of each kind."""
    given = {**WIRINGS[wiring], **programs_of(wiring, request)}
    given["files"] = socket_servers.files(tmp_path_factory.mktemp("guest"), SCRIPTS)
    setup = BLOBS + socket_servers.setup(SCRIPTS)
    with boot(*SCRIPTS, NOBODY, setup=setup, wait_for=str(ECHO), **given) as vm:
        yield vm


@pytest.fixture(scope="module")
def idle(vm):
    """A connection that was made before all others."""
    with vm.connect(ECHO, timeout=60) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _first(idle):
    """Have it made whichever test comes first."""


def exactly(connection, size):
    """Return as many bytes as are asked for, or those before an end."""
    said = bytearray()
    while len(said) < size and (more := connection.recv(min(size - len(said), 1 << 18))):
        said += more
    return bytes(said)


def rest(connection):
    """Return all that comes until the end, or until a reset."""
    said = bytearray()
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(1 << 18):
            said += more
    return bytes(said)


def how_it_ends(connection):
    """Return how a connection ends by which nothing comes."""
    try:
        assert connection.recv(1) == b""
    except ConnectionError:
        return RESET
    return END


def digest(data):
    """Return what the guest's ``sha256sum`` says of it."""
    return hashlib.sha256(data).hexdigest().encode() + b"  -\n"


def written(vm, path):
    """Return what the guest has written to a file, once it is there, and remove that."""
    said = []
    until(lambda: said.append(vm.run(f"cat {path} || :").stdout) or said[-1], 120, path)
    vm.run(f"rm {path}")
    return said[-1].encode()


def test_a_client_that_ends_its_half_gets_the_whole_answer(vm, wiring):
    data = os.urandom(TOLD)
    with vm.connect(DIGEST, timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        said = rest(connection)
    assert said == (digest(data) if KEEPS_HALVES[wiring] else b"")


def test_a_guest_that_ends_its_half_gets_all_that_is_sent_after_that(vm, wiring):
    data = os.urandom(TOLD)
    with vm.connect(HALF, timeout=60) as connection:
        assert rest(connection) == b"said\n"
        with contextlib.suppress(OSError):  # it is reset meanwhile, or was
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        got = written(vm, "/tmp/half")
    assert (got == digest(data)) == KEEPS_HALVES[wiring]


def test_a_reset_by_the_guest_is_an_end_for_the_client(vm, wiring):
    with vm.connect(RESETS, timeout=60) as connection:
        connection.sendall(b"a line that is read\nand more that is not")
        # A passt of 2026 passes it on.
        assert how_it_ends(connection) in ({END, RESET} if PASSES_RESETS[wiring] else {END})


def test_a_reset_by_the_client_is_an_end_for_the_guest(vm, wiring):
    with vm.connect(LEFT, timeout=60) as connection:
        connection.sendall(b"something")
        if PASSES_RESETS[wiring]:  # also one that comes before the guest's program does
            written(vm, "/tmp/reads")
        # Closed with this, it is reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert written(vm, "/tmp/left") == (b"1\n" if PASSES_RESETS[wiring] else b"0\n")


def test_a_port_that_nobody_serves_ends_each_connection_once_the_guest_is_ready(vm):
    try:
        connection = socket.create_connection(vm[NOBODY].address, timeout=60)
    except ConnectionResetError:  # as soon as it was accepted
        return
    with connection:
        assert how_it_ends(connection) in {RESET, END}


@pytest.mark.slow_as("0.8.1")
def test_many_connections_at_once_are_all_answered(vm):
    said = [f"connection {number}".encode() * 10 for number in range(MANY)]
    with contextlib.ExitStack() as all_open:
        made = [all_open.enter_context(vm.connect(ECHO, timeout=240)) for _ in said]
        for connection, words in zip(made, said, strict=True):
            connection.sendall(words)
        for connection, words in zip(made, said, strict=True):
            assert exactly(connection, len(words)) == words


@pytest.mark.slow_as("0.8.1")
def test_much_arrives_whole_in_both_directions(vm):
    with vm.connect(SOURCE, timeout=240) as connection:
        data = rest(connection)
    blob = data[:BLOB]
    assert vm.run("sha256sum </tmp/blob").stdout.encode() == digest(blob)
    assert data == blob * TIMES
    with vm.connect(SINK, timeout=240) as connection:
        connection.sendall(blob[::-1])
        assert rest(connection) == digest(blob[::-1])


def sent_by(vm):
    """Return how many bytes have left the guest's card."""
    return int(vm.run("cat /sys/class/net/eth0/statistics/tx_bytes").stdout)


@pytest.mark.slow_as("0.8.1")
def test_a_client_that_reads_late_holds_the_guest_back_and_loses_nothing(vm):
    before, seen = sent_by(vm), []

    def has_stopped():
        seen.append(sent_by(vm) - before)
        # It goes on to ask whether there is room by now.
        # How much is underway then is the host's to say: with passt it was once 132 kB.
        return len(seen) > 10 and seen[-1] > MIB // 16 and seen[-1] - seen[-10] < TOLD

    with vm.connect(SOURCE, timeout=240) as connection:
        until(has_stopped, 240, lambda: f"the guest sends on: {seen[-3:]}")
        assert seen[-1] < MOST_UNDERWAY
        assert len(rest(connection)) == MUCH


@pytest.mark.slow_as("0.8.1")
def test_a_guest_that_reads_late_holds_the_client_back_and_loses_nothing(vm):
    data = os.urandom(MIB) * (MUCH // MIB)
    vm.run("rm -f /tmp/go")
    with vm.connect(LATE, timeout=2) as connection:
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < MUCH:
                sent += connection.send(data[sent : sent + MIB])
        assert sent < MOST_UNDERWAY
        vm.run("touch /tmp/go")
        connection.settimeout(240)
        connection.sendall(memoryview(data)[sent:])
        assert rest(connection) == digest(data)


@pytest.mark.slow_as("0.8.1")
def test_a_connection_that_was_idle_while_others_came_and_went_still_carries(vm, idle):
    with vm.connect(ECHO, timeout=60) as connection:
        connection.sendall(b"another")
        assert exactly(connection, 7) == b"another"
    idle.sendall(b"still there")
    assert exactly(idle, 11) == b"still there"

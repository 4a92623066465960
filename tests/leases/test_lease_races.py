"""Real processes fight for ports; `lease_stress` keeps the record that is judged here."""

import errno
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pytest_vmports.errors import PortError, PortInUseError, PortsExhaustedError
from pytest_vmports.leases import PortAllocator

STRESS = Path(__file__).parents[1] / "lease_stress.py"
# A block of its own for each xdist worker, below what an allocator chooses by default.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
FIRST = 10500 + WORKER % 16 * 500


def fight(state_dir, *arguments, ports=40, seconds=2.5, block=0, check=True):
    first = FIRST + block
    run = subprocess.run(
        [
            *(sys.executable, "-W", "error", STRESS, "--json", "--state-dir", state_dir),
            *("--seconds", str(seconds), "--ports", str(first), str(first + ports - 1)),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.stdout, run.stderr
    facts = json.loads(run.stdout)
    if check:
        assert (facts["doubles"], facts["leaks"], facts["errors"]) == (0, 0, 0), run.stderr
        assert facts["hand_outs"] > 100
    return facts


class Holder:
    """A process that takes a lease, says so, and then does what it is told by a line."""

    def __init__(self, state_dir, body, **popen):
        program = textwrap.dedent(
            """
            import os, subprocess, sys
            from pytest_vmports.leases import PortAllocator
            allocator = PortAllocator(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])))
            def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
            """
        ) + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, state_dir, str(FIRST), str(FIRST + 39)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            **popen,
        )
        self.unread = b""
        self.pid = self.process.pid

    def heard(self):
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.process.stdout], [], [], 30)
            assert ready, "the process said nothing for 30 s"
            said = os.read(self.process.stdout.fileno(), 4096)
            assert said, "the process ended"
            self.unread += said
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode().split()

    def tell(self, word="go"):
        self.process.stdin.write(word.encode() + b"\n")

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def allocator(tmp_path):
    with PortAllocator(tmp_path, (FIRST, FIRST + 39)) as allocator:
        yield allocator


HOLD = "lease = allocator.acquire(1, label='held')[0]; say(lease.port); sys.stdin.readline()"

# Its child shares the lease, and ends when it hears from nobody any more.
HOLD_WITH_CHILD = """
    lease = allocator.acquire(1, label="held")[0]
    child = subprocess.Popen(
        ["sh", "-c", "echo up; read line"], pass_fds=[lease.fileno()], stdin=int(sys.argv[4])
    )
    say(lease.port, child.pid)
    sys.stdin.readline()
"""


def test_many_processes_never_share_one_of_few_ports(tmp_path):
    fight(tmp_path, "--processes", "8", ports=30)


def test_strangers_that_bind_and_connect_make_no_bind_fail(tmp_path):
    facts = fight(
        tmp_path, "--processes", "4", "--strangers", "plain", "connecting", block=50, ports=30
    )
    assert facts["failed_binds"] == 0


def test_a_stranger_that_reuses_addresses_can_fail_a_bind_and_doubles_none(tmp_path):
    # The limit that remains: how often it happens is not ours to say, so nothing is counted.
    fight(tmp_path, "--processes", "4", "--strangers", "reusing", block=100)


def test_processes_killed_at_random_instants_leak_nothing(tmp_path):
    facts = fight(tmp_path, "--processes", "8", "--kills", block=150)
    assert facts["kills"] > 8


def test_stopped_processes_keep_their_ports(tmp_path):
    facts = fight(tmp_path, "--processes", "4", "--stops", block=200)
    assert facts["stops"] > 0


def test_two_sessions_with_equal_worker_names_share_no_port(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    fight(tmp_path, "--processes", "2", ports=8, seconds=1, block=250)


@pytest.mark.parametrize("variant", ["lockless", "unlinking"])
def test_the_record_catches_a_broken_allocator(tmp_path, variant):
    deadline = time.monotonic() + 40
    doubles = 0
    while not doubles and time.monotonic() < deadline:
        facts = fight(
            tmp_path, "--variant", variant, "--processes", "8", ports=25, block=300, check=False
        )
        assert facts["errors"] == 0
        doubles = facts["doubles"]
    assert doubles > 0


def test_a_killed_worker_frees_its_port(tmp_path, allocator):
    with Holder(tmp_path, HOLD) as holder:
        port = int(holder.heard()[0])
        with pytest.raises(PortInUseError, match=f"pid {holder.pid} .*held"):
            allocator.acquire_fixed(port, timeout=0)
        holder.kill()
        with allocator.acquire_fixed(port, timeout=5) as lease:
            assert lease.port == port


def test_a_killed_worker_is_not_listed_as_a_holder(tmp_path, allocator):
    with Holder(tmp_path, HOLD) as holder:
        port = int(holder.heard()[0])
        (info,) = allocator.leases()
        assert (info.port, info.pid, info.test, info.by_child) == (port, holder.pid, "held", False)
        holder.kill()
        assert allocator.leases() == []


def test_a_lease_outlives_its_killed_holder_as_long_as_the_child_lives(tmp_path, allocator):
    reader, writer = os.pipe()
    program = HOLD_WITH_CHILD.replace("sys.argv[4]", str(reader))
    with Holder(tmp_path, program, pass_fds=[reader]) as holder:
        os.close(reader)
        said = [holder.heard(), holder.heard()]
        port, child = map(int, next(words for words in said if words != ["up"]))
        holder.kill()
        (info,) = allocator.leases()
        assert (info.port, info.pid, info.by_child) == (port, holder.pid, True)
        with pytest.raises(PortInUseError, match="has ended, started"):
            allocator.acquire_fixed(port, timeout=0.1)
        gone = os.pidfd_open(child)
        os.close(writer)  # the child reads the end of its input, and ends
        assert select.select([gone], [], [], 30)[0]
        os.close(gone)
        allocator.acquire_fixed(port, timeout=5).release()


def test_release_leaves_the_lease_to_a_child_that_still_lives(allocator):
    (lease,) = allocator.acquire()
    with subprocess.Popen(["cat"], pass_fds=[lease.fileno()], stdin=subprocess.PIPE) as child:
        lease.release()
        with pytest.raises(PortInUseError):
            allocator.acquire_fixed(lease.port, timeout=0.1)
        child.stdin.close()
        child.wait()
    allocator.acquire_fixed(lease.port, timeout=5).release()


def test_a_forked_child_neither_keeps_nor_ends_its_parents_lease(tmp_path, allocator):
    body = """
        lease = allocator.acquire(1)[0]
        child = os.fork()
        if child == 0:
            held = lease.held
            lease.release()
            again = allocator.acquire(1)[0].port
            say(held, again, lease.port)
            sys.stdin.readline()
            os._exit(0)
        said = sys.stdin.readline()
        lease.release()
        say("released", lease.port)
        os.waitpid(child, 0)
    """
    with Holder(tmp_path, body) as holder:
        held, childs, port = holder.heard()
        assert held == "False"
        assert childs != port
        with pytest.raises(PortInUseError, match=f"pid {holder.pid} "):
            allocator.acquire_fixed(int(port), timeout=0)
        holder.tell("release")  # one line for each, whoever reads first
        holder.tell("end")
        assert holder.heard() == ["released", port]
        allocator.acquire_fixed(int(port), timeout=5).release()
        holder.kill()


def test_a_copied_descriptor_carries_the_lease_into_a_fork(tmp_path, allocator):
    body = """
        lease = allocator.acquire(1)[0]
        copy = os.dup(lease.fileno())
        if os.fork() == 0:
            say(lease.port, os.getpid())
            sys.stdin.readline()
            os._exit(0)
        os.wait()
    """
    with Holder(tmp_path, body) as holder:
        port, child = map(int, holder.heard())
        holder.kill()
        with pytest.raises(PortInUseError):
            allocator.acquire_fixed(port, timeout=0.1)
        gone = os.pidfd_open(child)
        holder.tell()
        assert select.select([gone], [], [], 30)[0]
        os.close(gone)
        allocator.acquire_fixed(port, timeout=5).release()


def test_a_process_forked_after_the_lease_was_handed_out_keeps_a_copy(tmp_path, allocator):
    # A limit: it cannot be told from a program that is about to be started with a preexec_fn.
    body = """
        lease = allocator.acquire(1)[0]
        lease.fileno()
        child = os.fork()
        if child == 0:
            sys.stdin.readline()
            lease.release()
            os._exit(0)
        lease.release()
        say(lease.port)
        os.wait()
        say("ended")
        sys.stdin.readline()
    """
    with Holder(tmp_path, body) as holder:
        (port,) = map(int, holder.heard())
        with pytest.raises(PortInUseError):
            allocator.acquire_fixed(port, timeout=0.1)
        holder.tell()
        assert holder.heard() == ["ended"]
        allocator.acquire_fixed(port, timeout=5).release()


def test_a_program_started_with_a_preexec_fn_gets_the_lease(allocator):
    (lease,) = allocator.acquire()
    with subprocess.Popen(
        ["cat"],
        pass_fds=[lease.fileno()],
        stdin=subprocess.PIPE,
        preexec_fn=os.getpid,  # noqa: PLW1509
    ) as child:
        lease.release()
        with pytest.raises(PortInUseError):
            allocator.acquire_fixed(lease.port, timeout=0.1)
        child.stdin.close()
        child.wait()


def test_forked_children_start_looking_at_different_ports(tmp_path):
    body = """
        for _ in range(6):
            if os.fork() == 0:
                say(allocator._next)
                os._exit(0)
            os.wait()
        say(allocator._next)
    """
    with Holder(tmp_path, body) as holder:
        starts = {holder.heard()[0] for _ in range(7)}
    assert len(starts) > 1


def test_the_second_of_two_waits_its_turn_and_is_told_for_whom(tmp_path, allocator):
    with Holder(tmp_path, HOLD) as holder:
        port = int(holder.heard()[0])
        told = []

        def tell(info):
            told.append(info)
            holder.tell()

        with allocator.acquire_fixed(port, timeout=30, on_wait=tell) as lease:
            assert lease.held
        assert [(info.pid, info.test) for info in told] == [(holder.pid, "held")]


def test_rivals_that_hold_some_of_the_last_ports_each_step_back_and_try_again(
    allocator, monkeypatch
):
    # The rival has four of five ports at the first look, as it takes and gives back.
    with PortAllocator(allocator.directory.parent, (FIRST, FIRST + 4)) as few:
        rivals = [allocator.acquire_fixed(port) for port in range(FIRST, FIRST + 4)]
        look, looks = few._one_round, []

        def look_then_free(*request):
            found = look(*request)
            looks.append(len(few.leases()))
            for lease in rivals:
                lease.release()
            return found

        monkeypatch.setattr(few, "_one_round", look_then_free)
        assert len(few.acquire(4)) == 4
        assert looks == [4, 4]  # at the first look it kept nothing of its own


def test_a_thousand_leases_fit_into_one_process(tmp_path, missing):
    body = """
        import resource
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        wide = PortAllocator(sys.argv[1], (18500, 19999))
        leases = wide.acquire(1000)
        say(len({lease.port for lease in leases}), len(wide.leases()))
        wide.close()
    """
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2100:
        missing("leave to open 2,100 descriptors", "raise the hard limit (ulimit -Hn)")
    with Holder(tmp_path, body) as holder:
        assert holder.heard() == ["1000", "1000"]


def test_running_out_of_descriptors_says_so_and_keeps_nothing(tmp_path):
    body = """
        import resource
        from pytest_vmports.errors import PortError
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
        try:
            allocator.acquire(20)
        except PortError as error:
            say(str(error))
        say(len(allocator._ledger.held), len(allocator.acquire(3)))
        allocator.close()
    """
    with Holder(tmp_path, body) as holder:
        message = " ".join(holder.heard())
        assert "its limit is 30; raise it (ulimit -n)" in message
        assert holder.heard() == ["0", "3"]


def test_an_exhausted_range_says_how_many_are_held_and_by_whom(tmp_path):
    with (
        Holder(tmp_path, "allocator.acquire(39, label='greedy'); say(); sys.stdin.readline()") as h,
        PortAllocator(tmp_path, (FIRST, FIRST + 39)) as allocator,
    ):
        h.heard()
        with pytest.raises(PortsExhaustedError) as caught:
            allocator.acquire(2)
        assert caught.value.held == 39
        assert caught.value.holders == f"pid {h.pid} greedy (39)"
        assert allocator.leases()[0].pid == h.pid  # none of ours is left behind


def test_a_listening_stranger_is_named_at_once(allocator):
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
        "print(flush=True); sys.stdin.readline()"
    )
    port = FIRST + 45
    with subprocess.Popen(
        [sys.executable, "-c", program, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        stranger.stdout.readline()
        with pytest.raises(PortInUseError) as caught:
            allocator.acquire_fixed(port, timeout=3600)
        assert caught.value.holder.startswith(f"pid {stranger.pid} ({sys.executable} -c")
        stranger.communicate()
    allocator.acquire_fixed(port).release()


def test_a_half_open_stranger_is_noticed(allocator):
    port = FIRST + 46
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        with pytest.raises(PortInUseError, match="cannot be named"):
            allocator.acquire_fixed(port)


def test_connections_of_the_last_turn_do_not_block_a_fixed_port(allocator):
    port = FIRST + 47
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: its port lingers in TIME_WAIT
            assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use") as strict, socket.socket() as plain:
        plain.bind(("127.0.0.1", port))
    assert strict.value.errno == errno.EADDRINUSE
    with allocator.acquire_fixed(port), socket.socket() as following:
        following.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        following.bind(("127.0.0.1", port))
        following.listen()


def test_the_guard_keeps_plain_strangers_off_and_lets_a_server_in(allocator):
    (lease,) = allocator.acquire()
    for address in ("127.0.0.1", "0.0.0.0", "127.0.0.2"):
        with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
            stranger.bind((address, lease.port))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", lease.port))
        server.listen()
        lease.release_guard()
        lease.release_guard()
        socket.create_connection(("127.0.0.1", lease.port)).close()


def test_a_stranger_that_reuses_addresses_gets_past_the_guard(allocator):
    # A limit: the guard cannot tell it from the server that it is kept for.
    (lease,) = allocator.acquire()
    with socket.socket() as stranger, socket.socket() as server:
        for each in (stranger, server):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", lease.port))
        stranger.listen()
        with pytest.raises(OSError, match="in use"):
            server.bind(("127.0.0.1", lease.port))


def test_a_udp_lease_has_no_guard(allocator):
    # A limit: any guard would keep QEMU and gvproxy out as well.
    (lease,) = allocator.acquire(protocol="udp")
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", lease.port))


def test_a_udp_port_that_a_stranger_has_is_not_leased(allocator):
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", FIRST + 48))
        with pytest.raises(PortInUseError, match=f"pid {os.getpid()} "):
            allocator.acquire_fixed(FIRST + 48, protocol="udp")


def test_a_released_lease_hands_out_no_descriptor(allocator):
    (lease,) = allocator.acquire()
    lease.release()
    with pytest.raises(PortError, match="not held here"):
        lease.fileno()

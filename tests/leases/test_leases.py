"""One process's view: what a lease is, says and gives back. Races are in `test_lease_races`."""

import json
import os
import pickle
import select
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from held import held

from pytest_vmports.errors import PortError, PortInUseError, PortsExhaustedError, SettingError
from pytest_vmports.leases import (
    FreePortFactory,
    LeaseTamperedWarning,
    PortAllocator,
    free_port,
    guard,
    leased_ports,
)
from pytest_vmports.leases import record as lease_record
from pytest_vmports.leases.cli import fill_in
from pytest_vmports.system import clock
from pytest_vmports.system.proc import process_start

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
FIRST = 5500 + WORKER % 16 * 200
RANGE = (FIRST, FIRST + 99)


@pytest.fixture(autouse=True)
def own_state_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path))


@pytest.fixture
def allocator():
    with PortAllocator(port_range=RANGE) as allocator:
        yield allocator


def numbers(leases):
    return [lease.port for lease in leases]


def path_of(allocator, lease):
    return allocator.directory / f"{lease.protocol}-{lease.port}"


def test_ports_of_one_request_differ_and_lie_in_the_range(allocator):
    ports = numbers(allocator.acquire(50))
    assert len(set(ports)) == 50
    assert min(ports) >= RANGE[0]
    assert max(ports) <= RANGE[1]


def test_two_allocators_of_one_process_share_no_port(allocator):
    with PortAllocator(port_range=RANGE) as other:
        assert not set(numbers(allocator.acquire(50))) & set(numbers(other.acquire(50)))
        with pytest.raises(PortsExhaustedError):
            other.acquire()


def test_a_request_that_cannot_be_met_takes_nothing(allocator):
    allocator.acquire(95)
    with pytest.raises(PortsExhaustedError, match=r"no 6 free tcp port.* 95 are leased by pid"):
        allocator.acquire(6)
    assert len(allocator.acquire(5)) == 5


def test_contiguous_ports_follow_each_other(allocator):
    allocator.acquire(7)
    ports = numbers(allocator.acquire(4, contiguous=True))
    assert ports == list(range(ports[0], ports[0] + 4))


def test_contiguous_ports_are_found_wherever_the_search_starts(tmp_path):
    with PortAllocator(port_range=(FIRST, FIRST + 5)) as allocator:
        allocator.acquire_fixed(FIRST)
        for start in range(6):
            allocator._next = start
            found = allocator.acquire(5, contiguous=True)
            assert numbers(found) == list(range(FIRST + 1, FIRST + 6))
            for lease in found:
                lease.release()


def test_no_run_of_ports_spans_a_gap(allocator):
    for port in range(RANGE[0] + 3, RANGE[1] + 1, 4):
        allocator.acquire_fixed(port)
    assert len(allocator.acquire(3, contiguous=True)) == 3
    with pytest.raises(PortsExhaustedError):
        allocator.acquire(4, contiguous=True)


def test_both_leases_one_number_for_tcp_and_udp(allocator):
    pairs = [(lease.port, lease.protocol) for lease in allocator.acquire(2, protocol="both")]
    first, second = pairs[0][0], pairs[2][0]
    assert first != second
    assert pairs == [(first, "tcp"), (first, "udp"), (second, "tcp"), (second, "udp")]


def test_both_needs_a_number_that_is_free_for_both(tmp_path):
    with PortAllocator(port_range=(FIRST, FIRST + 1)) as allocator:
        allocator.acquire_fixed(FIRST, protocol="udp")
        assert numbers(allocator.acquire(protocol="both")) == [FIRST + 1, FIRST + 1]
        with pytest.raises(PortsExhaustedError):
            allocator.acquire(protocol="both")
        assert numbers(allocator.acquire(protocol="tcp")) == [FIRST]


def test_tcp_and_udp_are_counted_apart(allocator):
    port = RANGE[0]
    with allocator.acquire_fixed(port), allocator.acquire_fixed(port, protocol="udp"):
        pass


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"count": 0}, "count = 0"), ({"protocol": "sctp"}, "tcp, udp or both")],
)
def test_a_senseless_request_is_refused(allocator, keywords, message):
    with pytest.raises(SettingError, match=message):
        allocator.acquire(**keywords)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_senseless_fixed_port_is_refused(allocator, port):
    with pytest.raises(SettingError, match="1 to 65535"):
        allocator.acquire_fixed(port)


def test_an_address_of_another_machine_is_refused_and_leaves_nothing(allocator):
    with pytest.raises(PortError, match=r"cannot bind 192\.0\.2\.1"):
        allocator.acquire(host="192.0.2.1")
    with pytest.raises(PortError, match=r"cannot bind 192\.0\.2\.1"):
        allocator.acquire_fixed(RANGE[0], host="192.0.2.1")
    assert allocator.leases() == []


def test_leaving_a_with_block_gives_everything_back(allocator):
    with PortAllocator(port_range=RANGE) as other:
        other.acquire(3)
        with other.acquire()[0] as lease:
            assert lease.held
        assert not lease.held
        assert len(allocator.leases()) == 3
    assert allocator.leases() == []


def test_release_is_idempotent(allocator):
    (lease,) = allocator.acquire()
    lease.release()
    (other,) = allocator.acquire()  # has the number of the closed descriptor
    lease.release()
    lease.release_guard()
    other.verify()


def test_a_forgotten_lease_warns_and_is_given_back(allocator):
    (lease,) = allocator.acquire()
    allocator._ledger.held.clear()
    with pytest.warns(ResourceWarning, match="was never released"):
        del lease
    assert allocator.leases() == []


def test_lock_files_are_private_not_inherited_and_never_removed(allocator):
    (lease,) = allocator.acquire()
    path = path_of(allocator, lease)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(lease.fileno())
    inode = path.stat().st_ino
    lease.release()
    assert path.stat().st_ino == inode


def test_a_lease_tells_who_holds_it(allocator, monkeypatch):
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_x.py::test_y[a (b)] (setup)")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
    before = clock.wall()
    (lease,) = allocator.acquire()
    (info,) = allocator.leases()
    assert info == lease_record.LeaseInfo(
        port=lease.port,
        protocol="tcp",
        host="127.0.0.1",
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        test="tests/test_x.py::test_y[a (b)]",
        worker="gw7",
        since=info.since,
    )
    # To the millisecond, rounded up or down.
    assert round(before, 3) <= info.since <= round(clock.wall(), 3)
    assert info.describe().startswith(
        f"pid {os.getpid()} (gw7, tests/test_x.py::test_y[a (b)]) since "
    )


def test_a_label_stands_in_for_the_test(allocator):
    allocator.acquire(label="template")
    allocator.acquire_fixed(RANGE[0], label="fixed")
    assert {info.test for info in allocator.leases()} == {"template", "fixed"}


def test_an_endless_test_id_is_cut(allocator):
    for letter in 'ä\1"🙂':
        (lease,) = allocator.acquire(label=letter * 5000)
        assert path_of(allocator, lease).stat().st_size < 4096
        (info,) = allocator.leases()
        assert info.test == letter * 499 + "…"
        lease.release()


def test_the_file_format_is_what_other_versions_expect(allocator):
    # Other versions of the plugin read these files: change it and the docs together.
    (lease,) = allocator.acquire(label="x")
    text = path_of(allocator, lease).read_text()
    assert text.endswith("}\n")
    record = json.loads(text)
    assert list(record) == ["v", "pid", "start", "pidns", "host", "worker", "test", "since"]
    assert record["v"] == 1
    lease.release()
    assert path_of(allocator, lease).read_bytes()[:1] == b"\n"


def test_a_shorter_record_over_a_longer_one_reads_well(allocator):
    allocator.acquire_fixed(RANGE[0], label="long" * 100).release()
    with allocator.acquire_fixed(RANGE[0], label="short"):
        assert [info.test for info in allocator.leases()] == ["short"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b'{"v":1,"pid":', b"[]\n", b"\xff\xfe\n", b'{"v": 2, "who": 1}\n']
)
def test_what_a_free_file_says_does_not_matter(allocator, content):
    (allocator.directory / f"tcp-{RANGE[0]}").write_bytes(content)
    assert allocator.leases() == []
    with allocator.acquire_fixed(RANGE[0]):
        assert [info.pid for info in allocator.leases()] == [os.getpid()]


@pytest.mark.parametrize("content", [b'{"v":1,"pid":', b'{"v": 2, "who": 1}\n'])
def test_a_held_file_that_cannot_be_read_is_listed_with_the_locks_pid(allocator, content):
    (lease,) = allocator.acquire()
    path_of(allocator, lease).write_bytes(content)
    (info,) = allocator.leases()
    assert (info.port, info.pid, info.test) == (lease.port, os.getpid(), "")


@pytest.mark.parametrize("since", ["1e300", "NaN", "Infinity", "-1e18", '"x"', "1" + "0" * 400])
def test_a_time_that_a_child_has_made_up_is_none(allocator, since):
    """A QEMU that was taken over has the file open; a message tells what is written there."""
    (lease,) = allocator.acquire()
    record = json.loads(path_of(allocator, lease).read_text())
    text = json.dumps({**record, "since": 0}).replace('"since": 0', f'"since": {since}')
    path_of(allocator, lease).write_text(text + "\n")
    (info,) = allocator.leases()
    assert info.describe() == f"pid {os.getpid()} since ?"


@pytest.mark.parametrize("shown", [True, False], ids=["lock shown", "lock not shown"])
def test_a_holder_in_a_container_is_listed_with_its_test(allocator, monkeypatch, tmp_path, shown):
    (lease,) = allocator.acquire(label="in a container")
    record = json.loads(path_of(allocator, lease).read_text())
    path_of(allocator, lease).write_text(json.dumps({**record, "pidns": 1, "pid": 7}) + "\n")
    if not shown:
        monkeypatch.setattr(lease_record, "LOCKS", tmp_path / "none")
    (info,) = allocator.leases()
    # Its number here where the kernel shows the lock to us, else its number there.
    assert info.pid == (os.getpid() if shown else 7)
    assert (info.test, info.by_child) == ("in a container", False)


def test_a_stale_record_of_a_living_process_is_not_believed(allocator):
    (lease,) = allocator.acquire()
    text = path_of(allocator, lease).read_bytes()
    lease.release()
    path_of(allocator, lease).write_bytes(text)
    assert allocator.leases() == []


def test_without_proc_locks_the_lock_itself_is_asked(allocator, monkeypatch, tmp_path):
    monkeypatch.setattr(lease_record, "LOCKS", tmp_path / "none")
    held, freed = allocator.acquire(2)
    text = path_of(allocator, freed).read_bytes()
    freed.release()
    path_of(allocator, freed).write_bytes(text)
    assert [info.port for info in allocator.leases()] == [held.port]
    held.verify()


def test_listing_takes_no_lease_from_anybody(allocator):
    leases_held = allocator.acquire(20)
    for _ in range(50):
        assert len(allocator.leases()) == 20
    for lease in leases_held:
        lease.verify()


@pytest.mark.parametrize("how", ["removed", "replaced", "directory"])
def test_tampering_is_said(allocator, how):
    (lease,) = allocator.acquire()
    lease.verify()
    path = path_of(allocator, lease)
    if how == "directory":
        path.parent.rename(path.parent.with_name("moved"))
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(b"")
    with pytest.raises(PortError, match="was replaced or removed"):
        lease.verify()
    with pytest.warns(LeaseTamperedWarning, match="exclude the directory"):
        lease.release()
    assert not lease.held


def test_a_released_lease_does_not_verify(allocator):
    (lease,) = allocator.acquire()
    lease.release()
    with pytest.raises(PortError, match="is not held here"):
        lease.verify()


def test_a_file_removed_between_opening_and_locking_is_not_a_lease(allocator, monkeypatch):
    from pytest_vmports.leases import lock_file

    real = lock_file.lock_descriptor

    def remove_first(fd, *, blocking):
        monkeypatch.setattr(lock_file, "lock_descriptor", real)
        for path in allocator.directory.iterdir():
            path.unlink()
        return real(fd, blocking=blocking)

    monkeypatch.setattr(lock_file, "lock_descriptor", remove_first)
    (lease,) = allocator.acquire()
    lease.verify()


def test_errors_survive_pickling(allocator):
    allocator.acquire_fixed(RANGE[0])
    with pytest.raises(PortInUseError) as caught:
        allocator.acquire_fixed(RANGE[0], timeout=0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.port) == (str(caught.value), RANGE[0])


def test_a_short_wait_is_not_told(allocator):
    (lease,) = allocator.acquire()
    told = []
    # Released by the first look for the holder's turn, so within the moment that is not told.
    threading.Thread(target=lease.release).start()
    allocator.acquire_fixed(lease.port, on_wait=told.append)
    assert told == []


def test_threads_share_an_allocator(allocator):
    found = []

    def take():
        found.extend(lease.port for _ in range(10) for lease in allocator.acquire())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 80


def test_without_ipv6_the_guard_covers_the_address_itself(allocator, monkeypatch):
    monkeypatch.setattr(guard, "dual_stack", lambda: False)
    (lease,) = allocator.acquire()
    with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
        stranger.bind(("127.0.0.1", lease.port))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.2", lease.port))


def test_a_stranger_on_another_address_does_not_block_a_fixed_port(allocator):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.2", RANGE[0]))
        allocator.acquire_fixed(RANGE[0]).verify()


def test_a_free_port_can_be_bound_plainly_and_is_given_once(allocator):
    with FreePortFactory(allocator) as factory:
        ports = {factory() for _ in range(100)}
        assert len(ports) == 100
        with socket.socket() as server:
            server.bind(("127.0.0.1", ports.pop()))
        with pytest.raises(PortsExhaustedError):
            factory()
    assert allocator.leases() == []


def test_a_stranger_can_take_a_free_port_before_its_server(allocator):
    # The limit of a bare number: nothing keeps strangers off it.
    with FreePortFactory(allocator) as factory, socket.socket() as stranger:
        stranger.bind(("127.0.0.1", factory()))


def test_a_factory_of_its_own_closes_its_allocator():
    before = held()
    with FreePortFactory() as factory:
        factory()
        factory(protocol="udp")
    assert held() <= before


def test_free_port_keeps_its_ports_for_the_process():
    program = "from pytest_vmports import free_port, PortAllocator as A; print(free_port())\n" * 2
    program += "with A() as a: print(len(a.leases()))"
    first, second, held = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program], text=True
    ).split()
    assert first != second
    assert held == "2"
    with PortAllocator() as allocator:
        assert allocator.leases() == []
    assert callable(free_port)


def test_leased_ports_lasts_as_long_as_its_block(allocator):
    with leased_ports(2, protocol="both", contiguous=True, label="block") as (low, high):
        assert high == low + 1
        assert {(i.port, i.protocol, i.test) for i in allocator.leases()} == {
            (port, protocol, "block") for port in (low, high) for protocol in ("tcp", "udp")
        }
    assert allocator.leases() == []


def command(*words, **keywords):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "pytest_vmports.leases", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


def test_run_puts_ports_into_the_command_and_returns_its_code():
    with command(
        *("run", "--port", "8080", "--port", "db", "--"),
        *("sh", "-c", 'echo {8080} {db} $VMPORTS_PORT_8080 "$VMPORTS_PORT_db" "{other}"; exit 7'),
    ) as run:
        out, _ = run.communicate()
    web, db, web_variable, db_variable, other = out.split()
    assert (web, db, other) == (web_variable, db_variable, "{other}")
    assert web != db
    assert run.returncode == 7


def test_only_the_names_are_replaced():
    assert fill_in('{"a": {80}, {8080}}', [("80", 1), ("8080", 2)]) == '{"a": 1, 2}'


def test_run_holds_the_port_until_the_command_ends(allocator):
    with command("run", "--port", "web", "--", "sh", "-c", "echo {web}; read line") as run:
        port = int(run.stdout.readline())
        (info,) = allocator.leases()
        assert (info.port, info.pid, info.test) == (port, run.pid, "sh -c echo {web}; read line")
        listing = command("list")
        out, _ = listing.communicate()
        assert f"{port}/tcp  pid {run.pid} (" in out
        assert "sh -c echo" in out
        run.communicate("\n")
    assert allocator.leases() == []


def test_a_killed_run_leaves_the_port_to_the_command(allocator):
    with command("run", "--port", "web", "--", "sh", "-c", "echo {web} $$; read line") as run:
        port, shell = map(int, run.stdout.readline().split())
        run.kill()
        run.wait()
        (info,) = allocator.leases()
        assert (info.port, info.by_child) == (port, True)
        gone = os.pidfd_open(shell)
        run.stdin.close()
        assert select.select([gone], [], [], 30)[0]
        os.close(gone)
    assert allocator.leases() == []


def test_run_forwards_signals():
    # The shell says "ready" only once its trap is set.
    script = "trap 'echo got it; exit 3' TERM; echo ready; while read line; do :; done"
    with command("run", "--port", "web", "--", "sh", "-c", script) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        assert select.select([run.stdout], [], [], 30)[0]
        run.stdin.close()
        assert run.stdout.readline() == "got it\n"
    assert run.returncode == 3


def test_run_reports_a_command_that_a_signal_ended():
    with command("run", "--port", "web", "--", "sh", "-c", "kill -KILL $$") as run:
        run.communicate()
    assert run.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(("name", "code"), [("/nonexistent/program", 127), ("/etc", 126)])
def test_run_reports_a_command_that_does_not_start(name, code):
    with command("run", "--port", "web", "--", name) as run:
        _, err = run.communicate()
    assert run.returncode == code
    assert err.startswith(f"pytest-vmports: {name}: ")


@pytest.mark.parametrize(("option", "taken"), [([], True), (["--guard"], False)])
def test_a_server_without_reuseaddr_starts_unless_the_guard_is_kept(option, taken):
    program = "import socket; socket.socket().bind(('127.0.0.1', {web}))"
    with command("run", *option, "--port", "web", "--", sys.executable, "-c", program) as run:
        run.communicate()
    assert (run.returncode == 0) is taken


def test_errors_of_the_command_line_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VMPORTS_STATE_DIR", "/proc/none")
    with command("list") as run:
        out, err = run.communicate()
    assert (run.returncode, out) == (1, "")
    assert err.startswith("pytest-vmports: cannot keep files in /proc/none")
    assert err.count("\n") == 1

"""From spellings to granted ports."""

import contextlib
import json
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vmports import (
    PortAllocator,
    PortMapping,
    allocate_ephemeral_port,
    normalize_port_mappings,
    resolve_port_mappings,
)
from pytest_vmports.errors import PortInUseError, PortsExhaustedError
from pytest_vmports.leases import free_ports
from pytest_vmports.leases.candidates import candidate_ports
from pytest_vmports.port_forward import check_request, lease_ports, parse_port

ports = st.integers(1, 65535)
mappings = st.builds(
    PortMapping,
    internal=ports,
    external=st.none() | st.integers(1024, 65535),
    protocol=st.sampled_from(["tcp", "udp"]),
)
# Without a database on disk, so that parallel runs share nothing.
quick = settings(deadline=None, database=None, max_examples=200)


class Recording(PortAllocator):
    """Remembers what it handed out."""

    def __init__(self, *args):
        super().__init__(*args)
        self.granted = []

    def acquire(self, *args, **kwargs):
        leases = super().acquire(*args, **kwargs)
        self.granted += leases
        return leases

    def acquire_fixed(self, *args, **kwargs):
        lease = super().acquire_fixed(*args, **kwargs)
        self.granted.append(lease)
        return lease


@pytest.fixture
def allocator():
    with Recording() as allocator:
        yield allocator


@pytest.fixture
def few_ports(tmp_path, monkeypatch):
    """Give the module-level functions 24 ports and leases of their own."""
    some = candidate_ports(None)[:24]
    with PortAllocator(tmp_path, (min(some), max(some))) as allocator:
        monkeypatch.setattr(free_ports, "process_allocator", lambda: allocator)
        yield some


@pytest.mark.parametrize(
    ("spelling", "mapping"),
    [
        (8080, PortMapping(internal=8080)),
        ("8080", PortMapping(internal=8080)),
        (" 8080 ", PortMapping(internal=8080)),
        ("8080/udp", PortMapping(internal=8080, protocol="udp")),
        ("8080/TCP", PortMapping(internal=8080)),
        ("3000:8080", PortMapping(internal=8080, external=3000)),
        ("3000:8080/udp", PortMapping(internal=8080, external=3000, protocol="udp")),
        (PortMapping(internal=1), PortMapping(internal=1)),
    ],
)
def test_each_spelling_means_its_mapping(spelling, mapping):
    assert parse_port(spelling) == mapping


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("", "is not a port"),
        ("http", "is not a port"),
        ("80/sctp", "is not a port"),
        ("127.0.0.1:3000:80", "is not a port"),
        ("-80", "is not a port"),
        (-80, "is not a port"),
        ("80:", "is not a port"),
        ("8080/udp\n8081", "is not a port"),
        (0, "guest port 0 in 0 is not within 1 to 65535"),
        ("70000", "guest port 70000 in '70000' is not within 1 to 65535"),
        ("80:8080", "host port 80 in '80:8080' is not within 1024 to 65535"),
        ("0:8080", "host port 0 in '0:8080' is not within 1024 to 65535"),
        ("3000:99999/udp", "guest port 99999"),
    ],
)
def test_a_wrong_spelling_is_told_with_what_is_allowed(spelling, said):
    with pytest.raises(ValueError, match=said):
        parse_port(spelling)


@pytest.mark.parametrize("thing", [None, True, 80.0, b"80", (3000, 80), object()])
def test_what_is_no_spelling_at_all_is_a_type_error(thing):
    with pytest.raises(TypeError, match=r"is not a port; write .*8080"):
        parse_port(thing)


@quick
@given(mappings)
def test_what_a_mapping_reads_as_means_the_same_mapping(mapping):
    assert parse_port(str(mapping)) == mapping


@quick
@given(ports, st.none() | st.integers(1024, 65535), st.sampled_from(["", "/tcp", "/udp", "/UDP"]))
def test_every_spelling_of_valid_numbers_is_understood(internal, external, suffix):
    mapping = parse_port(f"{external or ''}{':' if external else ''}{internal}{suffix}")
    assert (mapping.internal, mapping.external) == (internal, external)
    assert mapping.protocol == ("udp" if "udp" in suffix.lower() else "tcp")


@quick
@given(st.text(alphabet="0123456789:/tcpudps .-", max_size=12))
def test_any_text_is_a_mapping_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        parsed = parse_port(text)
        assert 1 <= parsed.internal <= 65535
        assert parsed.external is None or 1024 <= parsed.external <= 65535


def test_mixed_spellings_are_normalized_in_order():
    given_ = [8080, PortMapping(internal=53, protocol="udp"), "3000:80"]
    assert [str(m) for m in normalize_port_mappings(given_)] == [
        "8080/tcp", "53/udp", "3000:80/tcp",
    ]  # fmt: skip


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_mappings_are_normalized_to_none(nothing):
    assert normalize_port_mappings(nothing) == []
    assert resolve_port_mappings(nothing) == []


def test_a_request_above_the_limit_is_refused():
    check_request(normalize_port_mappings(range(8000, 8010)))
    with pytest.raises(ValueError, match=r"^Too many exposed ports: 11 > 10$"):
        resolve_port_mappings(range(8000, 8011))


def test_one_host_port_twice_in_a_request_is_refused():
    with pytest.raises(ValueError, match="host port 3000/tcp is asked for twice"):
        resolve_port_mappings(["3000:80", 9000, "3000:81"])


def test_one_host_port_for_tcp_and_for_udp_is_not_twice():
    check_request(normalize_port_mappings(["3000:53", "3000:53/udp"]))


def test_one_guest_port_may_have_two_host_ports(allocator):
    granted = lease_ports(normalize_port_mappings([80, 80]), allocator)
    assert len({exposed.external for exposed, _ in granted}) == 2


def test_explicit_host_ports_are_kept_and_missing_ones_allocated():
    exposed = resolve_port_mappings([8080, "3000:80", PortMapping(internal=53, protocol="udp")])
    assert [(e.internal, e.protocol) for e in exposed] == [
        (8080, "tcp"), (80, "tcp"), (53, "udp"),
    ]  # fmt: skip
    assert exposed[1].external == 3000
    assert exposed[0].external in candidate_ports(None)
    assert exposed[2].external in candidate_ports(None)


def test_the_host_address_is_the_one_that_was_asked_for():
    (exposed,) = resolve_port_mappings([80], "127.0.0.2")
    assert exposed.address[0] == "127.0.0.2"


def test_an_allocated_port_can_be_bound_by_a_plain_server():
    port = allocate_ephemeral_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()


@pytest.mark.usefixtures("few_ports")
def test_repeated_calls_never_give_one_port_twice():
    got = []

    def take_all():
        for _ in range(24):
            got.append(allocate_ephemeral_port())
            got.extend(exposed.external for exposed in resolve_port_mappings([80]))

    with pytest.raises(PortsExhaustedError):
        take_all()
    assert len(got) == len(set(got)) > 1


def test_an_allocated_port_is_none_that_the_same_request_fixes(few_ports):
    fixed = few_ports[:9]
    wanted = [f"{port}:{guest}" for guest, port in enumerate(fixed, 1)]
    allocated = []
    with pytest.raises(PortsExhaustedError):
        allocated.extend(resolve_port_mappings([*wanted, 80])[-1].external for _ in few_ports)
    assert allocated
    assert not set(allocated) & set(fixed)


CHILD = """
import json, sys
from pytest_vmports import PortAllocator, allocate_ephemeral_port
from pytest_vmports.leases import free_ports
first, last = map(int, sys.argv[2:])
allocator = PortAllocator(sys.argv[1], (first, last))
free_ports.process_allocator = lambda: allocator
sys.stdin.readline()
print(json.dumps([allocate_ephemeral_port() for _ in range(8)]), flush=True)
sys.stdin.readline()
"""


def test_two_processes_never_get_the_same_port(tmp_path):
    some = candidate_ports(None)[:24]
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(min(some)), str(max(some))]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(2)
        ]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        got = [json.loads(child.stdout.readline()) for child in children]
        for child in children:
            child.stdin.close()
    assert len({*got[0], *got[1]}) == 16


def test_ports_are_granted_in_the_order_they_were_asked_for(allocator):
    wanted = normalize_port_mappings([1, "2/udp", 3, "4/udp"])
    granted = lease_ports(wanted, allocator)
    assert [(e.internal, e.protocol) for e, _ in granted] == [
        (1, "tcp"), (2, "udp"), (3, "tcp"), (4, "udp"),
    ]  # fmt: skip
    assert all(exposed.external == lease.port and lease.held for exposed, lease in granted)


def test_a_request_that_cannot_be_granted_whole_leaves_no_lease(allocator):
    with socket.socket() as stranger:
        # A number outside our range, which the kernel gave to this socket alone.
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        (other,) = allocator.acquire()
        ours = other.port
        other.release()
        allocator.granted.clear()
        wanted = normalize_port_mappings([80, f"{ours}:81", f"{taken}:82", "53/udp"])
        with pytest.raises(PortInUseError) as caught:
            lease_ports(wanted, allocator, wait=5)
    assert caught.value.port == taken
    # Fixed ports are taken in order of their numbers.
    assert [lease.port for lease in allocator.granted] == [ours] * (ours < taken)
    assert not any(lease.held for lease in allocator.granted)


def test_free_ports_that_run_out_give_back_the_fixed_ones(tmp_path):
    some = candidate_ports(None)[:4]
    with Recording(tmp_path, (min(some), max(some))) as allocator:
        blocker = allocator.acquire(1)
        fixed = next(port for port in some if port != blocker[0].port)
        allocator.granted.clear()
        wanted = normalize_port_mappings([f"{fixed}:80", *range(1, 9)])
        with pytest.raises(PortsExhaustedError):
            lease_ports(wanted, allocator, wait=5)
        assert [lease.port for lease in allocator.granted] == [fixed]
        assert not allocator.granted[0].held


@pytest.mark.parametrize("wanted", ["fixed", "free"])
def test_granted_ports_are_on_the_address_that_was_asked_for(allocator, wanted):
    (lease,) = allocator.acquire()
    lease.release()
    port = f"{lease.port}:80" if wanted == "fixed" else 80
    ((exposed, lease),) = lease_ports([parse_port(port)], allocator, host="127.0.0.2")
    assert (exposed.host, lease.host) == ("127.0.0.2", "127.0.0.2")


def test_a_fixed_port_is_waited_for_no_longer_than_was_said(allocator):
    (lease,) = allocator.acquire()
    wanted = normalize_port_mappings([f"{lease.port}:80"])
    with pytest.raises(PortInUseError, match=r"\(waited 0.1 s\)"):
        lease_ports(wanted, allocator, wait=0.1)


def test_a_tests_ports_are_waited_for_and_bound_as_its_settings_say(allocator, pytester):
    (lease,) = allocator.acquire()
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.vmports(80, bind_host="127.0.0.2")
        def test_address(exposed_ports):
            assert exposed_ports[80].host == "127.0.0.2"

        @pytest.mark.vmports("{lease.port}:80", port_wait=0.1)
        def test_wait(exposed_ports):
            pass
        """
    )
    result = pytester.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*PortInUseError*(waited 0.1 s)*"])


@pytest.mark.parametrize("several", [[8080, 9090], (8080,), {8080}, range(3), "8080,9090"])
def test_several_ports_in_the_place_of_one_are_to_be_written_one_by_one(several):
    with pytest.raises((TypeError, ValueError), match="write one by one, each as 8080"):
        parse_port(several)

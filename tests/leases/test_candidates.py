"""Which ports may be leased."""

import socket

import pytest

from pytest_vmports.errors import PortError, SettingError
from pytest_vmports.leases import PortAllocator
from pytest_vmports.leases import candidates as port_range
from pytest_vmports.leases.candidates import candidate_ports, parse_port_list


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a function that sets what the kernel says."""

    def says(ephemeral="32768\t60999\n", reserved="\n"):
        for name, text in (("EPHEMERAL_FILE", ephemeral), ("RESERVED_FILE", reserved)):
            file = tmp_path / name
            file.write_text(text)
            monkeypatch.setattr(port_range, name, file)

    monkeypatch.setattr(port_range.sys, "platform", "linux")
    says()
    return says


def test_linux_defaults_lead_to_the_block_below_the_ephemeral_range(kernel):
    ports = candidate_ports()
    assert (ports[0], ports[-1], len(ports)) == (20000, 32767, 12768)


def test_the_larger_side_of_the_ephemeral_range_is_chosen(kernel):
    kernel("15000 30000")
    assert candidate_ports()[:1] + candidate_ports()[-1:] == (30001, 65535)


def test_a_wide_ephemeral_range_lowers_the_floor(kernel):
    kernel("12000 65535")
    assert candidate_ports()[:1] + candidate_ports()[-1:] == (10000, 11999)


def test_the_largest_rest_is_taken_where_little_is_left(kernel):
    kernel("1124 65535")
    assert candidate_ports() == tuple(range(1024, 1124))


def test_a_kernel_that_hands_out_everything_leaves_an_error(kernel):
    kernel("1024 65535")
    with pytest.raises(PortError, match="narrow net"):
        candidate_ports()


def test_reserved_ports_are_no_candidates(kernel):
    kernel(reserved="20000,20002-20004\n")
    assert candidate_ports()[:3] == (20001, 20005, 20006)


@pytest.mark.parametrize(
    ("text", "ports"),
    [("\n", set()), ("8080\n", {8080}), ("8080,9000-9002\n", {8080, 9000, 9001, 9002})],
)
def test_the_kernels_list_notation_is_understood(text, ports):
    assert parse_port_list(text) == ports


def test_of_a_wanted_range_only_what_the_kernel_leaves_alone_is_used(kernel):
    kernel(reserved="32700")
    assert candidate_ports((32699, 33000)) == (32699, *range(32701, 32768))


def test_first_and_last_port_of_a_wanted_range_are_used(kernel, tmp_path):
    assert candidate_ports((5500, 5503)) == (5500, 5501, 5502, 5503)
    assert candidate_ports((65535, 65535)) == (65535,)
    with PortAllocator(tmp_path, (5500, 5501)) as allocator:
        assert sorted(lease.port for lease in allocator.acquire(2)) == [5500, 5501]


def test_a_wanted_range_inside_the_ephemeral_one_is_refused_with_the_reason(kernel):
    with pytest.raises(SettingError, match="ephemeral range 32768-60999"):
        candidate_ports((40000, 40100))


@pytest.mark.parametrize("wrong", [(1023, 2000), (3000, 2999), (60000, 65536)])
def test_what_is_no_range_is_refused(kernel, wrong):
    with pytest.raises(SettingError, match="1024 <= first <= last <= 65535"):
        candidate_ports(wrong)


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_other_platforms_are_taken_to_use_the_iana_range(monkeypatch, platform):
    monkeypatch.setattr(port_range.sys, "platform", platform)
    assert port_range.ephemeral_range() == (49152, 65535)


def test_without_proc_linux_is_taken_to_use_its_default(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(port_range, "EPHEMERAL_FILE", tmp_path / "none")
    monkeypatch.setattr(port_range, "RESERVED_FILE", tmp_path / "none")
    assert candidate_ports()[-1] == 32767


def test_this_machines_kernel_never_gives_away_a_candidate():
    candidates = set(candidate_ports())
    for _ in range(2000):
        with socket.socket() as anybody:
            anybody.bind(("127.0.0.1", 0))
            assert anybody.getsockname()[1] not in candidates


def test_an_allocator_says_at_once_that_its_range_is_of_no_use(kernel, tmp_path):
    with pytest.raises(SettingError):
        PortAllocator(tmp_path, (50000, 50001))

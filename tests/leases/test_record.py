"""Who holds what, as readers find it."""

import fcntl
import os

import pytest

from pytest_vmports.leases import PortAllocator, record
from pytest_vmports.system import clock

LOCKS = """\
1: FLOCK  ADVISORY  WRITE 100 fd:01:7001 0 EOF
1: -> FLOCK  ADVISORY  WRITE 101 fd:01:7001 0 EOF
2: FLOCK  ADVISORY  READ 102 fd:01:7002 0 EOF
3: POSIX  ADVISORY  WRITE 103 fd:01:7003 0 EOF
4: FLOCK  ADVISORY  WRITE -1 00:2f:7004 0 EOF
"""


@pytest.fixture
def allocator(tmp_path):
    with PortAllocator(tmp_path, (5500, 5503)) as allocator:
        yield allocator


@pytest.fixture
def asked(monkeypatch):
    """Return the lock operations that readers ask for from now on."""
    operations = []
    ask = fcntl.flock

    def flock(fd, operation):
        operations.append(operation)
        ask(fd, operation)

    monkeypatch.setattr(record.fcntl, "flock", flock)
    return operations


def stale_record(allocator):
    """Leave a free lease file that still tells of a living process; return its path."""
    (lease,) = allocator.acquire()
    path = allocator.directory / f"tcp-{lease.port}"
    text = path.read_bytes()
    lease.release()
    path.write_bytes(text)
    return path


def test_neither_waiters_nor_readers_nor_other_locks_are_holders(monkeypatch, tmp_path):
    (tmp_path / "locks").write_text(LOCKS)
    monkeypatch.setattr(record, "LOCKS", tmp_path / "locks")
    assert record.locked_files() == {(7001, 100), (7004, -1)}


def test_a_reader_at_work_is_not_taken_for_a_holder_by_another(allocator):
    with stale_record(allocator).open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        assert allocator.leases() == []


def test_readers_look_at_a_free_file_at_the_same_time(allocator, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "LOCKS", tmp_path / "none")
    with stale_record(allocator).open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        asked.clear()
        assert allocator.leases() == []
    assert asked == [fcntl.LOCK_SH | fcntl.LOCK_NB]


def test_what_is_held_or_was_given_back_is_read_without_a_lock(allocator, asked):
    held, freed = allocator.acquire(2)
    freed.release()
    asked.clear()
    assert [(info.port, info.pid) for info in allocator.leases()] == [(held.port, os.getpid())]
    assert asked == []


def test_a_port_that_is_just_looked_at_can_be_leased_all_the_same(allocator, monkeypatch):
    path = stale_record(allocator)
    looked_at = path.open()
    fcntl.flock(looked_at, fcntl.LOCK_SH)
    # The reader lets go while the other waits for its next try.
    monkeypatch.setattr(clock, "sleep", lambda _seconds: looked_at.close())
    with allocator.acquire_fixed(int(path.name.removeprefix("tcp-")), timeout=0) as lease:
        assert lease.held
    assert looked_at.closed


def test_the_only_port_can_be_leased_while_it_is_just_looked_at(tmp_path, monkeypatch):
    with PortAllocator(tmp_path, (5510, 5510)) as one:
        looked_at = stale_record(one).open()
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        monkeypatch.setattr(clock, "sleep", lambda _seconds: looked_at.close())
        (lease,) = one.acquire()
        assert lease.port == 5510
    assert looked_at.closed

"""What is said on the terminal of copies that take long."""

import itertools
import re
import threading
from types import SimpleNamespace

import pytest
from tars import END, file

from pytest_vmports.pool import copies
from pytest_vmports.pool.handle import VM
from pytest_vmports.vm.owner import Owner


class Waits:
    """A guest that does not end a copy before something is told."""

    def __init__(self):
        self.told, self.lines = threading.Event(), []
        self.pieces = (file("app", bytes(1 << 20)), END)

    def tell(self, line):
        self.lines.append(line)
        self.told.set()

    def execute(self, _command, *, timeout, input, sink, per_progress):  # noqa: A002
        for chunk in itertools.chain(input, self.pieces):
            if chunk in self.pieces:
                sink.out(chunk)
            assert self.told.wait(60)
        return 0, b"", b""


@pytest.fixture
def guest(monkeypatch):
    monkeypatch.setattr(copies, "_SLOW_SECONDS", 0.01)
    return Waits()


def vm_of(guest):
    machine = SimpleNamespace(
        owner=Owner(), vitals=None, shell=guest, check_alive=lambda: None, ram=None
    )
    return VM(machine, None, None, tell=guest.tell)


def test_a_copy_into_the_guest_that_takes_long_says_how_far_it_is(guest, tmp_path):
    source = tmp_path / "app.tar"
    source.write_bytes(bytes(3 << 20))
    guest.pieces = ()
    vm_of(guest).put(source, "/srv/")
    assert re.fullmatch(
        r"vmports: copying app\.tar into the guest (\[gw\d+\] )?for "
        r"tests/pool/test_copies\.py::\S+, "
        r"0 s so far: [0-3]\.\d of 3\.1 MB, \d+(\.\d)? MB/s",
        guest.lines[0],
    )


def test_a_copy_out_of_the_guest_that_takes_long_says_how_far_it_is(guest, tmp_path):
    vm_of(guest).get("/srv/app", tmp_path)
    assert re.fullmatch(
        r"vmports: copying app out of the guest (\[gw\d+\] )?for tests/pool/test_copies\.py::\S+, "
        r"0 s so far: [01]\.\d MB, \d+(\.\d)? MB/s",
        guest.lines[0],
    )


def test_a_copy_that_is_quick_is_not_mentioned(monkeypatch, tmp_path):
    guest = Waits()
    guest.told.set()
    vm_of(guest).get("/srv/app", tmp_path)
    assert guest.lines == []

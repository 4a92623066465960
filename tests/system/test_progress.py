"""What takes long is said, and nothing else."""

import os
import re
import subprocess
import sys
import threading

import pytest
from vm_helpers import fixed_port

from pytest_vmports.leases import PortAllocator
from pytest_vmports.system.progress import slowly


@pytest.fixture
def told():
    """Return the lines that were told, and an event for each of the first two."""
    return Told()


class Told(list):
    def __init__(self):
        super().__init__()
        self.events = [threading.Event(), threading.Event()]

    def __call__(self, line):
        self.append(line)
        if len(self) <= len(self.events):
            self.events[len(self) - 1].set()


def test_what_is_quick_is_not_mentioned(told):
    with slowly(told, "being quick"):
        pass
    assert told == []


def test_what_takes_long_is_said_again_with_where_it_is(told):
    with slowly(told, "booting alpine", lambda: "Starting sshd", first=0.01, again=0.01):
        for event in told.events:
            assert event.wait(30)
    lines = list(told)
    assert lines[0] == "vmports: booting alpine, 0 s so far: Starting sshd"
    assert len(lines) >= 2


def test_the_one_who_can_redraw_is_given_each_line_and_at_last_none():
    drawn, enough = [], threading.Event()

    class Redraws(Told):
        def redraw(self, line):
            drawn.append(line)
            if len(drawn) == 3:
                enough.set()
            return True

    told = Redraws()
    with slowly(told, "working", first=0.01, again=0.01):
        assert enough.wait(30)
    assert told == []
    assert drawn[0] == "vmports: working, 0 s so far"
    assert drawn[-1] == ""


def test_without_a_detail_only_the_time_is_said(told):
    with slowly(told, "waiting", first=0.01):
        assert told.events[0].wait(30)
    assert told[0] == "vmports: waiting, 0 s so far"


def test_it_is_over_when_the_work_fails(told):
    with pytest.raises(KeyError), slowly(told, "failing", first=0.01, again=0.01):
        raise KeyError
    assert not [t for t in threading.enumerate() if t.name == "vmports-progress"]


def test_a_run_that_waits_for_a_fixed_port_says_for_whom_and_then_how_long(pytester):
    port = fixed_port()
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.vmports("{port}:8080")
        def test_it(exposed_ports):
            assert exposed_ports[8080].external == {port}
        """
    )
    with PortAllocator() as allocator, allocator.acquire_fixed(port, label="the holder") as lease:
        run = [sys.executable, "-m", "pytest", "-p", "no:xdist", pytester.path]
        with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            lines = []
            for line in map(bytes.decode, process.stderr):
                lines += [line] if line.strip() else []
                if "so far" in line:
                    lease.release()
    assert process.returncode == 0
    assert f"waiting for port {port}, held by pid {os.getpid()}" in lines[0]
    assert "the holder)" in lines[0]  # in xdist after the name of its worker
    assert re.fullmatch(rf"vmports: waiting for port {port}, \d+ s so far\n", lines[1])

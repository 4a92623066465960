"""A command whose reader goes ends in silence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from pytest_vmports.system.reader import to_reader


def output_to_nobody(command, **keywords):
    """Run a command whose standard output nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, **keywords
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    "words",
    [
        ["pytest_vmports.cli.main", *rest]
        for rest in (["--help"], ["ports"], ["explain"], ["explain", "setup"], ["kept"],
                     ["cache", "list"], ["doctor"], ["doctor", "--json"], ["run", "--help"])
    ] + [["pytest_vmports.leases", "--help"], ["pytest_vmports.leases", "list"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("buffered", [True, False])
def test_a_command_ends_in_silence_when_nobody_reads(words, buffered, free_port, vmports_allocator):
    environment = {**os.environ, **({} if buffered else {"PYTHONUNBUFFERED": "1"})}
    done = output_to_nobody([sys.executable, "-m", *words], env=environment)
    assert done.stderr == ""
    assert done.returncode in {0, 141}


def test_the_broken_pipe_of_something_else_is_an_error():
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        to_reader(lambda: ours.send(b"x"))


def test_a_command_may_be_without_any_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert to_reader(lambda: 3) == 3

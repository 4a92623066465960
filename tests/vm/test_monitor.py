"""What we say to QEMU, without a QEMU."""

import asyncio
import socket

import pytest
from freezegun import freeze_time

from pytest_vmports.vm import qmp_thread
from pytest_vmports.vm.monitor import Monitor


def test_a_qemu_that_says_nothing_is_waited_for_no_longer_than_was_said():
    ours, theirs = socket.socketpair()
    with theirs, freeze_time():
        silent = Monitor(ours)
        with pytest.raises(TimeoutError, match="no answer from QEMU"):
            silent.connect(0.2)
        silent.close()


def test_what_is_in_time_on_a_frozen_clock_is_answered():
    with freeze_time():
        assert qmp_thread.run(asyncio.sleep(0.01, "answer"), 60) == "answer"

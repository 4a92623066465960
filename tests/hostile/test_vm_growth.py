"""A real guest that writes as much as it can, everywhere at once."""

from __future__ import annotations

import pytest
from vm_helpers import GUEST, until

from pytest_vmports.errors import CommandOutputError
from pytest_vmports.vm.console import MIB

# To the console, and datagrams in pieces to the relay of UDP.
FLOODS = """
(while :; do cat /dev/zero | tr '\\0' 'y' | head -c 4000; echo; done >/dev/console) &
(while :; do echo 'vmports-cloud-init: {BUG: unable to handle '; done >/dev/console) &
(while :; do head -c 60000 /dev/zero | nc -u -w 1 192.168.127.253 4000; done) &
"""
SECONDS, LIMIT = 120, 32 << 10


def test_a_guest_that_floods_all_its_channels_is_bounded_and_still_answers(boot):
    with boot(8080, "5353/udp", setup=GUEST, fresh_boot=False) as vm:
        console = vm._machine.console
        begun = console.size
        assert console.limit == 64 * MIB
        console.let_grow()
        console.limit = LIMIT  # the least that the setting takes is more than a test can wait for
        console.keep_in_bounds()
        vm.run(["nice", "sh", "-c", FLOODS])
        until(lambda: console.size - begun > 2 * LIMIT, SECONDS, lambda: str(console.size))
        assert vm.run("echo alive", timeout=SECONDS).stdout == "alive\n"
        with pytest.raises(CommandOutputError) as caught:
            vm.run("yes", max_output=10_000, timeout=SECONDS)
        assert caught.value.output == "y\n" * 5000
        assert vm.run("echo alive", timeout=SECONDS).stdout == "alive\n"
        until(lambda: console.path.stat().st_blocks * 512 <= LIMIT, SECONDS, "the console's file")
        assert len(vm.console) < 2 * LIMIT + begun
        assert "console_limit" in console.tail()
    assert console.problems == []

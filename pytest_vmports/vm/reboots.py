"""A guest that reboots within one QEMU: that it did is noticed, and it is waited for anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.vm.console import Console
    from pytest_vmports.vm.monitor import Monitor


class RebootedError(Exception):
    """The guest has rebooted while it was waited for: what it had said counts no more."""


class Reboots:
    """The reboots of the guest of one QEMU, and which of them it was waited for after.

    Args:
        monitor: QEMU's, which counts them; None before there is one.
        console: what its guest writes.
    """

    def __init__(self, monitor: Monitor | None = None, console: Console | None = None) -> None:
        self._monitor = monitor
        if monitor is not None and console is not None:
            monitor.resets.written = lambda: console.size
        self._followed = 0

    @property
    def count(self) -> int:
        """How often the guest has rebooted since QEMU started."""
        return 0 if self._monitor is None else self._monitor.resets.count

    @property
    def new(self) -> bool:
        """Whether it has rebooted since it was waited for."""
        return self.count > self._followed

    def so_far(self) -> str:
        """Return what is to be said of a guest that was waited for in vain; empty for none."""
        if not self.count:
            return ""
        return f"; it has rebooted {times(self.count)} meanwhile, and begins anew each time"

    def check(self, deadline: float) -> None:
        """Raise when the guest has rebooted since, and there is time left to wait for it anew.

        Raises:
            RebootedError: it has.
        """
        if self.new and clock.now() < deadline:
            raise RebootedError

    def wait_out(self, come_up: Callable[[], None], begin_anew: Callable[[], None]) -> None:
        """Wait for the guest until it has not rebooted meanwhile.

        Args:
            come_up: waits for the guest; ends at its deadline.
            begin_anew: forgets what the guest has said and not been asked for.
        """
        while True:
            if self.new:
                begin_anew()
            self._followed = self.count
            try:
                come_up()
            except RebootedError:
                continue
            if not self.new:
                return


def times(count: int) -> str:
    """Return a number of times in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")

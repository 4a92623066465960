"""Takes note of VMs for the test that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.leases import LeaseInfo
    from pytest_vmports.report.evidence import Evidence
    from pytest_vmports.vm.machine import Machine

_evidence_key: pytest.StashKey[Evidence] = pytest.StashKey()


class Recorder:
    """Takes note of VMs for the test that runs.

    Args:
        running: returns that test; None before the first.

    Attributes:
        made: the VMs that were made, those that have ended without the last one.
        mishaps: what went wrong beside the tests since the last report.
        follow: is told of every machine that is about to start too.
    """

    def __init__(self, running: Callable[[], pytest.Item | None]) -> None:
        self.made: list[Machine] = []
        self.mishaps: list[str] = []
        self.follow: Callable[[Machine], None] | None = None
        self._running = running

    def note(self, mishap: str) -> None:
        """Take note of what went wrong, in a line; of the same only once."""
        if mishap not in self.mishaps:
            self.mishaps.append(mishap)

    def observe(self, machine: Machine) -> None:
        """Take note of a machine that is about to start."""
        self.made = [*(one for one in self.made if one.running), machine]
        if (item := self._running()) is not None:
            evidence_of(item).machines.append(machine)
        if self.follow is not None:
            self.follow(machine)

    def on_wait(self, _holder: LeaseInfo) -> None:
        """Count that a fixed port is waited for."""
        if (item := self._running()) is not None:
            evidence_of(item).waited += 1


def evidence_of(item: pytest.Item) -> Evidence:
    """Return what is known of a test's VMs; nothing at first."""
    from pytest_vmports.report.evidence import Evidence

    return item.stash.setdefault(_evidence_key, Evidence())


def known(item: pytest.Item) -> Evidence | None:
    """Return what is known of a test's VMs, or None where it had none."""
    return item.stash.get(_evidence_key, None)


def forget(item: pytest.Item) -> None:
    """Let go of what is known of a test's VMs, files of theirs among it."""
    if _evidence_key in item.stash:
        del item.stash[_evidence_key]

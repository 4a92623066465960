"""Where a VM came from, and when what happened to it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields


class State(enum.Enum):
    """Where a machine is in its life.

    From new to started, ready and stopped; a reset goes back from any of the last three to started,
    and one that was kept is not ours any more.
    """

    NEW = "new"
    STARTED = "started"
    READY = "ready"
    STOPPED = "stopped"
    KEPT = "kept"


class Origin(str, enum.Enum):
    """How a VM got to where its test took over.

    ``standby``: cloned before its test began. ``restored``: from a snapshot of its own.
    """

    BOOTED = "booted"
    CLONED = "cloned"
    STANDBY = "standby"
    RESTORED = "restored"

    def __str__(self) -> str:
        return str(self.value)


@dataclass
class Milestones:
    """Moments of one VM, in `clock.now` seconds; None for what has not happened.

    Attributes:
        leased: its host ports were leased.
        start: it was started, or a VM that waited was handed over.
        refused: a host port was somebody else's; others were taken, by another VM.
        console: its guest had written something, when that was first seen.
        setup: its setup had ended, or it was restored.
        ready: it was ready.
        rebooted: its guest had rebooted, and was ready again.
        stopped: it was ended.
    """

    leased: float | None = None
    start: float | None = None
    refused: float | None = None
    console: float | None = None
    setup: float | None = None
    ready: float | None = None
    rebooted: float | None = None
    stopped: float | None = None

    def passed(self) -> dict[str, float]:
        """Return those that have happened, the first one first."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        there = {name: at for name, at in found.items() if at is not None}
        return dict(sorted(there.items(), key=lambda moment: moment[1]))

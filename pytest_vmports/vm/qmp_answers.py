"""The shapes of what QEMU answers over QMP. A guest may own its QEMU, so nothing else is taken.

Source: QEMU's QMP reference manual.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_vmports.system.said import Answer

WHO = "QEMU's monitor"
_Count = Annotated[int, Field(ge=0, lt=1 << 64)]


class RunState(Answer):
    """What QEMU says of a machine, as ``paused`` or ``io-error``, and whether its guest runs."""

    status: str
    running: bool


class Operations(Answer):
    """What a disk was asked for."""

    rd_operations: _Count
    wr_operations: _Count


class DiskStats(Answer):
    """One disk's row of ``query-blockstats``."""

    stats: Operations


class Formats(Answer):
    """In which formats QEMU can write the memory."""

    formats: list[str]


class Set(Answer):
    """What ``add-fd`` has put a descriptor into."""

    fdset: _Count = Field(alias="fdset-id")


class Named(Answer):
    """A property of an object, such as a device among those that were plugged in."""

    name: str


class Version(Answer):
    """QEMU's own numbers."""

    major: _Count
    minor: _Count


class Greeting(Answer):
    """What the greeting says of the version."""

    qemu: Version


class Migration(Answer):
    """What the event ``MIGRATION`` brings."""

    status: str

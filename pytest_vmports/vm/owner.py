"""Whose a VM is: a forked child has a picture of it, and must neither use nor end it."""

from __future__ import annotations

import os

from pytest_vmports.errors import ForkedProcessError


class Owner:
    """The process that makes this."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    @property
    def here(self) -> bool:
        """Whether that is this process."""
        return os.getpid() == self.pid

    def check(self) -> None:
        """Raise in a forked child, which would take answers that are its parent's.

        Raises:
            ForkedProcessError: this is another process.
        """
        if not self.here:
            raise ForkedProcessError(owner=self.pid, pid=os.getpid())

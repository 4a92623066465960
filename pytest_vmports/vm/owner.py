"""Whose a VM is: a forked child has a picture of it, and must neither use nor end it."""

from __future__ import annotations

import os
from typing import NoReturn

from pytest_vmports.errors import ForkedProcessError


class Owner:
    """The process that makes this."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()

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


class OfOneProcess:
    """What cannot be copied, nor sent to another process: there is one VM behind it."""

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is of the process that started it, and there is one of it: "
            "it cannot be copied or pickled; pass on what the other side needs, as vm[8080].address"
        )

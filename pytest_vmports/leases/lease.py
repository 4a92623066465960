"""One lease on one port: a locked file, and for TCP a guard socket."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from pytest_vmports.errors import PortError
from pytest_vmports.leases.record import BLANK

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from typing_extensions import Self


class Ledger:
    """The leases that one allocator has handed out.

    Attributes:
        directory: where their lock files are.
        held: the leases that this process holds.
    """

    __slots__ = ("directory", "held")

    def __init__(self, directory: str) -> None:
        self.directory: str = directory
        self.held: set[PortLease] = set()


class LeaseTamperedWarning(UserWarning):
    """A lease's file was replaced or removed while the lease was held."""


class PortLease:
    """A port that is ours until `release`.

    Attributes:
        port: the host port.
        protocol: ``"tcp"`` or ``"udp"``.
        host: the address the server is to bind.
    """

    __slots__ = ("_fd", "_guard", "_handed", "_ledger", "host", "port", "protocol")

    def __init__(
        self,
        ledger: Ledger,
        port: int,
        protocol: str,
        host: str,
        fd: int,
    ) -> None:
        self._ledger = ledger
        self.port: int = port
        self.protocol: str = protocol
        self.host: str = host
        self._fd = fd
        self._guard: socket.SocketType | None = None
        self._handed = False

    @property
    def held(self) -> bool:
        """Whether this process still has the lease."""
        return self._fd >= 0

    def fileno(self) -> int:
        """Return the lock's descriptor, for ``subprocess.Popen(pass_fds=...)``.

        A child that has it holds the lease together with us, and alone when we die.

        Raises:
            PortError: the lease was released, or belongs to the process that forked this one.
        """
        if self._fd < 0:
            raise PortError(f"the lease on port {self.port}/{self.protocol} is not held here")
        self._handed = True
        return self._fd

    def guard_with(self, guard: socket.SocketType) -> None:
        """Take over a bound socket, to be closed by `release_guard`."""
        self._guard = guard

    def release_guard(self) -> None:
        """Let go of the guard socket, when the server listens. Safe to call again."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    def verify(self) -> None:
        """Check that the lease still means something.

        Raises:
            PortError: it is not held, or its file was replaced or removed: then another process
                can be given the port.
        """
        if self._fd < 0 or not self._intact():
            raise PortError(self._tampered() if self._fd >= 0 else f"{self!r} is not held here")

    def release(self) -> None:
        """Give the port back: guard first, then lock. Safe to call again.

        The descriptor is closed, and never unlocked: unlocking would end the lease for every
        process that shares it, so also for a child that still listens. When no child has it, the
        kernel drops the lock as we close.
        """
        self.release_guard()
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._ledger.held.discard(self)
        try:
            intact = _same_file(fd, self._path())
            if not self._handed:
                # Readers need not ask the kernel about a file that says nothing.
                os.pwrite(fd, BLANK, 0)
        finally:
            os.close(fd)
        if not intact:
            warnings.warn(self._tampered(), LeaseTamperedWarning, stacklevel=2)

    def _intact(self) -> bool:
        return _same_file(self._fd, self._path())

    def _path(self) -> str:
        return f"{self._ledger.directory}/{self.protocol}-{self.port}"

    def _tampered(self) -> str:
        return (
            f"the lease file {self._path()} was replaced or removed while port {self.port} was"
            " held: another process may have been given the same port; exclude the directory"
            " from whatever cleans it"
        )

    def forget_after_fork(self) -> None:
        """Close this process's copies; called in a forked child.

        The parent's lease must end when the parent ends it. Copies that were handed out stay: a
        program about to be started with a ``preexec_fn`` passes through here too.
        """
        self.release_guard()
        if not self._handed:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if self._fd >= 0:
            warnings.warn(
                f"{self!r} was never released", ResourceWarning, stacklevel=2, source=self
            )
            self.release()

    def __repr__(self) -> str:
        return f"<PortLease {self.host}:{self.port}/{self.protocol}>"


def give_back(leases: list[PortLease]) -> None:
    """Release the leases, last one first, and empty the list."""
    while leases:
        leases.pop().release()


def _same_file(fd: int, path: str) -> bool:
    ours = os.fstat(fd)
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (ours.st_ino, ours.st_dev) == (there.st_ino, there.st_dev)

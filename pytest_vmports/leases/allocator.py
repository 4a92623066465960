"""Choosing ports and taking leases on them; the only place that locks a port."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
import weakref
from typing import TYPE_CHECKING, Final, Literal, NoReturn

from pytest_vmports.constants import MAX_PORT, PORT_FORWARD_BIND_HOST
from pytest_vmports.errors import PortInUseError, SettingError
from pytest_vmports.leases import guard as port_guard
from pytest_vmports.leases import refusal
from pytest_vmports.leases.candidates import candidate_ports
from pytest_vmports.leases.lease import Ledger, PortLease, give_back
from pytest_vmports.leases.lock_file import lock, lock_or_pass
from pytest_vmports.leases.record import LeaseInfo, locked_files, make_record, read_live
from pytest_vmports.leases.state_dir import make_state_dir
from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

LeaseProtocol = Literal["tcp", "udp", "both"]

# Two requests that each hold half of the last ports would both fail: they back off and retry.
_ROUNDS: Final = 6
_LONGEST_BACKOFF: Final = 0.02
_READERS_ROUNDS: Final = 2

# Seconds. What is shorter than a moment is not worth telling the user.
_MOMENT: Final = 0.25
_POLL: Final = 0.01
# How long a fixed port without a visible owner may take to come free: a process that is just
# ending has dropped its lock and not yet its sockets.
_GRACE: Final = 1.0
_SOMEBODY: Final = "a program that cannot be named from here (another user's, or not listening)"

# Held while leases are taken, and by fork: a child forked between opening a lock file and
# noting its descriptor would keep a copy that it knows nothing of.
_taking = threading.RLock()
_allocators: weakref.WeakSet[PortAllocator] = weakref.WeakSet()


class PortAllocator:
    """Hands out leases; a context manager that gives all of them back.

    Args:
        state_dir: base directory of the lock files; None means ``VMPORTS_STATE_DIR``, else a
            directory that all runs of this user share.
        port_range: first and last port to choose from, both included; None means a block
            outside the kernel's ephemeral range.

    Raises:
        StateDirError: the directory cannot be used.
        SettingError: nothing of ``port_range`` can be used.
    """

    def __init__(
        self,
        state_dir: Path | str | None = None,
        port_range: tuple[int, int] | None = None,
    ) -> None:
        self._ports = candidate_ports(port_range)
        self.directory: Path = make_state_dir(state_dir)
        self._ledger = Ledger(str(self.directory))
        self._dir_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._close_dir = weakref.finalize(self, os.close, self._dir_fd)
        # systemd-tmpfiles leaves a directory alone that is locked. Not being able to is no
        # reason to stop: only a cleaner at work holds that lock, and what it removes is noticed.
        with contextlib.suppress(OSError):
            fcntl.flock(self._dir_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._next = self._random_start()
        # Port and protocol of what others had locked at the last look.
        self._met: set[tuple[int, str]] = set()
        _allocators.add(self)

    def acquire(
        self,
        count: int = 1,
        *,
        protocol: LeaseProtocol = "tcp",
        host: str = PORT_FORWARD_BIND_HOST,
        contiguous: bool = False,
        label: str | None = None,
    ) -> list[PortLease]:
        """Lease free ports: all of them or none.

        Args:
            count: how many ports.
            protocol: ``"both"`` leases each number for TCP and UDP, as two leases, TCP first.
            host: the address the servers will bind.
            contiguous: give consecutive ports, ascending.
            label: what others see as the holder; None means the running test.

        Raises:
            PortsExhaustedError: too few ports are free.
            PortError: descriptors ran out, or ``host`` is not an address of this machine.
            StateDirError: the directory of the lock files can no longer be used.
        """
        if count < 1:
            raise SettingError(source="acquire", name="count", value=count, allowed="ask for 1 up")
        protocols = _protocols(protocol)
        leases: list[PortLease] = []
        for attempt in range(_ROUNDS):
            if attempt:
                clock.sleep(random.uniform(0, _LONGEST_BACKOFF))  # noqa: S311 - not a secret
            with _taking, self._explained():
                record = make_record(host, label)
                leases, contended = self._one_round(count, protocols, host, record, contiguous)
            if leases or not (contended or (attempt < _READERS_ROUNDS and self._only_read())):
                break
        return leases or self._exhausted(count, protocol)

    def acquire_fixed(
        self,
        port: int,
        *,
        protocol: Literal["tcp", "udp"] = "tcp",
        host: str = PORT_FORWARD_BIND_HOST,
        timeout: float = 60.0,
        on_wait: Callable[[LeaseInfo], None] | None = None,
        label: str | None = None,
    ) -> PortLease:
        """Lease this very port, waiting for others of ours that have it.

        Args:
            port: the host port, 1 to 65535.
            protocol: ``"tcp"`` or ``"udp"``.
            host: the address the server will bind.
            timeout: how long to wait for another lease on the port to end, in seconds.
            on_wait: called once with the holder when there is more than a moment to wait.
            label: what others see as the holder; None means the running test.

        Raises:
            PortInUseError: a program that holds no lease has the port (at once), or the lease
                on it did not end in time.
            PortError, StateDirError: as `acquire`.
        """
        if not 1 <= port <= MAX_PORT:
            raise SettingError(
                source="acquire_fixed", name="port", value=port, allowed=f"1 to {MAX_PORT}"
            )
        lease = self._wait_for_turn((port, protocol, host), timeout, on_wait, label)
        try:
            self._guard_fixed(lease)
        except BaseException:
            lease.release()
            raise
        return lease

    def leases(self) -> list[LeaseInfo]:
        """Return who holds what now, sorted by port: all leases of this user, not only ours.

        A holder that died is not listed, except when a program it started keeps its lease.
        """
        with self._explained():
            names = os.listdir(self._dir_fd)  # noqa: PTH208 - the directory we hold, not the path
            locks = locked_files()
            found = [read_live(self.directory, name, locks) for name in names if "-" in name]
        return sorted((info for info in found if info), key=lambda info: (info.port, info.protocol))

    def release_all(self) -> None:
        """Give back every lease this allocator handed out."""
        with contextlib.ExitStack() as stack:  # goes on when one release raises
            for lease in tuple(self._ledger.held):
                stack.callback(lease.release)

    def close(self) -> None:
        """Give everything back and close the directory."""
        try:
            self.release_all()
        finally:
            self._close_dir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _one_round(
        self, count: int, protocols: Sequence[str], host: str, record: bytes, contiguous: bool
    ) -> tuple[list[PortLease], bool]:
        """Try each candidate once; return the leases, and whether others of ours were met."""
        ports, start = self._ports, self._next
        total = len(ports)
        taken: list[PortLease] = []
        contended = False
        self._met = set()
        try:
            # A run of ports may lie across the place where we start.
            for step in range(total + (count - 1 if contiguous else 0)):
                port = ports[(start + step) % total]
                if contiguous and taken and port != taken[-1].port + 1:
                    give_back(taken)
                got = self._try_port(port, protocols, host, record)
                if isinstance(got, bool):
                    contended = contended or got
                    if contiguous:
                        give_back(taken)
                    continue
                taken += got
                if len(taken) == count * len(protocols):
                    self._next = (start + step + 1) % total
                    return taken, contended
        except BaseException:
            give_back(taken)
            raise
        # Holding nothing while others look, so that one of two rivals gets its ports.
        contended = contended and len(taken) > 0
        give_back(taken)
        return taken, contended

    def _try_port(
        self, port: int, protocols: Sequence[str], host: str, record: bytes
    ) -> list[PortLease] | bool:
        """Lease one number; else tell whether another lease (True) or a stranger has it."""
        got: list[PortLease] = []
        try:
            for protocol in protocols:
                fd = lock_or_pass(f"{protocol}-{port}", self._dir_fd)
                if fd < 0:
                    self._met.add((port, protocol))
                    give_back(got)
                    return True
                lease = self._note(port, protocol, host, fd)
                got.append(lease)
                guard = port_guard.bind_guard(protocol, port, host)
                if guard is None:
                    give_back(got)
                    return False
                if protocol == "udp":
                    guard.close()  # it would keep the server out too
                else:
                    lease.guard_with(guard)
                os.pwrite(fd, record, 0)
        except BaseException:
            give_back(got)
            raise
        return got

    def _note(self, port: int, protocol: str, host: str, fd: int) -> PortLease:
        lease = PortLease(self._ledger, port, protocol, host, fd)
        self._ledger.held.add(lease)
        return lease

    def _wait_for_turn(
        self,
        lease_of: tuple[int, str, str],
        timeout: float,
        on_wait: Callable[[LeaseInfo], None] | None,
        label: str | None,
    ) -> PortLease:
        port, protocol, host = lease_of
        name = f"{protocol}-{port}"
        started = clock.now()
        while True:
            with _taking, self._explained():
                fd = lock(name, self._dir_fd)
                if fd >= 0:
                    lease = self._note(port, protocol, host, fd)
                    os.pwrite(fd, make_record(host, label), 0)
                    return lease
            waited = clock.now() - started
            # Never on the first refusal: somebody may just have been reading who holds it.
            if waited >= max(timeout, 5 * _POLL):
                raise self._still_held(lease_of, timeout)
            if on_wait is not None and waited >= _MOMENT:
                holder = self._holder(name)
                if holder is not None:
                    on_wait(holder)
                    on_wait = None
            clock.sleep(_POLL)

    def _holder(self, name: str) -> LeaseInfo | None:
        with self._explained():
            return read_live(self.directory, name, locked_files())

    def _still_held(self, lease_of: tuple[int, str, str], timeout: float) -> PortInUseError:
        port, protocol, host = lease_of
        holder = self._holder(f"{protocol}-{port}")
        who = holder.describe() if holder else "a lease that changed hands meanwhile"
        return PortInUseError(
            port=port, protocol=protocol, host=host, holder=f"{who} (waited {timeout:g} s)"
        )

    def _guard_fixed(self, lease: PortLease) -> None:
        port, protocol, host = lease.port, lease.protocol, lease.host
        deadline = clock.now() + _GRACE
        while True:
            with self._explained():
                # A stranger on another address of ours (127.0.0.2) is no obstacle here.
                guard = port_guard.bind_guard(protocol, port, host) or port_guard.bind_guard(
                    protocol, port, host, wide=False
                )
                rows = [] if guard else port_guard.sockets_on(protocol, port)
                if port_guard.only_lingering(rows):
                    # The last turn's connections, in TIME_WAIT for a minute: servers that set
                    # SO_REUSEADDR bind beside them, and so do we.
                    guard = port_guard.bind_guard(protocol, port, host, reuse=True, wide=False)
            if guard is not None:
                if protocol == "udp":
                    guard.close()
                else:
                    lease.guard_with(guard)
                return
            owner = port_guard.owner_of(rows)
            if owner or clock.now() >= deadline:
                raise PortInUseError(
                    port=port, protocol=protocol, host=host, holder=owner or _SOMEBODY
                )
            clock.sleep(_POLL)

    def _only_read(self) -> bool:
        """Whether a port that seemed taken is held by nobody: it was just looked who holds it."""
        return not self._met <= {(info.port, info.protocol) for info in self.leases()}

    def _exhausted(self, count: int, protocol: str) -> NoReturn:
        wanted = _protocols(protocol)
        held = [info for info in self.leases() if info.protocol in wanted]
        raise refusal.exhausted(count, protocol, self._ports, held)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the system refuses into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise refusal.explain(error, self.directory, len(self._ledger.held)) from error

    def _forget_after_fork(self) -> None:
        for lease in self._ledger.held:
            lease.forget_after_fork()
        self._ledger.held = {lease for lease in self._ledger.held if lease.held}
        # Else parent and child would try the same candidates in the same order.
        self._next = self._random_start()

    def _random_start(self) -> int:
        # Apart from each other, so that processes seldom try the same candidate.
        return random.SystemRandom().randrange(len(self._ports))


def _protocols(protocol: str) -> tuple[str, ...]:
    if protocol == "both":
        return ("tcp", "udp")
    if protocol in ("tcp", "udp"):
        return (protocol,)
    raise SettingError(
        source="acquire", name="protocol", value=protocol, allowed="tcp, udp or both"
    )


def _before_fork() -> None:
    _taking.acquire()


def _after_fork_in_parent() -> None:
    _taking.release()


def _after_fork_in_child() -> None:
    for allocator in _allocators:
        allocator._forget_after_fork()  # noqa: SLF001 - a private part of this module
    _taking.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)

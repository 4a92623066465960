"""What we say to QEMU over QMP, on top of ``qemu.qmp``.

``qemu.qmp`` is asynchronous and tests are not, or have a loop of their own; so its loop runs in
one thread of this process. Source of the commands: QEMU's QMP reference manual.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from qemu.qmp import (
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    protocol,
)
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from pytest_vmports.errors import GuestSaidError, MonitorError
from pytest_vmports.system import clock, patience, sockets
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.said import malformed, shaped
from pytest_vmports.vm.qmp_answers import (
    WHO,
    DiskStats,
    Formats,
    Greeting,
    Migration,
    RunState,
    Set,
)
from pytest_vmports.vm.qmp_thread import FewEvents, FloodGuard, GuestResets, in_turn, run

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    _Way = Callable[[int], AbstractContextManager[str]]

# It asks whether what it is given is a `socket.socket`, in whose place tests put something else.
protocol.socket = sockets.module()  # type: ignore[attr-defined]

_CALL_SECONDS = 30.0
_LOOK_SECONDS = 0.002
# The QEMU that brought ``file:`` as a migration's address.
_FIRST_WITH_FILE = (8, 2)
# What this process has learned of a version: the kind of address to try first.
_learned: dict[tuple[int, int], str] = {}
_LAST_WORDS_SECONDS = 5.0
_LONGEST_REASON = 100
_LONGEST_REFUSAL = 2000
# Of questions whose answers nobody needs.
_LOOK_CALL_SECONDS = 2.0
# The better first: raw (from 8.2 on) is what readers open as it is, and all can write elf.
_DUMP_FORMATS = ("kdump-raw-zlib", "kdump-zlib", "elf")
# What the library's connect wraps of what QEMU said, and not of its hanging up.
_NO_GREETING = GreetingError, NegotiationError, ValueError, RecursionError


class Monitor:
    """A QMP connection over one end of a socket pair.

    Args:
        connection: our end; QEMU has inherited the other.

    Attributes:
        resets: counts those of the guest's own.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._client: QMPClient | None = None
        self._version = (0, 0)
        self._guard = FloodGuard()
        self._ends = FewEvents("SHUTDOWN")
        self._panics = FewEvents(("GUEST_PANICKED", "GUEST_CRASHLOADED"))
        self._refused = FewEvents("BLOCK_IO_ERROR")
        self.resets: GuestResets = GuestResets()

    def connect(self, timeout: float) -> bool:
        """Wait for QEMU's greeting and negotiate; False when QEMU hung up instead.

        QEMU answers the negotiation from its main loop, so afterwards everything on its command
        line has been carried out, forwards included.

        Raises:
            GuestSaidError: what it said is no greeting.
            TimeoutError: QEMU said nothing for ``timeout`` seconds.
        """
        try:
            run(self._connect(), timeout)
        except (QMPError, EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            why = getattr(error, "exc", None)
            if isinstance(why, _NO_GREETING):
                raise malformed(WHO, f"no greeting: {why}") from error
            return False
        return True

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return QEMU's answer to a QMP command.

        Raises:
            MonitorError: QEMU refused it or hung up.
        """
        return self._execute(command, _CALL_SECONDS, arguments)

    def _execute(self, command: str, seconds: float, arguments: Mapping[str, Any]) -> Any:
        if self._client is None:
            raise MonitorError(command=command, reply="the monitor is not connected")
        try:
            told = {name: _utf8(value) for name, value in arguments.items()}
            return run(self._client.execute(command, told or None), patience.left(seconds))
        except UnicodeError as error:
            raise MonitorError(command=command, reply=f"a path is no UTF-8 ({error})") from error
        except ExecuteError as error:
            raise MonitorError(command=command, reply=_brief(error)) from error
        except (QMPError, EOFError, OSError) as error:
            raise self._unanswered(command, error) from error

    def _unanswered(self, command: str, error: Exception) -> MonitorError:
        """Return what to raise for a command that has no answer."""
        gone = f"QEMU is gone or does not answer ({type(error).__name__})"
        heard_no_more = f"it is not listened to any more: {self._guard.tripped}"
        return MonitorError(command=command, reply=heard_no_more if self._guard.tripped else gone)

    def hmp(self, line: str) -> str:
        """Return the human monitor's reply to ``line``; a refusal is text too.

        Raises:
            MonitorError: QEMU hung up.
        """
        return self._hmp(line, _CALL_SECONDS)

    def registers(self) -> str:
        """Return the registers of the guest's processors, as a text for people.

        Raises:
            MonitorError: QEMU hung up, or does not answer at once.
        """
        return self._hmp("info registers -a", _LOOK_CALL_SECONDS)

    def _hmp(self, line: str, seconds: float) -> str:
        told = self._execute("human-monitor-command", seconds, {"command-line": line})
        return shaped(WHO, told, str)

    def disk_operations(self) -> list[tuple[int, int]]:
        """Return how often each of the guest's disks was read and written.

        Raises:
            MonitorError: as for `registers`.
        """
        told = self._execute("query-blockstats", _LOOK_CALL_SECONDS, {})
        stats = [one.stats for one in shaped(WHO, told, list[DiskStats])]
        return [(one.rd_operations, one.wr_operations) for one in stats]

    def run_state(self, seconds: float = _CALL_SECONDS) -> RunState:
        """Return whether the guest runs, and in what state its machine is.

        Args:
            seconds: how long the answer may take.

        Raises:
            MonitorError: QEMU hung up, or does not answer.
        """
        return shaped(WHO, self._execute("query-status", seconds, {}), RunState)

    @property
    def hung_up(self) -> bool:
        """Whether QEMU has closed the connection or said that it will, as it does when it ends."""
        client = self._client
        lost = client is not None and client.runstate is not Runstate.RUNNING
        return lost or bool(self._ends.history)

    def why_ended(self) -> str:
        """Return why a QEMU that has ended did, in its own word; empty where it said none.

        As ``guest-shutdown``, ``guest-reset``, ``host-signal`` (source: its QMP reference, event
        ``SHUTDOWN`` and type ``ShutdownCause``). Can be asked after `close` too.
        """
        client = self._client
        if client is not None and not self._ends.history:

            async def hear_all() -> None:
                while client.runstate is Runstate.RUNNING:
                    await client.runstate_changed()

            with contextlib.suppress(TimeoutError):
                run(hear_all(), patience.left(_LAST_WORDS_SECONDS))
        # An event without a reason tells none: its VM has ended in any case.
        told = [event.get("data") for event in self._ends.history]
        said = [one.get("reason") for one in told if isinstance(one, dict)]
        words = [one for one in said if isinstance(one, str)]
        return printable(" ".join(words[-1][:_LONGEST_REASON].split())) if words else ""

    @property
    def panicked(self) -> bool:
        """Whether the guest's kernel has told its device pvpanic of a panic, since QEMU started."""
        return bool(self._panics.history)

    @property
    def disk_full(self) -> bool:
        """Whether QEMU has paused the guest because the host took no more of what it writes.

        As it does when a disk's file cannot grow, and at no other error (source: its document on
        ``-drive``, ``werror``).
        """
        if not self._refused.history:
            return False
        with contextlib.suppress(MonitorError):
            return self.run_state(_LOOK_CALL_SECONDS).status == "io-error"
        return False

    def save(self, file: int, *, whole: bool = False) -> None:
        """Write the state of the stopped machine to an open file; its memory too if ``whole``.

        Raises:
            MonitorError: QEMU cannot save it, for instance because a device forbids migration.
        """
        self._migrate("migrate", file, whole=whole)
        # QEMU says that it has finished a moment before it lets the guest run on, and tells of that
        # by no event (migration_iteration_finish in its migration.c).
        deadline = clock.now() + _CALL_SECONDS
        while self.run_state().status == "finish-migrate":
            if clock.now() >= deadline:
                raise MonitorError(command="migrate", reply="it has not ended after it was written")
            clock.sleep(_LOOK_SECONDS)

    def load(self, file: int, *, whole: bool = False) -> None:
        """Load what `save` wrote into an open file, as it was saved, into a new machine.

        Raises:
            MonitorError: the state does not fit or is damaged.
        """
        self._migrate("migrate-incoming", file, whole=whole)

    def dump(self, file: int, seconds: float) -> None:
        """Write the guest's memory to an open file, compressed where this QEMU can.

        Args:
            file: a regular one.
            seconds: how long that may take.

        Raises:
            MonitorError: QEMU cannot, or has not ended in time.
        """
        told = self.execute("query-dump-guest-memory-capability")
        offered = shaped(WHO, told, Formats).formats
        fit = [one for one in _DUMP_FORMATS if one in offered]
        if not fit:
            raise MonitorError(
                command="dump-guest-memory", reply="it offers no format that is read"
            )
        self.give(file, "vmcore")
        arguments = {"paging": False, "protocol": "fd:vmcore", "format": fit[0]}
        self._execute("dump-guest-memory", seconds, arguments)

    def _migrate(self, command: str, file: int, *, whole: bool) -> None:
        states = {"x-ignore-shared": not whole, "events": True}
        wanted = [{"capability": name, "state": on} for name, on in states.items()]
        self.execute("migrate-set-capabilities", capabilities=wanted)
        replies = {}
        for kind, way in self._ways_to_a_file():
            try:
                with way(file) as uri:
                    self._migrate_by(command, uri)
                    _learned[self._version] = kind
                    return
            except _RefusedError as error:  # noqa: PERF203 - two ways at the most
                replies[kind] = f"{kind}: {error}"
        if command == "migrate-incoming":
            # A QEMU that has refused to load takes no other address any more (11.1: "Illegal
            # migration incoming state"), so the second way has yet to show what it is worth.
            _learned[self._version] = list(replies)[-1]
        raise MonitorError(command=command, reply="; ".join(replies.values()))

    def _ways_to_a_file(self) -> Sequence[tuple[str, _Way]]:
        """Return how to name an open file to this QEMU, the likelier way first.

        A descriptor, because QEMU's sandbox forbids ``exec:`` and the file is ours to choose.
        ``fd:`` takes a file in every version before 11, 10 calls that deprecated; ``file:`` came
        with 8.2 (source: QEMU's documents on migration and on removed features). A distribution's
        QEMU may differ from its number, so the other way is tried where one is refused.
        """
        likely = "file" if self._version >= _FIRST_WITH_FILE else "fd"
        likely = _learned.get(self._version, likely)
        ways: list[tuple[str, _Way]] = [("file", self._by_set), ("fd", self._by_name)]
        return sorted(ways, key=lambda way: way[0] != likely)

    @contextlib.contextmanager
    def _by_set(self, file: int) -> Iterator[str]:
        added = shaped(WHO, self._give(file, "add-fd"), Set).fdset
        try:
            yield f"file:/dev/fdset/{added}"
        finally:
            # Where QEMU has hung up, whoever asked is told so already.
            with contextlib.suppress(MonitorError):
                self.execute("remove-fd", **{"fdset-id": added})

    @contextlib.contextmanager
    def _by_name(self, file: int) -> Iterator[str]:
        self.give(file, "state")
        yield "fd:state"

    def _migrate_by(self, command: str, uri: str) -> None:
        try:
            status = run(self._migration(command, uri), _CALL_SECONDS)
        except ExecuteError as error:
            raise _RefusedError(_brief(error)) from error
        except (QMPError, EOFError, OSError) as error:
            raise self._unanswered(command, error) from error
        if status != "completed":
            raise MonitorError(command=command, reply=f"it ended as {printable(status)!r}")

    def give(self, descriptor: int, name: str) -> None:
        """Give QEMU a copy of an open descriptor, which it keeps under ``name``.

        Raises:
            MonitorError: QEMU hung up.
        """
        self._give(descriptor, "getfd", fdname=name)

    def give_and_hmp(self, descriptor: int, name: str, line: str) -> str:
        """Do as `give` and then `hmp`, and wait once; when it raises, both may be done."""
        return shaped(WHO, self._give(descriptor, "getfd", line, fdname=name), str)

    def _give(self, descriptor: int, command: str, line: str = "", /, **arguments: str) -> Any:
        async def send() -> Any:
            assert self._client is not None
            self._client.send_fd_scm(descriptor)
            ask = self._client.execute
            answers = [ask(command, arguments or None)]
            if line:  # QEMU takes one command after the other
                answers.append(ask("human-monitor-command", {"command-line": line}))
            return (await in_turn(*answers))[-1]

        try:
            return run(send(), patience.left(_CALL_SECONDS))
        except ExecuteError as error:
            raise MonitorError(command=command, reply=_brief(error)) from error
        except (QMPError, EOFError, OSError) as error:
            raise self._unanswered(command, error) from error

    async def _migration(self, command: str, uri: str) -> str:
        assert self._client is not None
        with self._client.listener("MIGRATION") as events:
            await self._client.execute(command, {"uri": uri})
            async for event in events:
                status = shaped(WHO, event.get("data"), Migration).status
                if status in {"completed", "failed", "cancelled"}:
                    return status
        return "unfinished"

    def close(self) -> None:
        """Hang up. Safe to call again."""
        client, self._client = self._client, None
        if client is not None:
            # QEMU may have been killed with an answer under way, which is no news here.
            with contextlib.suppress(QMPError, EOFError, OSError, GuestSaidError):
                run(client.disconnect(), _CALL_SECONDS)
        self._connection.close()

    async def _connect(self) -> None:
        client = QMPClient("vmports")
        # Death is found out and told in full by the machine; the library would log it as critical.
        client.logger.setLevel("CRITICAL")
        client.events.event_filter = self._guard
        for listener in (self._ends, self._panics, self._refused, self.resets):
            client.register_listener(listener)
        await client.connect(self._connection)
        self._client = client
        assert client.greeting is not None
        qemu = shaped(WHO, client.greeting.QMP.version, Greeting).qemu
        self._version = (qemu.major, qemu.minor)


class _RefusedError(Exception):
    """QEMU does not take a migration's address; nothing has happened yet."""


def _brief(error: Exception) -> str:
    """Return what QEMU's refusal says; a guest that owns it may have it say millions of letters."""
    return str(error)[:_LONGEST_REFUSAL]


def _utf8(value: Any) -> Any:
    """Return a text as QMP takes it: of a path's bytes that the locale has no characters for.

    Raises:
        UnicodeDecodeError: they are no UTF-8.
    """
    return as_bytes(value).decode() if isinstance(value, str) and not value.isascii() else value

"""Where a child asks before its sockets reach anything: bind, listen and connect are made by us.

A filter of seccomp, put on the thread that starts the child, holds each such call and tells us. We
read the address once, ask a policy, and make the call ourselves on a copy of the child's socket, so
nothing that the child changes meanwhile counts. Without us, in a VM that was kept, such a call
fails with ENOSYS: the gate stays closed.

What is sent by a socket is not looked at, unless ``sendto`` is among the calls: then we send what
has an address, and what hides its address in a message (sendmsg) does not pass at all.

Sources: seccomp_unotify(2), pidfd_getfd(2), process_vm_readv(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from select import POLLIN, poll
from subprocess import DEVNULL
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from pytest_vmports.system import calls, foreign, libc, seccomp, sockets, tools
from pytest_vmports.system.probing import is_of_the_host, stopped

if TYPE_CHECKING:
    from collections.abc import Callable

# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, ip and six arguments.
_CALL, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_RECEIVE, _SEND, _STILL_THERE = 0xC0502100, 0xC0182101, 0x40082102
# What is asked of a socket, and not of an address that is named.
_BY_SOCKET = {"listen", "sendto"}
_LONGEST_DATAGRAM = 0xFFFF
# Each waits in a thread of ours; who asks so often asks by Go, which never waits, or means harm.
_MOST_WAITING = 64
# The trial's: an answer that nobody but we would give.
_OURS = errno.EXDEV


@dataclass(frozen=True)
class Asked:
    """A call that a child wants to make.

    Attributes:
        call: ``bind``, ``listen``, ``connect`` or ``sendto``.
        address: what a ``bind`` or ``connect`` names, or what the socket is bound to: ``(host,
            port)``, the bytes of a Unix socket's path, or None for anything else.
        protocol: ``tcp``, ``udp``, ``unix``, or another one's name or number.
        bound: what the socket is bound to, likewise.
    """

    call: str
    address: tuple[str, int] | bytes | None
    protocol: str
    bound: tuple[str, int] | bytes | None = None


class Gate:
    """One child's.

    Args:
        decide: is asked of each call, in a thread of ours; returns 0 to have it made, an errno to
            refuse it, or, of a ``connect``, the address of ours to connect to instead. What it
            raises refuses that call.
        held: which calls are; the others are made without us.
        sandboxes: the child puts itself into a sandbox of its own, and is let.
    """

    def __init__(
        self,
        decide: Callable[[Asked], int | tuple[str, int]],
        held: tuple[str, ...] = ("bind", "listen", "connect"),
        *,
        sandboxes: bool = False,
    ) -> None:
        self._decide = decide
        self._calls, self._sandboxes = held, sandboxes
        self._listener = -1
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def put_up(self) -> None:
        """Hold the calls of this thread and of what it starts from now on.

        Raises:
            OSError: the kernel, or a container, has no such filters, or refuses.
        """
        unseen = ("sendmsg", "sendmmsg") if "sendto" in self._calls else ()
        self._listener = seccomp.install(
            seccomp.program(self._calls, unseen, sandboxes=self._sandboxes),
            sandboxes=self._sandboxes,
        )
        _listeners.add(self._listener)

    def mind(self, pidfd: int) -> None:
        """Answer a child's calls from now on, until it ends.

        Args:
            pidfd: the child's; the caller's own, which may be closed once the child has ended.

        Raises:
            OSError: we may open no descriptor more.
            RuntimeError: we may start no thread more.
        """
        listener, copy = self._listener, os.dup(pidfd)
        thread = Thread(target=self._serve, args=(listener, copy), name="vmports-gate", daemon=True)
        try:
            thread.start()
        except BaseException:
            os.close(copy)
            raise
        self._listener = -1

    def close(self) -> None:
        """Have the held calls of whoever there is fail, where nobody minds them."""
        listener, self._listener = self._listener, -1
        _close(listener)

    def _serve(self, listener: int, pidfd: int) -> None:
        waiting = poll()
        waiting.register(listener, POLLIN)
        try:
            while all(events & POLLIN for _, events in waiting.poll()):
                self._answer_one(listener, pidfd)
        finally:
            # Whatever ended us: what is held, and what comes later, fails at once.
            _close(listener)
            os.close(pidfd)

    def _answer_one(self, listener: int, pidfd: int) -> None:
        told = bytearray(_CALL.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, told)
        except OSError as error:
            # Whoever asked was killed meanwhile, or a signal came to us.
            if error.errno in {errno.ENOENT, errno.EINTR}:
                return
            raise
        number, thread, _, call, _, _, *arguments = _CALL.unpack(told)
        name = next(one for one in self._calls if calls.number(one) == call)
        try:
            copy = foreign.fetch(pidfd, arguments[0] & 0xFFFFFFFF)
        except OSError as error:
            _tell(listener, number, -(error.errno or errno.EPERM))
            return
        held = _Held(number, thread, name, arguments, copy)
        may_wait = name == "connect" and os.get_blocking(copy.fileno())
        if may_wait and not self._waiting.acquire(blocking=False):
            copy.close()
            _tell(listener, number, -errno.EAGAIN)
        elif not (may_wait and self._begin(held, listener)):
            self._answer(held, listener)

    def _begin(self, held: _Held, listener: int) -> bool:
        """Answer in another thread what may take long, as others would wait for it here."""
        try:
            own = os.dup(listener)
        except OSError:  # too many are open: better late than refused
            self._waiting.release()
            return False
        _listeners.add(own)

        def answer() -> None:
            try:
                self._answer(held, own)
            finally:
                self._waiting.release()
                _close(own)

        try:
            Thread(target=answer, name="vmports-connect", daemon=True).start()
        except RuntimeError:  # too many threads, likewise
            self._waiting.release()
            _close(own)
            return False
        return True

    def _answer(self, held: _Held, listener: int) -> None:
        answer = -errno.EACCES
        try:
            with held.copy:
                answer = self._make(held, listener)
        except Exception:  # noqa: BLE001 - whatever a policy raises: told as any thread's error
            threading.excepthook(
                threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()])
            )
        finally:
            _tell(listener, held.number, answer)

    def _make(self, held: _Held, listener: int) -> int:
        """Return what the child is told: what the call answered, or an errno below zero."""
        arguments = held.arguments
        try:
            bound = foreign.bound(held.copy)
            address = bound if held.name in _BY_SOCKET else _named(held, 1)
            given = _sent(held) if held.name == "sendto" else b""
            to = _named(held, 4) if held.name == "sendto" else address
            # It may have been another's memory, that got the number of a thread that has ended.
            fcntl.ioctl(listener, _STILL_THERE, struct.pack("=Q", held.number))
        except OSError as error:
            return -(error.errno or errno.EFAULT)
        where, protocol = foreign.parsed(address), foreign.protocol(held.copy)
        verdict = self._decide(Asked(held.name, where, protocol, foreign.parsed(bound)))
        if isinstance(verdict, tuple):
            to = foreign.packed(verdict, held.copy)
        elif verdict != 0:
            return -int(verdict)
        number = held.copy.fileno()
        try:
            if held.name == "listen":
                return libc.call("listen", number, arguments[1] & 0x7FFFFFFF)
            if held.name == "sendto":
                # Of its flags none: one would have the kernel read our memory when it is another's.
                flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                return libc.call("sendto", number, given, len(given), flags, to, len(to))
            return libc.call(held.name, number, to, len(to))
        except OSError as error:
            return -(error.errno or errno.EPERM)


class _Held(NamedTuple):
    """A call that waits for its answer."""

    number: int
    thread: int
    name: str
    arguments: list[int]
    copy: socket.socket


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Return why there can be no gate here; None where there can. Tried, not guessed."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has none"
    if not calls.known() or sys.maxsize < 1 << 32:
        return f"it does not know the system calls of {platform.machine()}"
    try:
        _try_on_ourselves()
        _try_on_a_child()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "whoever started us has such a filter, and there can be one alone (EBUSY)"
        if is_of_the_host(error):  # of a limit that passes nothing follows for the whole run
            raise stopped("cat", error) from error
        return f"this host does not let us: {error}"
    return None


def _try_on_ourselves() -> None:
    """Have a thread of ours held, and answer it.

    Raises:
        OSError: that cannot be done.
    """
    gate = Gate(lambda _asked: _OURS, ("listen",))
    pidfd = os.pidfd_open(os.getpid())
    try:
        with sockets.Socket() as trial, ThreadPoolExecutor(1, "vmports-trial") as held:
            try:
                held.submit(gate.put_up).result()
                gate.mind(pidfd)
                held.submit(trial.listen).result()
            except OSError as error:
                if error.errno != _OURS:
                    raise
            else:
                raise OSError(errno.EPERM, "a call was not held")
            finally:
                gate.close()
    finally:
        os.close(pidfd)


def _try_on_a_child() -> None:
    """Fetch a socket of a child's, and read its memory.

    Raises:
        OSError: we may not.
    """
    ours, childs = sockets.pair()
    with ours, childs:
        child = tools.start(["cat"], stdin=childs.fileno(), stdout=DEVNULL)
        childs.close()
        try:
            pidfd = os.pidfd_open(child.pid)
            try:
                foreign.fetch(pidfd, 0).close()
            finally:
                os.close(pidfd)
            try:
                foreign.memory(child.pid, 0, 1)
            except OSError as error:
                if error.errno != errno.EFAULT:  # there is nothing, but we might look
                    raise
        finally:
            ours.close()
            child.wait()


def _tell(listener: int, number: int, answer: int) -> None:
    value, error = max(answer, 0), min(answer, 0)
    with contextlib.suppress(FileNotFoundError):  # whoever asked was killed meanwhile
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, value, error, 0))


def _close(listener: int) -> None:
    if listener in _listeners:
        _listeners.discard(listener)
        os.close(listener)


def _forget() -> None:
    """Close what a forked child has of ours, or calls that we leave behind would wait for it."""
    for listener in _listeners:
        os.close(listener)
    _listeners.clear()


def _named(held: _Held, at: int) -> bytes:
    """Return the bytes of the address that a call names by this argument and the next.

    Raises:
        OSError: there are none.
    """
    size = held.arguments[at + 1] & 0xFFFFFFFF
    if size > foreign.LONGEST_ADDRESS:
        raise OSError(errno.EINVAL, "no address is so long")
    return foreign.memory(held.thread, held.arguments[at], size)


def _sent(held: _Held) -> bytes:
    """Return what is to be sent.

    Raises:
        OSError: it is not there, or longer than any datagram.
    """
    if held.arguments[2] > _LONGEST_DATAGRAM:
        raise OSError(errno.EMSGSIZE, "no datagram is so long")
    return foreign.memory(held.thread, held.arguments[1], held.arguments[2])


# Those of this process; a forked child's are its parent's.
_listeners: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""Commands in a guest through the QEMU guest agent, which needs no network.

Source: QEMU's ``qga/qapi-schema.json``. One JSON value a line, over a virtio serial port.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import threading
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import CommandTimeoutError, GuestShellError
from pytest_vmports.system import clock, patience
from pytest_vmports.system.poll import readable
from pytest_vmports.vm.arguments import short_enough

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_CALL_SECONDS = 30.0
_SYNC_AGAIN_SECONDS = 5.0
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.02, 0.2
_SIGNALLED = 128
# A session of its own, so that a timeout can end the children too.
# It may have been started without a home.
_WRAPPER = """\
export HOME="${HOME:-/root}"
command -v setsid >/dev/null && exec setsid /bin/sh -c "$0"; exec /bin/sh -c "$0"
"""
_KILL = 'kill -KILL "-$0" 2>/dev/null || kill -KILL "$0"'


class GuestAgent:
    """Our end of the agent's channel.

    Args:
        connection: our end of the socket pair that QEMU connects to the guest's port.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = b""
        self._one_at_a_time = threading.Lock()
        self._numbers = itertools.count(int(clock.now() * 1e9))

    def answers(self, deadline: float, check: Callable[[], None] = lambda: None) -> bool:
        """Whether the agent has answered before ``deadline``, a `clock.now` value.

        Args:
            deadline: when to give up.
            check: called often; raises when waiting has become pointless.

        Raises:
            OSError: QEMU hung up.
        """
        sent = set()
        deadline = clock.now() + patience.left(deadline - clock.now())
        while (now := clock.now()) < deadline:
            # What was sent before the agent ran may be lost: the guest drops it.
            number = next(self._numbers)
            sent.add(number)
            # The byte makes the agent forget half a message of before.
            self._send(b"\xff" + _message("guest-sync-delimited", id=number))
            until = min(deadline, now + _SYNC_AGAIN_SECONDS)
            while (line := self._line(until, check)) is not None:
                # Its answer begins with the same byte, after which the stream is ours again.
                _, found, rest = line.rpartition(b"\xff")
                if found and json.loads(rest).get("return") in sent:
                    return True
        return False

    def run(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | None = None,  # noqa: A002
        most: int | None = None,  # noqa: ARG002 - protocol
    ) -> tuple[int, bytes, bytes]:
        """Return the exit status, output and errors of a shell text, run as root.

        A command ended by signal N has the status 128 + N, as a shell tells it.

        Args:
            command: a text for the guest's ``/bin/sh``.
            timeout: seconds; None waits without end.
            input: what the command reads; None for nothing.
            most: bytes that are wanted of what it writes; the agent keeps 16 MiB in any case.

        Raises:
            CommandTimeoutError: it had not ended in time and was killed, its children with it.
            GuestShellError: the agent does not answer, forbids commands, or cut the output short.
            ValueError: no shell could be given it.
        """
        text = _in_unicode(command)
        short_enough(text)
        with self._one_at_a_time:
            if not self.answers(clock.now() + _CALL_SECONDS):
                raise self._refused("it does not answer")
            deadline = None if timeout is None else clock.now() + timeout
            pid = self._start(_WRAPPER, text, input or b"")
            try:
                status = self._status(pid, deadline)
            except BaseException:  # as by Ctrl-C; the next command passes over the answer
                with contextlib.suppress(OSError):
                    self._send(_execution(_KILL, str(pid), b""))
                raise
            if status is None:
                self._start(_KILL, str(pid), b"")
                status = self._ended(pid)
                raise CommandTimeoutError(
                    cmd=command, timeout=timeout, output=_data(status, "out"),
                    stderr=_data(status, "err"),
                )  # fmt: skip
        if status.get("out-truncated") or status.get("err-truncated"):
            raise self._refused(
                "the output was longer than it keeps", "write it to a file, or use ssh"
            )
        code = status.get("exitcode", _SIGNALLED + status.get("signal", 0))
        return code, _data(status, "out"), _data(status, "err")

    def close(self) -> None:
        """Hang up. Safe to call again."""
        self._connection.close()

    def _start(self, script: str, word: str, stdin: bytes) -> int:
        return int(self._answer("guest-exec", _execution(script, word, stdin))["pid"])

    def _status(self, pid: int, deadline: float | None) -> dict[str, Any] | None:
        """Return how a command ended; None at the deadline."""
        look = _FIRST_LOOK_SECONDS
        while not (status := self._call("guest-exec-status", pid=pid))["exited"]:
            if deadline is not None and clock.now() >= deadline:
                return None
            clock.sleep(look)  # the agent tells of no end by itself
            look = min(2 * look, _LOOK_SECONDS)
        return status

    def _ended(self, pid: int) -> dict[str, Any]:
        deadline = clock.now() + _CALL_SECONDS
        while True:
            status = self._call("guest-exec-status", pid=pid)
            if status["exited"]:
                return status
            if clock.now() >= deadline:
                raise self._refused(f"process {pid} is still there after SIGKILL")
            clock.sleep(_LOOK_SECONDS)

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self._answer(name, _message(name, **arguments))

    def _answer(self, name: str, message: bytes) -> dict[str, Any]:
        self._send(message)
        line = self._line(clock.now() + _CALL_SECONDS, lambda: None)
        if line is None:
            raise self._refused(f"no answer to {name} within {_CALL_SECONDS:g} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._refused(
                f"{name}: {answer['error'].get('desc', answer['error'])}",
                "allow it in the guest's qemu-ga.conf (block-rpcs, allow-rpcs), or use ssh",
            )
        found: dict[str, Any] = answer["return"]
        return found

    def _send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def _line(self, deadline: float, check: Callable[[], None]) -> bytes | None:
        """Return the next line; None at the deadline."""
        while b"\n" not in self._unread:
            left = patience.left(deadline - clock.now())
            if left <= 0:
                return None
            ready = readable([self._connection], min(left, 1.0))
            check()
            if ready:
                data = self._connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError("QEMU closed the guest agent's channel")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    @staticmethod
    def _refused(
        detail: str, remedy: str = "the image needs qemu-guest-agent, and it has to run"
    ) -> GuestShellError:
        return GuestShellError(means="the QEMU guest agent", detail=detail, remedy=remedy)


def _message(name: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


def _execution(script: str, word: str, stdin: bytes) -> bytes:
    return _message(
        "guest-exec",
        **{
            "path": "/bin/sh", "arg": ["-c", script, word], "capture-output": True,
            "input-data": base64.b64encode(stdin).decode(),
        },
    )  # fmt: skip


def _in_unicode(command: str) -> str:
    """Return a shell text that does the same and has a JSON form, which bytes have not."""
    raw = command.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        octal = "".join(f"\\{byte:03o}" for byte in raw)
        return f"eval \"$(printf '{octal}')\""


def _data(status: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(status.get(f"{name}-data", ""))

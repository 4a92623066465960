"""Commands and files in the guest, whatever way leads into it."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from pytest_vmports.errors import (
    CommandFailedError,
    CommandTimeoutError,
    GuestFileError,
    MachineError,
)
from pytest_vmports.system import clock
from pytest_vmports.vm.inside.control import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vmports.vm.inside.control import Control

_ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
# A killed command's guest may be busy, but its agent answers.
_AFTER_KILL = 30.0
_SHOWN = 2000
# Linux takes no longer argument (MAX_ARG_STRLEN); the shell is given the command as one.
_LONGEST = 128 * 1024


class Shell(Protocol):
    """A way into a guest."""

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes,  # noqa: A002 - as subprocess
    ) -> tuple[int | None, bytes, bytes]:
        """Return exit status, output and error output of a shell command.

        Status None: it had not ended after ``timeout`` seconds, and was killed in the guest.
        """


class Completed(subprocess.CompletedProcess[str]):
    """What a command in the guest came to: ``args``, ``returncode``, ``stdout``, ``stderr``.

    The texts are UTF-8; bytes that are not come back from ``stdout_bytes`` as they were.
    """

    @property
    def stdout_bytes(self) -> bytes:
        """The output as it was."""
        return self.stdout.encode("utf-8", "surrogateescape")

    @property
    def stderr_bytes(self) -> bytes:
        """The error output as it was."""
        return self.stderr.encode("utf-8", "surrogateescape")


class AgentShell:
    """The agent of a guest we prepared, on the control channel.

    Args:
        control: the channel.
        check: raises when a process of the VM has ended.
    """

    def __init__(self, control: Control, check: Callable[[], None]) -> None:
        self._control = control
        self._check = check
        self._one_at_a_time = threading.Lock()

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes,  # noqa: A002 - as subprocess
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command; see `Shell`.

        Raises:
            MachineError: the VM ended, or the agent did.
        """
        variables = (f"{name}={value}" for name, value in _ENVIRONMENT.items())
        words = ["/", *variables, "", "/bin/sh", "-c", command]
        text = "".join(f"{word}\0" for word in words).encode("utf-8", "surrogateescape")
        with self._one_at_a_time:
            return _Run(self._control, self._check, timeout).go(text, input)


class CommandRunner(Protocol):
    """Another way into a guest: ssh, or the QEMU guest agent."""

    def run(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | None = None,  # noqa: A002
    ) -> tuple[int, bytes, bytes]:
        """Return exit status, output and error output; raise `CommandTimeoutError`."""


class RunnerShell:
    """A `Shell` by ssh or the QEMU guest agent."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes,  # noqa: A002 - as subprocess
    ) -> tuple[int | None, bytes, bytes]:
        """Return what came of a command; see `Shell`.

        Raises:
            GuestShellError: it cannot be run.
        """
        try:
            return self._runner.run(command, timeout=timeout, input=input)
        except CommandTimeoutError as error:
            return None, error.output or b"", error.stderr or b""


class _Run:
    """One command's frames, there and back."""

    def __init__(self, control: Control, check: Callable[[], None], timeout: float | None) -> None:
        self._control = control
        self._check = check
        self._deadline = None if timeout is None else clock.now() + timeout
        self._output: dict[str, list[bytes]] = {"O": [], "E": []}
        self._status: int | None = None
        self._killed = False

    def go(self, text: bytes, given: bytes) -> tuple[int | None, bytes, bytes]:
        for at in range(0, len(text), LARGEST):
            self._send("s" if at else "S", text[at : at + LARGEST])
        self._control.send("X")
        for at in range(0, len(given), LARGEST):
            if self._status is None:
                self._send("I", given[at : at + LARGEST])
        if self._status is None:
            self._control.send("i")
        while self._status is None:
            self._receive()
        output, errors = (b"".join(self._output[kind]) for kind in "OE")
        code = None if self._killed else os.waitstatus_to_exitcode(self._status)
        return code, output, errors

    def _send(self, kind: str, payload: bytes) -> None:
        """Send and wait until it was consumed, or the command has ended."""
        self._control.send(kind, payload)
        while self._receive() != "A":
            pass

    def _receive(self) -> str:
        frame = self._control.receive(self._deadline, self._check)
        if frame is None:
            if self._killed:
                raise MachineError("the guest's agent does not answer any more")
            self._control.send("K")
            self._killed = True
            self._deadline = clock.now() + _AFTER_KILL
            return ""
        kind, payload = frame
        if kind == "X":
            self._status = int(payload)
        elif kind == "V":
            raise MachineError(
                "the guest's agent ended and was started anew, as when the guest runs out of "
                "memory; what became of the command is not known"
            )
        elif kind in self._output:
            self._output[kind].append(payload)
        return kind


def run(
    shell: Shell,
    command: str,
    *,
    timeout: float | None,
    check: bool,
    input: str | bytes | None,  # noqa: A002 - as subprocess
    env: Mapping[str, str] | None,
    cwd: str | None,
) -> Completed:
    """Run a shell command; see `VM.run`."""
    if len(command.encode("utf-8", "surrogateescape")) >= _LONGEST:
        raise ValueError("the command is longer than 128 KiB: put a script and run that")
    given = input.encode() if isinstance(input, str) else input or b""
    whole = ""
    for name, value in (env or {}).items():
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(f"{name!r} is no name of an environment variable")
        whole += f"export {name}={shlex.quote(value)}\n"
    if cwd is not None:
        whole += f"cd {shlex.quote(cwd)} || exit\n"
    got = shell.execute(whole + command, timeout=timeout, input=given)
    code, *written = got
    texts = [data.decode("utf-8", "surrogateescape") for data in written]
    if code is None:
        assert timeout is not None
        raise CommandTimeoutError(cmd=command, timeout=timeout, output=texts[0], stderr=texts[1])
    done = Completed(command, code, *texts)
    if check and code:
        raise CommandFailedError(
            cmd=command, returncode=code, output=done.stdout, stderr=done.stderr,
            said=_end_of(done.stderr or done.stdout),
        )  # fmt: skip
    return done


def put(shell: Shell, source: Path, target: str, timeout: float | None) -> None:
    """Copy a file or folder into the guest; see `VM.put`."""
    if not source.exists():
        raise GuestFileError(what=f"there is no {source} on the host", remedy="name what exists")
    place = shlex.quote(target)
    # Into a folder that is there, as cp does; else under a new name.
    look = f"""
        case {place} in */) mkdir -p {place};; *) mkdir -p "$(dirname {place})";; esac || exit
        [ ! -d {place} ] || echo folder"""
    looked = _plain(shell, look, timeout)
    _copied(looked, f"{source} to {target}")
    into = PurePosixPath(target)
    if looked.stdout:
        into /= source.resolve().name
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(source.resolve(), into.name, filter=_as_root)
    unpack = f"exec tar -xf - -C {shlex.quote(str(into.parent))}"
    _copied(_plain(shell, unpack, timeout, packed.getvalue()), f"{source} to {target}")


def get(shell: Shell, source: str, target: Path, timeout: float | None) -> Path:
    """Copy a file or folder out of the guest; see `VM.get`."""
    path = PurePosixPath(source)
    if not path.name:
        raise GuestFileError(what=f"{source!r} names no file", remedy="name a file or folder")
    # Links are followed: where they lead exists in the guest alone.
    pack = f"exec tar -chf - -C {shlex.quote(str(path.parent))} {shlex.quote(path.name)}"
    done = _plain(shell, pack, timeout)
    _copied(done, f"{source} from the guest")
    place = target / path.name if target.is_dir() else target
    try:
        with tarfile.open(fileobj=io.BytesIO(done.stdout_bytes)) as archive:
            _unpack(archive, path.name, place)
    except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
        raise GuestFileError(
            what=f"what the guest's tar sent of {source} is no archive of it: {error}",
            remedy="see what tar is in the guest",
        ) from error
    return place


def _unpack(archive: tarfile.TarFile, name: str, place: Path) -> None:
    """Write what the archive has below ``name`` to ``place``, and nothing outside of it."""
    for member in archive:
        inside = PurePosixPath(member.name).relative_to(name)
        if ".." in inside.parts:
            raise GuestFileError(what=f"{member.name} leads out of {name}", remedy="name it alone")
        path = place / inside
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.isfile() or member.islnk():  # a second name of a file is a copy here
            content = archive.extractfile(member)
            assert content is not None
            path.write_bytes(content.read())
            path.chmod(member.mode & 0o777)


def _plain(
    shell: Shell, command: str, timeout: float | None, given: bytes | None = None
) -> Completed:
    return run(shell, command, timeout=timeout, check=False, input=given, env=None, cwd=None)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _copied(done: Completed, what: str) -> None:
    if done.returncode:
        said = _end_of(done.stderr)
        raise GuestFileError(what=f"{what} could not be copied: {said}", remedy="see what it says")


def _end_of(text: str) -> str:
    return text.strip()[-_SHOWN:] or "(nothing)"

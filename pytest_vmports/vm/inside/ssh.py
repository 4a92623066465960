"""Commands in a guest through the system's ``ssh``, with a key of this session."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

from pytest_vmports.errors import CommandTimeoutError, GuestShellError, HostError, MachineError
from pytest_vmports.system import surroundings, tools
from pytest_vmports.system.growing import read_text
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.patience import Limit
from pytest_vmports.system.probing import ask, is_of_the_host, stopped
from pytest_vmports.system.programs import install_hint
from pytest_vmports.system.said import malformed
from pytest_vmports.vm.arguments import short_enough
from pytest_vmports.vm.inside.shell import KILLED, kept_at_most
from pytest_vmports.vm.inside.ssh_login import NotOpenInTime, SharedLogin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_vmports.models import ExposedPort
    from pytest_vmports.vm.inside.shell import Sink

HOST = "vm"
_KNOWN_HOSTS, _USER = "known_hosts", "root"
CONFIG = "ssh_config"
"""Name of the client's configuration in a VM's private folder."""
_KEY_SECONDS = 30.0
_KILL_SECONDS = 30.0
_CONNECT_SECONDS = 20
_LONGEST_LOG = 64 << 10
_CLIENT_FAILED, _DIGITS, _MOST = 255, 3, 255
_STATUS = re.compile(rb"[0-9]{3}")
# What a client says whose session the guest refuses, as more than its sshd's MaxSessions, or those
# that programs hold which commands have left in the background (source: OpenSSH's mux.c).
_FULL = "session request failed"
# sshd keeps a session open as long as anything holds its output, also what runs on in the
# background. So the end of both is marked, and what is written later goes nowhere, by a second cat:
# a pipe without a reader would kill who writes to it. A shell's own word on a signal is not wanted.
_WRAPPER = """\
(umask 077; echo $$ >{note})
pass() {{ cat; exec cat >/dev/null; }}
{{ {{
    exec 4>&2 2>/dev/null
    (exec /bin/sh -c {command} 2>&4 4>&-); c=$?; rm -f {note}
    printf %03d%s "$c" {mark}; printf %s {mark} >&4
}} 2>&1 1>&3 3>&- | pass >&2 3>&-; }} 3>&1 | pass
"""


def session_key(folder: Path) -> Path:
    """Return the private key of this process, made below ``folder`` when first asked for.

    Raises:
        HostError: there is no ``ssh-keygen``.
    """
    key = folder / "ssh_key"
    if not key.exists():
        part = folder / "ssh_key.part"
        make = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "pytest-vmports"]
        answer = ask([*make, "-f", str(part)], timeout=_KEY_SECONDS)
        if answer.code:
            raise HostError(f"ssh-keygen made no key: {answer.text.strip()}; look at {folder}")
        part.with_suffix(".part.pub").replace(public_half(key))
        part.replace(key)
    return key


def public_half(key: Path) -> Path:
    """Return where the public half of a key is."""
    return key.with_name(f"{key.name}.pub")


def copy_key(key: Path, target: Path) -> None:
    """Copy both halves of a key.

    Raises:
        OSError: one cannot be copied.
    """
    for source, copy in ((key, target), (public_half(key), public_half(target))):
        copy.touch(mode=0o600)
        shutil.copyfile(source, copy)


class SshShell:
    """Runs commands as root in one guest.

    Args:
        port: the forward of the guest's port 22.
        key: the private key that the guest accepts.
        folder: private folder of the VM, for the guest's host key.
    """

    def __init__(self, port: ExposedPort, key: Path, folder: Path) -> None:
        self._port = port
        self._key = key
        self._folder = folder
        hosts = folder / _KNOWN_HOSTS
        self._login = SharedLogin(folder, (key, public_half(key), folder / CONFIG), (hosts,))

    def begin_anew(self) -> None:
        """End the connection that commands share, whose guest has rebooted."""
        self._login.begin_anew()

    def redirect(self, port: ExposedPort) -> None:
        """Go by another forward from now on; the connection that commands share is ended.

        While it lived its host port could be nobody else's.
        """
        self._port = port
        self._login.begin_anew()

    def close(self) -> None:
        """End the login that commands share. Safe to call again."""
        self._login.close()

    def moved(self, key: Path, folder: Path) -> SshShell:
        """Return the same for a VM whose files are in another folder now, its key among them."""
        return SshShell(self._port, key, folder)

    def run(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes] | None = None,  # noqa: A002
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int, bytes, bytes]:
        """Return the exit status, output and errors of a shell text.

        Args:
            command: a text for the guest's ``/bin/sh``.
            timeout: seconds; None waits without end.
            input: what the command reads, chunks one by one; None for nothing.
            sink: is given what it writes, as it comes.
            most: bytes that it may write before it is killed; of no more than some are kept.
            per_progress: ``timeout`` is the longest time in which nothing goes on.

        Raises:
            CommandTimeoutError: it had not ended in time and was killed, its children with it.
            GuestShellError: the guest does not answer, or refuses the key.
            HostError: there is no ``ssh``.
        """
        most = kept_at_most(sink, most)
        # sshd gives each command a session of its own, with its first process's number.
        note = f"/tmp/.vmports-{secrets.token_hex(8)}"  # noqa: S108 - in the guest
        mark = secrets.token_hex(16)
        halves = f"{mark[:16]}''{mark[16:]}"  # so that ps in the guest does not show it
        whole = _WRAPPER.format(note=note, command=shlex.quote(command), mark=halves)
        short_enough(whole)
        try:
            done = self._ssh(
                whole, timeout, input, mark.encode(), sink=sink, most=most,
                per_progress=per_progress,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            if not isinstance(error, NotOpenInTime):
                self._kill(note)
            raise CommandTimeoutError(
                cmd=command, timeout=timeout, output=error.stdout or b"", stderr=error.stderr or b""
            ) from None
        except GuestShellError:
            raise
        except MachineError:  # of the sink, which wants no more
            self._kill(note)
            raise
        code, *written = self._came_of(done, mark.encode(), note, most)
        if sink is None:
            return code, written[0], written[1]
        sink.err(written[1])
        sink.out(written[0])
        return code, b"", b""

    def _came_of(
        self, done: subprocess.CompletedProcess[bytes], mark: bytes, note: str, most: int | None
    ) -> tuple[int, bytes, bytes]:
        """Return status, output and errors of a command that is over, or has said too much."""
        output, marked, _ = done.stdout.partition(mark)
        errors = done.stderr.partition(mark)[0]
        if most is not None and len(output) + len(errors) > most + _DIGITS:
            if not marked:
                self._kill(note)
            return KILLED, output, errors
        if marked:
            return status_at_the_end(output), output[:-_DIGITS], errors
        return done.returncode, output, errors  # not even sh has come to its end

    def write_config(self, path: Path) -> Path:
        """Write a configuration for ``ssh -F``, testinfra or Ansible; the host is called ``vm``.

        Raises:
            OSError: the file cannot be written.
        """
        lines = [f"Host {HOST}", *(f"{key} {value}" for key, value in self._options())]
        path.write_bytes(as_bytes("\n  ".join([*lines, ""])))
        path.chmod(0o600)
        return path

    def _options(self) -> list[tuple[str, str]]:
        return [
            ("HostName", self._port.host),
            ("Port", str(self._port.external)),
            ("User", _USER),
            ("IdentityFile", _word(self._key)),
            ("IdentitiesOnly", "yes"),
            ("BatchMode", "yes"),
            # The first answer's key is remembered for this VM alone.
            ("StrictHostKeyChecking", "accept-new"),
            ("UserKnownHostsFile", _word(self._folder / _KNOWN_HOSTS)),
            ("HostKeyAlias", f"vmports-{HOST}"),
            ("ConnectTimeout", str(_CONNECT_SECONDS)),
        ]

    def _ssh(
        self,
        command: str,
        timeout: float | None,
        stdin: bytes | Iterable[bytes] | None,
        mark: bytes = b"",
        *,
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
        share: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        client, limit = self._client(), Limit(timeout)
        shared = self._login.connection(client, HOST, limit) if share else None
        # A log of its own: what the client itself says must not mix with the command's errors.
        log = self._folder / f"ssh-{secrets.token_hex(4)}.log"
        client += ["-E", str(log), "-o", "LogLevel=ERROR", "-T"]
        client += shared.options if shared else ()
        try:
            done = tools.run(
                [*client, HOST, command.encode("utf-8", "surrogateescape")], input=stdin or b"",
                timeout=timeout if per_progress else limit.left, mark=mark,
                takers=(sink.out, sink.err) if sink else (), per_progress=per_progress,
                most=None if most is None else most + 2 * len(mark) + 8,
            )  # fmt: skip
            said = read_text(log, _LONGEST_LOG).strip() if log.exists() else ""
        except OSError as error:
            if is_of_the_host(error):
                raise stopped(client[0], error) from error
            raise
        finally:
            log.unlink(missing_ok=True)
        # The one thing that it says among the command's errors (source: OpenSSH's clientloop.c).
        lost = f"Connection to {self._port.host} closed by remote host."
        if done.stderr.rstrip().endswith(lost.encode()):
            said = said or lost
        if shared is not None and _FULL in said:  # it has logged in by itself then
            self._login.retire(shared)
        elif shared is not None and done.returncode == _CLIENT_FAILED and shared.has_ended():
            said = said or lost  # whoever shares it says nothing
        if done.returncode == _CLIENT_FAILED and said:
            raise GuestShellError(
                means="ssh", detail=printable(said),
                remedy="the guest needs sshd and cloud-init, and to let root in by key",
            )  # fmt: skip
        return done

    def _client(self) -> list[str]:
        config = self._folder / CONFIG
        if not config.exists():
            self.write_config(config)
        return [_program("ssh"), "-F", str(config)]

    def _kill(self, note: str) -> None:
        kill = f"kill -KILL -$(cat {note}); rm -f {note}"
        # What is told is why: whether the guest lets itself be asked once more adds nothing.
        with contextlib.suppress(GuestShellError, subprocess.TimeoutExpired):
            shared = self._login.now
            try:
                self._ssh(
                    kill, _KILL_SECONDS / 2 if shared else _KILL_SECONDS, None, most=_LONGEST_LOG
                )
            except (GuestShellError, subprocess.TimeoutExpired):
                if shared is None:
                    raise
                self._login.retire(shared)
                self._ssh(kill, _KILL_SECONDS / 2, None, most=_LONGEST_LOG, share=False)


def status_at_the_end(output: bytes) -> int:
    """Return the exit status that the wrapper writes behind what a command wrote.

    Raises:
        GuestSaidError: there is none.
    """
    digits = output[-_DIGITS:]
    if _STATUS.fullmatch(digits) is None or int(digits) > _MOST:
        raise malformed("the shell that ssh reached", "no exit status from 000 to 255", digits)
    return int(digits)


def _word(path: Path) -> str:
    """Return a path as ssh's configuration takes it, where % and quotes have a meaning."""
    return '"{}"'.format(re.sub(r'["\\]', r"\\\g<0>", str(path)).replace("%", "%%"))


def _program(name: str) -> str:
    path = surroundings.which(name)
    if path is None:
        raise HostError(f"{name} is not on PATH; install it ({install_hint('ssh')})")
    return path

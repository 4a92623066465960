"""The login by ssh that stays open for a VM: its commands are sessions of one connection.

A login costs an emulated guest's processor about a second. So a client of ours (``ssh -M -N``) logs
in when the first command is to be run, and those of all commands ask it for a session. They log in
by themselves where there is none: it has ended, as when the guest closed its connection; the guest
lets one connection have no more sessions; or its socket has too long a path here.

It holds nothing that a saved state could have: a clone has its own, and so has the QEMU that takes
another's place at a reset or a restore.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.system import clock, landlock, program_files, seccomp
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.process import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.system.patience import Limit
    from pytest_vmports.system.process import Process

_FOLDER, _LOG = "ssh", "ssh-login.log"
# Source: sun_path of macOS, which has less room than Linux; and OpenSSH's mux.c, which makes the
# socket under a name that is longer by a dot and 16 letters.
_LONGEST_PATH, _LONGER = 103, 17
# After so many that failed one after the other there is none, and never more of them at a time.
_TRIES, _MOST = 2, 8
_LOOK_SECONDS = 0.005
# Who was cut off may be about to end.
_ENDING_SECONDS = 2.0
# What a C library reads for the name of its user.
_SYSTEM = tuple(map(Path, ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ssl")))


class NotOpenInTime(subprocess.TimeoutExpired):
    """It was not open in time, so that the command was not even begun."""


class Connection:
    """One that is shared.

    Args:
        process: its client.
        socket: where others ask that for a session.
    """

    def __init__(self, process: Process, socket: Path) -> None:
        self.process: Process = process
        self._socket = socket

    @property
    def ready(self) -> bool:
        """Whether it has logged in, and is not known to have ended."""
        return self.process.running and self._socket.exists()

    @property
    def options(self) -> list[str]:
        """What has a client share it."""
        return sharing(self._socket, "no")

    def has_ended(self) -> bool:
        """Whether it has; of one that has had no answer, and waits for that a moment."""
        return self.process.wait(_ENDING_SECONDS) is not None


class SharedLogin:
    """The connection that the commands of one VM share.

    Args:
        folder: private folder of the VM.
        reads: files that the client reads, its configuration among them.
        writes: files that it writes.
    """

    def __init__(self, folder: Path, reads: Sequence[Path], writes: Sequence[Path]) -> None:
        self._folder, self._log = folder / _FOLDER, folder / _LOG
        self._reads, self._writes = reads, writes
        self._now: Connection | None = None
        self._before: list[Connection] = []
        self._starting = threading.Lock()
        self._failed = self._made = 0
        self._closed = False

    @property
    def now(self) -> Connection | None:
        """The one that is used now, if any is open."""
        now = self._now
        return now if now is not None and now.ready else None

    def connection(self, client: Sequence[str], host: str, limit: Limit) -> Connection | None:
        """Return it, once it is open; None where there can be none.

        Args:
            client: ssh with its configuration.
            host: the guest's name there.
            limit: how long that may take.

        Raises:
            OSError: no program can be started.
            NotOpenInTime: it took longer, and goes on.
        """
        if (now := self.now) is not None:
            return now
        while not self._starting.acquire(blocking=False):
            if limit.over:
                raise NotOpenInTime(list(client), 0.0)
            clock.sleep(_LOOK_SECONDS)
        try:
            return self._opened(client, host, limit)
        finally:
            self._starting.release()

    def retire(self, connection: Connection) -> None:
        """Use another from now on; commands that use it go on."""
        with self._starting:
            if self._now is connection:
                self._now = None
                self._before.append(connection)

    def close(self) -> None:
        """End it for good. Safe to call again."""
        self._closed = True  # who waits for it waits no longer
        self.begin_anew()

    def begin_anew(self) -> None:
        """End it: its guest knows it no more."""
        with self._starting:
            for one in (*self._before, self._now):
                if one is not None:
                    one.process.kill()
            self._before.clear()
            self._now = None

    def _opened(self, client: Sequence[str], host: str, limit: Limit) -> Connection | None:
        while self._now is None or not self._now.ready:
            if self._closed:
                return None
            if self._now is not None and self._now.process.running:
                if limit.over:
                    raise NotOpenInTime(list(client), 0.0)
                clock.sleep(_LOOK_SECONDS)  # its socket is there once it has logged in
                continue
            if self._now is not None:
                self._now.process.kill()
                self._now, self._failed = None, self._failed + 1
            self._before = [one for one in self._before if one.process.running]
            socket = self._folder / str(self._made)
            if max(self._failed / _TRIES, len(self._before) / _MOST) >= 1 or not _fits(socket):
                return None
            self._now = self._begun(client, host, socket)
        self._failed = 0
        return self._now

    def _begun(self, client: Sequence[str], host: str, socket: Path) -> Connection:
        self._made += 1
        self._folder.mkdir(mode=0o700, exist_ok=True)
        socket.unlink(missing_ok=True)  # one that was killed has left it, before a reset of the VM
        for file in self._writes:
            file.touch(mode=0o600)  # or nothing could be said of it to its walls
        # Of its words none is kept, for a guest can have it say any number: the command that logs
        # in by itself, where this did not, has the same reason, and says it.
        command = [*client, *sharing(socket, "yes"), "-o", "LogLevel=FATAL", "-N", host]
        walls = self._walls(client[0])
        return Connection(spawn("ssh", command, log=self._log, confinement=walls), socket)

    def _walls(self, program: str) -> Confinement | None:
        """Return what keeps it from the host's files: it hears a guest for as long as that runs."""
        needed = None if landlock.problem() is not None else program_files.needed_by(program)
        if needed is None:
            return None
        walls = Walls(
            (*needed, *_SYSTEM, *self._reads), write=(self._folder,),
            change=(*program_files.DEVICES, *self._writes),
        )  # fmt: skip
        refused = (seccomp.ATTRIBUTES, seccomp.UDP) if seccomp.problem() is None else ()
        return Confinement(walls, binds=False, refused=refused)


def sharing(socket: Path, master: str) -> list[str]:
    """Return ssh's options for a connection with this socket, to open it or to use it."""
    named = re.sub(r'["\\]', r"\\\g<0>", str(socket)).replace("%", "%%")
    options = f"ControlMaster={master}", f'ControlPath="{named}"', "ControlPersist=no"
    return [word for option in options for word in ("-o", option)]


def _fits(socket: Path) -> bool:
    """Whether a socket can have this path, and ssh's options a word for it."""
    return len(os.fsencode(socket)) + _LONGER <= _LONGEST_PATH and "${" not in str(socket)

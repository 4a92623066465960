"""Shells in a guest's place: the host's own, and the bundled guest's busybox run on the host."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from newc import read_newc

from pytest_vmports.errors import GuestFileError
from pytest_vmports.guests.alpine import find_images

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_vmports.vm.inside.shell import Sink

_APPLETS = ["sh", "tar", "mkdir", "readlink", "mktemp", "cp", "rm", "chmod", "grep", "cat"]


class Taker:
    """Takes what a command writes; after so many bytes it wants no more."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.output, self.errors = most, b"", b""

    def out(self, data: bytes) -> None:
        """Take some of its output."""
        self.output += data
        if len(self.output) > self.most:
            raise GuestFileError("enough")

    def err(self, data: bytes) -> None:
        """Take some of its error output."""
        self.errors += data


class HostShell:
    """The host's shell; `asked` are the commands so far, `given` is the last input."""

    def __init__(self, *, program: str = "sh", path: Path | None = None) -> None:
        self.program = program
        self.path = path
        self.asked: list[str] = []
        self.given: bytes | None = None

    def execute(
        self,
        command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002
        sink: Sink | None = None,
        most: int | None = None,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Run it as a guest would; see `Shell`."""
        self.asked.append(command)
        self.given = input if isinstance(input, bytes) else b"".join(input)
        env = dict(os.environ)
        if self.path is not None:
            env["PATH"] = f"{self.path}:{env['PATH']}"
        try:
            done = subprocess.run(
                [self.program, "-c", command.encode("utf-8", "surrogateescape")],
                input=self.given, capture_output=True, timeout=timeout, check=False, env=env,
                umask=0,  # a guest's tar is root's, for whom it does not count
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return None, error.stdout or b"", error.stderr or b""
        if sink is None:
            return done.returncode, done.stdout, done.stderr
        sink.err(done.stderr)
        sink.out(done.stdout)
        return done.returncode, b"", b""


def busybox_shell(folder: Path) -> HostShell:
    """Return the shell of the bundled guest, unpacked into ``folder``."""
    files = read_newc(gzip.decompress(find_images()[1].read_bytes()))
    for name, (mode, content) in files.items():
        own = PurePosixPath(name).name
        if mode & 0o111 and (own == "busybox" or own.startswith("ld-musl")):
            (folder / own).write_bytes(content)
            (folder / own).chmod(0o755)
    (loader,) = folder.glob("ld-musl*")
    for applet in _APPLETS:
        start = folder / applet
        start.write_text(f'#!/bin/sh\nexec "{loader}" "{folder}/busybox" {applet} "$@"\n')
        start.chmod(0o755)
    return HostShell(program=str(folder / "sh"), path=folder)

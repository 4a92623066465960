"""A worker on another host: what its controller sends it, and what comes home of it.

Nothing here is loaded where all workers are on the controller's host.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_vmports.errors import SettingError
from pytest_vmports.report import workers
from pytest_vmports.report.artifacts import LONGEST_FOLDER, base_of
from pytest_vmports.report.header import header_lines
from pytest_vmports.settings import carried, options
from pytest_vmports.system.mishaps import noting, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MOST_OF_A_FILE = 16 << 20
"""Bytes of one file that come home; of a log that is longer its end."""
MOST_OF_A_TEST = 64 << 20
"""Bytes of one test's VM."""
MOST_OF_ALL = 1 << 30
"""Bytes of a whole run, in equal parts for its workers."""
_CHUNK = 256 << 10
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LONGEST_LINE = 64 << 10
_MOST_PROGRAMS = 8
_END = "end"

_begun_key: pytest.StashKey[_Begun] = pytest.StashKey()
_seen_key: pytest.StashKey[set[str]] = pytest.StashKey()


class _Begun:
    """What a far worker knows of its run.

    Attributes:
        home: the controller's folder of artifacts; empty where none are wanted or can be.
        left: bytes that may still be sent.
        over: its tests have ended.
    """

    def __init__(self, home: str, left: int) -> None:
        self.home = home
        self.left = left
        self.over = False


# --- in the controller ------------------------------------------------------------------------


def invite(
    config: pytest.Config, count: int, write: Callable[[str], None]
) -> tuple[Callable[[object], None], dict[str, Any]]:
    """Return what takes a far worker's messages, and what the worker is told.

    Args:
        config: pytest's.
        count: of all workers.
        write: writes a line, from any thread.
    """
    try:
        (wanted,) = options.values(config, "artifacts")
    except SettingError:  # which the worker finds too, and tells
        wanted = "no"
    home = None if wanted == "no" else base_of(config, wanted)
    share = MOST_OF_ALL // count
    told = {
        "said": carried.said_here(config),
        "home": "" if home is None else str(home),
        "share": share,
    }
    return Receiver(home, share, config.stash.setdefault(_seen_key, set()), write), told


class Receiver:
    """Takes what a far worker sends: from another host, so nothing of it is believed.

    Args:
        home: the folder of artifacts; None for none.
        share: bytes of them that are taken.
        seen: lines on hosts that were written already, which the workers of one host share.
        write: writes a line.
    """

    def __init__(
        self, home: Path | None, share: int, seen: set[str], write: Callable[[str], None]
    ) -> None:
        self._home = home
        self._left = share
        self._seen = seen
        self._write = write
        self._refused = False

    def __call__(self, message: object) -> None:
        """Take one message, in a thread of execnet's, where nothing may be raised."""
        with noting("vmports: what came from a worker is lost", self._write_once):
            match message:
                case str():
                    self._write(message[:_LONGEST_LINE])
                case ["programs", *lines]:
                    self._programs(lines)
                case ["file", str(folder), str(name), int(at), bytes(data), bool(runs)]:
                    self._file(_Part(folder, name, at, data, runs))
                case _:
                    raise ValueError("it is no message of ours")

    def _programs(self, lines: list[object]) -> None:
        for line in map(str, lines[:_MOST_PROGRAMS]):
            if line not in self._seen:
                self._seen.add(line)
                self._write(line[:_LONGEST_LINE])

    def _file(self, part: _Part) -> None:
        if self._home is None or not (_is_name(part.folder) and _is_name(part.name)):
            raise ValueError(f"{part.folder[:99]!r}, {part.name[:99]!r} is no artifact's name")
        if part.at < 0 or part.at + len(part.data) > MOST_OF_A_FILE or len(part.data) > self._left:
            raise ValueError(f"{part.folder}/{part.name} is larger than is taken")
        folder = self._home / part.folder
        folder.mkdir(parents=True, exist_ok=True)
        how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        how |= os.O_APPEND if part.at else os.O_TRUNC
        fd = os.open(folder / part.name, how, 0o755 if part.runs else 0o644)
        with os.fdopen(fd, "wb") as file:
            if os.fstat(fd).st_size != part.at:
                raise ValueError(f"of {part.folder}/{part.name} a part is missing")
            file.write(part.data)
        self._left -= len(part.data)

    def _write_once(self, line: str) -> None:
        if not self._refused:
            self._refused = True
            self._write(line)


class _Part(NamedTuple):
    folder: str
    name: str
    at: int
    data: bytes
    runs: bool


def _is_name(name: str) -> bool:
    return len(name) <= LONGEST_FOLDER and _NAME.fullmatch(name) is not None


# --- in the worker ----------------------------------------------------------------------------


def begin(config: pytest.Config, channel: Any, told: Mapping[str, Any]) -> None:
    """Take the controller's settings, and from now on end all VMs when it has gone.

    Args:
        config: pytest's.
        channel: execnet's, which ends with the connection.
        told: what `invite` returned.
    """
    carried.take(config, told["said"])
    begun = config.stash[_begun_key] = _Begun(told["home"], told["share"])

    def ended(message: object) -> None:
        if message == _END and not begun.over:
            _end_all()

    channel.setcallback(ended, endmarker=_END)


def over(config: pytest.Config) -> None:
    """Take note that no test runs any more."""
    config.stash[_begun_key].over = True


def _end_all() -> None:
    """End all VMs and the test: execnet itself waits for that five seconds first."""
    process = sys.modules.get("pytest_vmports.system.process")
    if process is not None:
        process.end_all()
        os.kill(os.getpid(), signal.SIGINT)


def greet(config: pytest.Config) -> None:
    """Tell which programs this host has, as pytest's header does of the controller's."""
    verbose = config.getoption("verbose", 0)
    if verbose < 0:
        return
    try:
        wanted = options.values(config, "qemu", "accel", "gvproxy")
    except SettingError:  # which the collection tells
        return
    lines = header_lines(*wanted, more=verbose > 0)
    workers.post(config, ["programs", *(printable(workers.on_host(config, it)) for it in lines)])


def send_home(config: pytest.Config, folder: Path) -> str:
    """Send a VM's artifacts to the controller; return where they are, and what did not go there.

    Args:
        config: pytest's.
        folder: has the files.
    """
    begun, host = config.stash[_begun_key], workers.host_of(config)
    if not begun.home:
        return f"{folder} on {host}"
    left_out, sent = [], 0
    for file in sorted(folder.iterdir()):
        size = file.stat().st_size
        going = min(size, MOST_OF_A_FILE) if file.suffix == ".log" else size
        if going > min(MOST_OF_A_FILE, MOST_OF_A_TEST - sent, begun.left):
            left_out.append(f"left on {host} for its size: {file} ({size} bytes)")
            continue
        if going < size:
            left_out.append(f"the end alone came from {host}: {file} ({size} bytes)")
        for part in _parts(file, size - going, going):
            workers.post(config, part)
        sent += going
        begun.left -= going
    where = f"{Path(begun.home) / folder.name} (from {host}, where they are in {folder})"
    return "\n".join([where, *left_out])


def _parts(path: Path, begin: int, length: int) -> Iterator[list[object]]:
    """Yield a part of a file in pieces, in between which lines of others may go."""
    runs, at = os.access(path, os.X_OK), 0
    with path.open("rb") as file:
        file.seek(begin)
        while at < length or not at:
            data = file.read(min(_CHUNK, length - at))
            yield ["file", path.parent.name, path.name, at, data, runs]
            at += len(data)
            if not data:
                return

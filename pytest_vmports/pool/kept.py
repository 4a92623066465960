"""VMs that a run left alive: what is known of them, and their end.

Each has a folder below one of this user's, beside that of the runs: its sockets, its console's log,
its disks and ``kept.json``, which names its processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.poll import readable
from pytest_vmports.system.private_folder import make_private
from pytest_vmports.system.proc import pidfd, process_start, stat_fields
from pytest_vmports.system.run_dir import REMEDY, default_base
from pytest_vmports.system.small_file import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILE = "kept.json"
_END_SECONDS = 10.0
_LOOK_SECONDS = 0.005
_LATEST = 1e11  # seconds since the epoch, more than any clock tells
# Source: Linux's include/linux/threads.h, PID_MAX_LIMIT; 1 is nobody's VM.
_PIDS = range(2, (1 << 22) + 1)


@dataclass(frozen=True)
class Kept:
    """A VM without a run.

    Attributes:
        folder: its files.
        test: the test's id.
        guest: what it booted.
        since: when it was kept, in seconds since the epoch.
        forwards: each as text.
        ways: commands that reach it, by what they reach.
        processes: QEMU first: name, pid and start in clock ticks since boot of each.
    """

    folder: Path
    test: str
    guest: str
    since: float
    forwards: list[str] = field(default_factory=list)
    ways: dict[str, str] = field(default_factory=dict)
    processes: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What to call it when it is to be stopped."""
        return self.folder.name

    @property
    def alive(self) -> bool:
        """Whether any of its processes runs."""
        return any(_runs(pid, start) for _, pid, start in self.processes)

    def lines(self) -> Iterator[str]:
        """Yield how to reach it, and how to stop it."""
        yield f"{self.test or 'no test'}: {self.guest}, kept as {self.name}"
        for forward in self.forwards:
            yield f"  {forward}"
        for what, command in {**self.ways, "stop": f"pytest-vmports kept stop {self.name}"}.items():
            yield f"  {what:<8} {command}"

    def write(self, folder: Path) -> None:
        """Note it in the folder that is about to become its.

        Raises:
            OSError: it cannot be written.
        """
        about = {name: value for name, value in asdict(self).items() if name != "folder"}
        (folder / _FILE).write_text(json.dumps(about, indent=1) + "\n")

    def stop(self) -> None:
        """Kill its processes and remove its folder.

        Raises:
            OSError: a process is another user's by now, or a file cannot be removed.
        """
        for _, pid, start in self.processes:
            _kill(pid, start)
        # Whoever looks at what is kept meanwhile removes it too; each goes on where both stumbled.
        while self.folder.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder)


def base() -> Path:
    """Return the folder of the folders, made when it is not there.

    Raises:
        StateDirError: it is not ours alone.
    """
    folder = default_base("kept")
    make_private(folder, remedy=REMEDY)
    return folder


def new_folder() -> Path:
    """Return where the files of a VM can be moved; it is not there yet."""
    return Path(tempfile.mktemp(prefix="k", dir=base()))  # noqa: S306 - in a folder of ours alone


def all_kept() -> list[Kept]:
    """Return those that live, the oldest first; the folders of those that ended are removed.

    What is no note of ours, or of a version that we do not understand, is left alone: see `strays`.

    Raises:
        StateDirError: the folder is not ours alone.
    """
    found = []
    for folder in base().iterdir():
        kept = _read(folder)
        if not isinstance(kept, Kept):
            continue
        if kept.alive:
            found.append(kept)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda kept: (kept.since, kept.name))


def strays() -> list[str]:
    """Return what else is where the kept VMs are, each with what is wrong with it, as a line.

    Raises:
        StateDirError: the folder is not ours alone.
    """
    found = ((folder, _read(folder)) for folder in base().iterdir())
    return sorted(printable(f"{folder}: {said}") for folder, said in found if isinstance(said, str))


def _read(folder: Path) -> Kept | str | None:
    """Return what a folder tells, or what is wrong with it.

    None where one is just being moved there, or removed.
    """
    try:
        return _kept(folder, read_object(folder / _FILE))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return f"its {_FILE} is none that this version understands ({error})"


def _kept(folder: Path, about: Mapping[str, Any]) -> Kept:
    """Return a VM from a note; what this version does not know of is passed over.

    Raises:
        ValueError: its processes are not told as we know them.
    """
    processes = about.get("processes")
    if not isinstance(processes, list) or not processes or not all(map(_is_process, processes)):
        raise ValueError("no processes")
    forwards, ways, since = about.get("forwards"), about.get("ways"), about.get("since")
    return Kept(
        folder=folder,
        test=printable(str(about.get("test", ""))),
        guest=printable(str(about.get("guest", "?"))),
        since=float(since) if isinstance(since, int | float) and abs(since) < _LATEST else 0.0,
        forwards=[printable(str(one)) for one in forwards] if isinstance(forwards, list) else [],
        ways={printable(name): printable(str(way)) for name, way in ways.items()}
        if isinstance(ways, dict) else {},
        processes=[(printable(name), pid, start) for name, pid, start in processes],
    )  # fmt: skip


def _is_process(one: Any) -> bool:
    match one:
        case [str(), int(pid), int(start)]:
            # Never a group of processes, nor any number that a signal has another meaning for.
            return pid in _PIDS and start > 0
        case _:
            return False


def _runs(pid: int, start: int) -> bool:
    # A zombie, if nobody reaps it, is over.
    return process_start(pid) == start and stat_fields(pid)[:1] not in (["Z"], [])


def _kill(pid: int, start: int) -> None:
    """End one process, and return when it has."""
    try:
        fd = pidfd(pid)
    except ProcessLookupError:
        return
    try:
        # Asked after it was opened: the number was not another's then.
        if not _runs(pid, start):
            return
        if fd is not None:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            readable([fd], _END_SECONDS)
            return
        os.kill(pid, signal.SIGKILL)
        deadline = clock.now() + _END_SECONDS
        while _runs(pid, start) and clock.now() < deadline:
            clock.sleep(_LOOK_SECONDS)
    finally:
        if fd is not None:
            os.close(fd)

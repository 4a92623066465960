"""VMs that a run left alive: what is known of them, and their end.

Each has a folder below one of this user's, beside that of the runs: its sockets, its console's log,
its disks and ``kept.json``, which names its processes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.system.private_folder import make_private
from pytest_vmports.system.proc import process_start, stat_fields
from pytest_vmports.system.run_dir import REMEDY, default_base

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = "kept.json"
_END_SECONDS = 10.0


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

    Raises:
        StateDirError: the folder is not ours alone.
    """
    found = []
    for folder in base().iterdir():
        kept = _read(folder)
        if kept is not None and kept.alive:
            found.append(kept)
        elif kept is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda kept: (kept.since, kept.name))


def _read(folder: Path) -> Kept | None:
    """Return what a folder tells; None where one is just being moved there, or removed."""
    try:
        about = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return None
    about["processes"] = [tuple(one) for one in about["processes"]]
    return Kept(folder, **about)


def _runs(pid: int, start: int) -> bool:
    # A zombie, if nobody reaps it, is over.
    return process_start(pid) == start and stat_fields(pid)[:1] not in (["Z"], [])


def _kill(pid: int, start: int) -> None:
    """End one process, and return when it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Asked after it was opened: the number was not another's then.
        if _runs(pid, start):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], _END_SECONDS)
    finally:
        os.close(fd)

"""What Linux tells of a process."""

from __future__ import annotations

from pathlib import Path


def stat_fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on; none when it is gone or not Linux.

    Source: proc(5), which counts from 1: its field 3 is the first here.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return []
    # The command's name, in brackets, may hold anything: count from the last bracket.
    return stat.rpartition(")")[2].split()

"""What a benchmark ran on."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path


def machine() -> str:
    """Return processor, cores and kernel of this machine, without its name."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    release = platform.release().partition("-")[0]
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {release}"


def guests(page: str) -> str:
    """Return the part of a page that `guests.py` has written."""
    return page.partition("<!-- guests -->\n")[2].partition("\n<!-- end of guests -->")[0]

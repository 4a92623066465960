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


def put(page: Path, name: str, text: str) -> None:
    """Put what a benchmark has measured into its place on a page.

    Args:
        page: a markdown file.
        name: of the place.
        text: what stands there from now on.
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}{text}{end}{rest.partition(end)[2]}")

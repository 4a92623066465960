"""Where this machine gets its packages from, for systems that tests put together from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "apt-sources.sh"
OS_RELEASE = Path("/etc/os-release")


def release(name: str) -> str:
    """Return what this system says about itself, such as its ``VERSION_CODENAME``."""
    for line in OS_RELEASE.read_text().splitlines() if OS_RELEASE.exists() else ():
        key, _, value = line.partition("=")
        if key == name:
            return value.strip('"')
    return ""


def write_entry(
    folder: Path, have: str, *, suite: str = "", components: str = "", architecture: str = ""
) -> Path | None:
    """Copy this machine's own entry of a suite, with its mirror, its options and its keys.

    Args:
        folder: where the file goes, which is named after the suite.
        have: the suite whose entry it is.
        suite: the suite to name in the copy instead.
        components: the components to name in the copy instead.
        architecture: dpkg's word for the one that packages are for; empty means this machine's.

    Returns:
        The file, in the format that its name tells; None when the machine has no such entry.
    """
    suite = suite or have
    copy = f'. "{SCRIPT}"; copy_sources_entry "$@"'
    done = subprocess.run(
        ["bash", "-euc", copy, "bash", have, str(folder), suite, components, architecture],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return None
    # One that is empty is of the other format, which was looked through first.
    (own,) = [file for file in folder.glob("own.*") if file.stat().st_size]
    return own.rename(folder / f"{suite}{own.suffix}")

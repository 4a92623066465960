"""A run of pytest in namespaces of its own: no packet of its guests leaves the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def what_it_takes(missing):
    """Skip, or fail on CI, where a program for namespaces is not there."""
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            missing(program, "install util-linux and iproute2")


def pytest_apart(prepared, folder, gvproxy):
    """Return what a run of pytest came to, with networks and mounts of its own.

    Args:
        prepared: a shell command that runs before it, in those namespaces.
        folder: of its tests.
        gvproxy: the one to use.
    """
    namespace = ["unshare", "--net", "--mount"]
    namespace += [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f'ip link set lo up && {prepared} && exec "$@"'
    command = [*namespace, "sh", "-c", script, "sh", sys.executable, "-m", "pytest"]
    return subprocess.run(
        [*command, "-p", "no:randomly", "-p", "no:xdist", f"--vmports-gvproxy={gvproxy}"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip

"""What a program writes when its standard input, output and errors are a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def on_a_terminal(command: list[str], cwd: Path | None = None, **variables: str) -> tuple[int, str]:
    """Return a program's exit status and what it wrote.

    Args:
        command: its argv.
        cwd: its working directory.
        variables: of its environment, beside ours; ``TERM`` is an xterm with colours.
    """
    ours, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **variables}
    with subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, cwd=cwd, env=env
    ) as process:  # fmt: skip
        os.close(its)
        written = b""
        # Of a terminal whose other side is closed nothing can be read.
        with contextlib.suppress(OSError):
            while True:
                written += os.read(ours, 4096)
    os.close(ours)
    return process.returncode, written.decode()

"""A small process that ends our children when we end, unless they were released.

What `PR_SET_PDEATHSIG` promises cannot be taken back from outside the child. So, in a run that may
leave VMs behind, another process minds the children: it reads their pids from a pipe, and when the
pipe's last writer is gone, however that came about, it kills those that were not released.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys

# Isolated, so that nothing of the test's environment is loaded. A pidfd is that process for ever,
# whoever gets its number later.
_PROGRAM = """
import os, signal, sys
minded = {}
for line in sys.stdin:
    word, pid = line.split()
    try:
        if word == "mind":
            minded[pid] = os.pidfd_open(int(pid))
        elif pid in minded:
            os.close(minded.pop(pid))
    except ProcessLookupError:
        pass
for child in minded.values():
    try:
        signal.pidfd_send_signal(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
# The child announces itself before it becomes the program: were we killed at this moment, the
# minder would still read of it, for the child holds the pipe open until then.
_ANNOUNCE = 'echo "mind $$" >&0; exec "$@" </dev/null'


class Minder:
    """The process, started; Linux only.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)

    @property
    def pipe(self) -> int:
        """What a child that is to be minded gets as its standard input."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def launcher(self) -> list[str]:
        """What goes before a child's argv."""
        return ["/bin/sh", "-c", _ANNOUNCE, "sh"]

    def release(self, pid: int) -> None:
        """Let a child be: it has ended, or shall live on."""
        # Short enough to be written whole (PIPE_BUF). A minder that was killed kills nobody.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.pipe, f"release {pid}\n".encode())

    def close(self) -> None:
        """End what is still minded. Does nothing in a forked child."""
        if os.getpid() == self._pid:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

"""A small process that ends our children when we end, unless they were released.

What `PR_SET_PDEATHSIG` promises cannot be taken back from outside the child. So, in a run that may
leave VMs behind, another process minds the children: it reads their pids from a pipe, and when the
pipe's last writer is gone, however that came about, it kills those that were not released. Should
it be killed itself, another takes its place.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from subprocess import DEVNULL, PIPE, Popen
from typing import TYPE_CHECKING

from pytest_vmports.system import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Isolated, so that nothing of the test's environment is loaded. A pidfd is that process for ever,
# whoever gets its number later; where there are none, number and start tell. A number that is told
# again is another process's. By a name of its own it outlives one who ends whatever is called
# python, and so can do what it is there for.
_PROGRAM = """
import os, signal, sys
def start(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[19]
    except OSError:
        return None
try:
    with open("/proc/self/comm", "w") as name:
        name.write("vmports-minder")
except OSError:
    pass
def forget(pid):
    child = minded.pop(pid, None)
    if isinstance(child, int):
        os.close(child)
minded = {}
for line in sys.stdin:
    word, pid = line.split()
    try:
        forget(pid)
        if word == "mind":
            try:
                minded[pid] = os.pidfd_open(int(pid))
            except ProcessLookupError:
                raise
            except (OSError, AttributeError):
                minded[pid] = start(pid)
    except ProcessLookupError:
        pass
for pid, child in minded.items():
    try:
        if isinstance(child, int):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        elif child is not None and child == start(pid):
            os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
# The child announces itself before it becomes the program: were we killed at this moment, the
# minder would still read of it, for the child holds the pipe open until then. A pipe that nobody
# reads any more is not to kill it.
_ANNOUNCE = """trap '' PIPE; echo "mind $$" >&0 2>/dev/null; trap - PIPE; exec "$@" </dev/null"""
# One that is killed again and again is killed on purpose.
_MOST = 5


class Minder:
    """The process, started; Linux only.

    Args:
        tell: is told, once, that it has been killed.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _line: None) -> None:
        self._pid = os.getpid()
        self._tell = tell
        self._minded: set[int] = set()
        self._killed = 0
        self._closed = False
        self._lock = threading.RLock()
        self._process = self._begin()
        atexit.register(self.close)
        _minders.add(self)

    @property
    def pipe(self) -> int:
        """What a child that is to be minded gets as its standard input."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def launcher(self) -> list[str]:
        """What goes before a child's argv."""
        return ["/bin/sh", "-c", _ANNOUNCE, "sh"]

    @contextlib.contextmanager
    def starting(self) -> Iterator[int]:
        """Yield `pipe`, which stays open while a child is started in the ``with`` block."""
        with self._lock:
            yield self.pipe

    def mind(self, pid: int) -> None:
        """End a child with us; it has announced itself, or does so now."""
        with self._lock:
            self._minded.add(pid)
            if self._killed:  # maybe to one that was dead already
                self._write(f"mind {pid}")

    def release(self, pid: int) -> None:
        """Let a child be: it has ended, or shall live on."""
        with self._lock:
            self._minded.discard(pid)
            self._write(f"release {pid}")

    def forget(self) -> None:
        """Let go of the pipe, in a forked child: with us ends what is minded, not with that."""
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, self.pipe, inheritable=False)
        os.close(nowhere)

    def close(self) -> None:
        """End what is still minded. Does nothing in a forked child."""
        if os.getpid() == self._pid:
            with self._lock:
                self._closed = True
                assert self._process.stdin is not None
                self._process.stdin.close()
            self._process.wait()

    def _begin(self) -> Popen[bytes]:
        with surroundings.restored():
            process = Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=PIPE, stdout=DEVNULL,
                start_new_session=True, cwd=os.sep, env=surroundings.variables(),
                umask=surroundings.umask(),
            )  # fmt: skip
            surroundings.unlimit(process)
        watch = threading.Thread(target=self._watch, args=(process,), name="vmports-minder")
        watch.daemon = True
        watch.start()
        return process

    def _watch(self, process: Popen[bytes]) -> None:
        """Put another in the place of one that has ended before it was told to."""
        process.wait()
        with self._lock, surroundings.beside_a_test():
            if self._closed:
                return
            self._killed += 1
            if self._killed == 1:
                self._tell(
                    "vmports: the process that ends this run's VMs should the run be killed was "
                    "killed itself; another takes its place"
                )
            if self._killed <= _MOST:
                assert process.stdin is not None
                process.stdin.close()
                self._process = self._begin()
                for pid in self._minded:
                    self._write(f"mind {pid}")

    def _write(self, line: str) -> None:
        # Short enough to be written whole (PIPE_BUF). One that has just been killed reads nothing:
        # the next one is told all.
        if self._closed:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self.pipe, f"{line}\n".encode())


def _forget() -> None:
    for minder in _minders:
        with contextlib.suppress(OSError, ValueError):  # closed already, or no descriptor is left
            minder.forget()
    _minders.clear()


_minders: set[Minder] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

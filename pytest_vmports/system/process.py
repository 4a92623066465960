"""Child processes that never outlive the process that started them.

Linux kills a child whose ``PR_SET_PDEATHSIG`` is set when the *thread* that started it ends
(source: prctl(2)), so every child is started from one thread that lives as long as the process.
``preexec_fn`` is not used: it forks the whole interpreter and is unsafe beside threads. Instead
``setpriv`` sets the signal and a one-line shell closes the race of a parent that died before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from subprocess import DEVNULL, STDOUT, Popen
from typing import TYPE_CHECKING

from pytest_vmports.system import patience, proc, surroundings, tools
from pytest_vmports.system.growing import read_text
from pytest_vmports.system.minder import Minder
from pytest_vmports.system.paths import as_bytes
from pytest_vmports.system.poll import readable
from pytest_vmports.system.probing import is_of_the_host, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.system.confined import Confinement

LONGEST_LOG = 1 << 20
"""Bytes that are read of what a child said, its begin and end."""
_STOP_SECONDS = 5.0
_HELP_SECONDS = 20.0
# If our parent is no longer the one that started us, it died before the signal was set.
_CHECK_PARENT = 'test "$PPID" = "$0" || exit 125; exec "$@"'
_PDEATHSIG_LAUNCHER = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None,use_errno=True).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(125);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)
_threads: dict[int, ThreadPoolExecutor] = {}
_made: weakref.WeakSet[Process] = weakref.WeakSet()
_making = threading.Lock()
_over = threading.Event()
_minders: dict[int, Minder] = {}


def let_outlive(tell: Callable[[str], None] = lambda _line: None) -> None:
    """Start every further child such that `Process.let_go` works.

    Elsewhere than on Linux a child outlives us anyway.

    Args:
        tell: is told, once, when what minds the children has been killed.

    Raises:
        OSError: what minds the children cannot be started.
    """
    if sys.platform.startswith("linux") and os.getpid() not in _minders:
        _minders.clear()  # a forked child's are its parent's
        _minders[os.getpid()] = Minder(tell)


def end_all() -> None:
    """End every child that was not let go, and every further one as it is made; in any thread."""
    with _making:
        _over.set()
        for one in _made:
            with contextlib.suppress(OSError):  # the others are to end all the same
                one.end_at_once()


class Process:
    """A running child.

    Attributes:
        name: what to call it in messages.
        command: its argv.
        pid: its process id.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        popen: Popen[bytes],
        log: Path,
        starter: ThreadPoolExecutor | None = None,
    ) -> None:
        self.name = name
        self.command: list[str] = list(command)
        self.pid: int = popen.pid
        self._popen = popen
        self._log = log
        self._kept: str | None = None
        self._minder = _minders.get(os.getpid())
        # Its thread, where it has one of its own: the child ends when that does.
        self._starter = starter
        self._let_go = False
        # Readable as soon as the child has ended, so that waits can include its death.
        self._pidfd = proc.pidfd(popen.pid)
        with _making:
            _made.add(self)
            if _over.is_set():
                self.end_at_once()

    @property
    def death(self) -> int | None:
        """A descriptor that is readable once the child has ended; None where there is none."""
        return self._pidfd

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while the child runs, or was let go."""
        if self._let_go:
            return None
        code = self._popen.poll()
        if code is not None:
            self._release()  # from now on its number may be another's
        return code

    @property
    def running(self) -> bool:
        """Whether the child still runs."""
        return self.returncode is None

    @property
    def ending(self) -> bool:
        """Whether it has begun to end, and what it held may be closed, but has not ended yet."""
        return self.running and proc.ending(self.pid)

    @property
    def cpu_seconds(self) -> float | None:
        """The processor time that the child has used; None where that cannot be told."""
        fields = proc.stat_fields(self.pid)
        if not fields:
            return None
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")  # user's and system's

    @property
    def output(self) -> str:
        """What the child wrote to its standard error (and output) so far."""
        if self._kept is not None:
            return self._kept
        try:
            return read_text(self._log, LONGEST_LOG)
        except FileNotFoundError:
            return ""

    def keep_output(self) -> None:
        """Keep `output` in memory: its file is about to be removed."""
        self._kept = self.output

    def wait(self, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for the end; return the exit status or None."""
        if self._let_go or self._pidfd is None:
            return tools.wait(self._popen, patience.left(timeout))
        if self.running:
            readable([self._pidfd], patience.left(timeout))
        return self.returncode

    def end_at_once(self) -> None:
        """Send what ends the child, and leave the rest to its user; in any thread."""
        if not self._let_go:
            self._popen.send_signal(signal.SIGKILL)

    def kill(self) -> None:
        """End the child at once and reap it."""
        if self.running:
            self._popen.send_signal(signal.SIGKILL)
        self._release()  # while its number cannot be another's
        self._popen.wait()
        self._close()

    def let_go(self) -> None:
        """Let the child live on when this process ends; what it says from now on is not read.

        It has to have been started after `let_outlive`.
        """
        self.keep_output()
        self._release()
        self._let_go = True
        self._popen.returncode = 0  # or Popen would warn of a child that still runs
        self._close()

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Ask the child to end, and kill it when it has not within ``timeout`` seconds."""
        if self.running:
            self._popen.terminate()
            self.wait(timeout)
        self.kill()

    def _release(self) -> None:
        minder, self._minder = self._minder, None
        if minder is not None:
            minder.release(self.pid)

    def _close(self) -> None:
        if self._starter is not None:
            self._starter.shutdown(wait=False)
            self._starter = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def spawn(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    pass_fds: Collection[int] = (),
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    confinement: Confinement | None = None,
) -> Process:
    """Start a child that ends when this process does, however that comes about.

    Unless it is let go: see `let_outlive`.

    Args:
        name: what to call it in messages.
        command: program and arguments; the program is looked up on PATH.
        log: file that takes its standard output and error.
        pass_fds: descriptors that the child inherits under the same numbers.
        cwd: its working directory; None means ours.
        env: variables that it gets beside those that were there before any test; of those, one that
            is kept from files of ours gets none that may be a secret.
        confinement: what it may do; None for whatever we may.

    Raises:
        OSError: the program does not exist, or cannot be run, or not be confined.
        ProgramStoppedError: this host keeps it from being run, as by a limit.
    """
    program = surroundings.which(command[0])
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not an executable file or not on PATH")
    start = partial(
        _start, program=program, command=command, log=log, pass_fds=pass_fds, cwd=cwd,
        env={**surroundings.variables(public=confinement is not None), **(env or {})},
    )  # fmt: skip
    try:
        if confinement is None:
            return Process(name, command, start(_starter()), log)
        return _confined(name, command, log, confinement, start)
    except OSError as error:
        if is_of_the_host(error):
            raise stopped(name, error) from error
        raise


def _confined(
    name: str,
    command: Sequence[str],
    log: Path,
    confinement: Confinement,
    start: Callable[[ThreadPoolExecutor], Popen[bytes]],
) -> Process:
    with contextlib.ExitStack() as unless_it_runs:
        own = ThreadPoolExecutor(1, thread_name_prefix="vmports-confined")
        unless_it_runs.callback(own.shutdown)
        unless_it_runs.callback(confinement.close)
        own.submit(confinement.put_on).result()
        made = Process(name, command, start(own), log, own)
        unless_it_runs.callback(made.kill)
        confinement.mind(made)
        unless_it_runs.pop_all()
    return made


def _start(
    starter: ThreadPoolExecutor,
    *,
    program: str,
    command: Sequence[str],
    log: Path,
    pass_fds: Collection[int],
    cwd: Path | None,
    env: Mapping[str, str],
) -> Popen[bytes]:
    minder = _minders.get(os.getpid())
    words: list[str | bytes] = [program, *map(as_bytes, command[1:])]
    with (
        surroundings.restored(), log.open("ab") as out,
        contextlib.nullcontext(DEVNULL) if minder is None else minder.starting() as stdin,
    ):  # fmt: skip
        launcher = _launcher() if minder is None else minder.launcher
        starting = starter.submit(
            Popen,
            [*launcher, *words],
            stdin=stdin,
            stdout=out,
            stderr=STDOUT,
            pass_fds=tuple(pass_fds),
            cwd=cwd or surroundings.directory(),
            env=env,
            umask=surroundings.umask(),
            # Ctrl-C goes to pytest, which then stops its VMs in order.
            start_new_session=True,
        )
        child = starting.result()
        surroundings.unlimit(child)
        if minder is not None:
            minder.mind(child.pid)
    return child


def starts_by_python() -> bool:
    """Whether a child is started by our own Python, for want of a better launcher."""
    return os.getpid() not in _minders and _launcher()[:1] == [sys.executable]


def _launcher() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    parent = str(os.getpid())
    setpriv = _setpriv()
    if setpriv is not None:
        return [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _CHECK_PARENT, parent]
    return [sys.executable, "-I", "-S", "-c", _PDEATHSIG_LAUNCHER, parent]


@lru_cache(maxsize=1)
def _setpriv() -> str | None:
    path = surroundings.which("setpriv")
    if path is None:
        return None
    # busybox has a setpriv too, without this option.
    shown = tools.run([path, "--help"], timeout=_HELP_SECONDS)
    return path if b"--pdeathsig" in shown.stdout else None


def _starter() -> ThreadPoolExecutor:
    pid = os.getpid()  # a forked child has none of its parent's threads
    if pid not in _threads:
        _threads.clear()
        _threads[pid] = ThreadPoolExecutor(1, thread_name_prefix="vmports-start")
    return _threads[pid]

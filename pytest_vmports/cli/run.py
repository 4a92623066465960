"""``pytest-vmports run``: a VM from the terminal, without pytest."""

from __future__ import annotations

import contextlib
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_vmports.cli.console_text import ConsoleText
from pytest_vmports.images.images import Kept
from pytest_vmports.leases import open_allocator
from pytest_vmports.pool.pool import open_pool
from pytest_vmports.settings import options
from pytest_vmports.settings.table import BY_NAME
from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.proc import runs
from pytest_vmports.system.signals import heeded

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from pytest_vmports.pool.handle import VM

_LOOK_SECONDS = 0.1
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def started(words: Mapping[str, Any]) -> Iterator[VM]:
    """Yield a VM that is ready.

    Args:
        words: settings by name, spelled as on the command line; the environment's hold too.

    Raises:
        VmPortsError: it cannot be had.
    """
    for mistake in options.name_mistakes(options.NoConfig()):
        raise mistake
    wanted = options.resolve(options.NoConfig(), dict(words), "pytest-vmports run")
    with (
        open_allocator(wanted.state_dir, wanted.port_range) as allocator,
        open_pool(
            allocator, root=Path.cwd(), tell=_tell, cache_dir=wanted.cache_dir,
            cache_size=wanted.cache_size, store=wanted.cache_store,
            secret=wanted.cache_store_secret,
            images=Kept(wanted.images_dir, wanted.images_size, wanted.image_mirror),
        ) as pool,
        pool.vm(wanted) as vm,
    ):  # fmt: skip
        yield vm


def run(arguments: argparse.Namespace) -> int:
    """Start a VM, say how to reach it, show its console, and stop it on Ctrl-C."""
    words = {
        name: value for name, value in vars(arguments).items()
        if name in BY_NAME and value is not None
    }  # fmt: skip
    words["expose"] = " ".join(arguments.port)
    with _stoppable(), _warned(), started(words) as vm:
        for port in vm:
            sys.stdout.write(f"{port.url} -> {port.internal}/{port.protocol}\n")
        sys.stdout.write(f"{vm.origin} in {vm.wiring} mode; Ctrl-C stops it\n\n")
        if arguments.raw:
            _follow(vm)
            return 0
        text = ConsoleText(colours=sys.stdout.isatty())
        try:
            _follow(vm, text.feed)
        finally:
            sys.stdout.write(text.end())
    return 0


def _follow(vm: VM, shown: Callable[[str], str] = str) -> None:
    """Print the guest's console, made what is shown of it, until the VM ends; of much its end."""
    console = vm._machine.console  # noqa: SLF001 - what a test has of it is text, read whole
    new = console.follower()
    sys.stdout.write(shown(console.before))
    while True:
        piece = new.read()
        left_out = f"\n({piece.left_out} bytes are left out)\n" if piece.left_out else ""
        sys.stdout.write(shown(f"{left_out}{piece.text}"))
        sys.stdout.flush()
        if not all(map(runs, vm.pids.values())):
            return
        # A file that grows raises no event that select knows of.
        clock.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let signals end the ``with`` block in order, that of Ctrl-C also where we were to ignore it.

    Shells let that be ignored by what they start in the background.
    """
    reasons = heeded(_STOPPING)

    def stop(_number: int, _frame: object) -> NoReturn:
        for number in reasons:  # a second one would break off the VM's end
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in reasons}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Write warnings as lines of ours, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda said, *_, **__: _tell(f"vmports: {said}")
        yield


def _tell(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")

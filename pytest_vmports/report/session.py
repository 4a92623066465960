"""What a run of pytest is to the VMs of its process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_vmports.report import sections, workers
from pytest_vmports.report.recorder import Recorder
from pytest_vmports.report.terminal import Terminal
from pytest_vmports.settings import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from pytest_vmports.pool.keeper import Keeper


class Session:
    """Takes note of the VMs of a run, and tells of them.

    It is made when a test first asks for one of our fixtures. Later hooks import nothing before
    they can hold an error: what a report needs to begin with is loaded by then.

    Args:
        config: pytest's.
        running: returns the test that runs; None before the first.

    Attributes:
        recorder: is told of machines that are about to start, of ports that are waited for, and of
            what went wrong beside the tests.
        terminal: writes a line while tests run.
    """

    def __init__(self, config: pytest.Config, running: Callable[[], pytest.Item | None]) -> None:
        self.recorder: Recorder = Recorder(running)
        self.terminal: Terminal = Terminal(config, self.recorder.note)
        self._keeper: Keeper | None = None
        self._config = config

    def keeper(self) -> Keeper | None:
        """Return what keeps VMs beyond the run; None where none is to be kept."""
        (keep,) = options.values(self._config, "keep")
        if keep != "never" and self._keeper is None:
            from pytest_vmports.pool.keeper import Keeper

            self._keeper = Keeper(
                always=keep == "always", tell=self.terminal, host=workers.host_of(self._config)
            )
        return self._keeper

    def take_kept(self) -> list[list[str]]:
        """Return how to reach the VMs that were kept and that no report has told of."""
        return [] if self._keeper is None else self._keeper.take_fresh()

    def tell_rest(self) -> None:
        """Write what has been told nowhere: after Ctrl-C no report comes, and no summary of all."""
        for lines in self.take_kept():
            said = [f"vmports: a VM was kept: {lines[0]}", *lines[1:]]
            self.terminal.write_here(workers.on_host(self._config, "\n".join(said)))
        mishaps, self.recorder.mishaps = self.recorder.mishaps, []
        for mishap in mishaps:
            self.terminal.write_here(workers.on_host(self._config, f"vmports: {mishap}"))

    @contextlib.contextmanager
    def console_stream(self) -> Iterator[None]:
        """Show guests' consoles meanwhile, if that is asked for."""
        (wanted,) = options.values(self._config, "console")
        if not wanted:
            yield
            return
        from pytest_vmports.report.console_stream import ConsoleStream

        worker = getattr(self._config, "workerinput", {}).get("workerid")
        names = filter(None, [worker, workers.host_of(self._config)])
        prefix = "".join(f"{name} " for name in names)
        with contextlib.closing(ConsoleStream(self.terminal.write, prefix)) as stream:
            self.recorder.follow = stream.follow
            yield

    def complete(self, item: pytest.Item, report: pytest.TestReport, *, facts: bool) -> None:
        """Put on a report what is known of the test's VMs: see `sections.complete`."""
        sections.complete(item, report, self.recorder, self._keeper, facts=facts)

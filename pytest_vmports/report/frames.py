"""Where pytest shows tracebacks: what takes frames of ours out of each, once there can be some.

It is loaded in every run of pytest, and loads nothing before one of our errors or values is made.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vmports.settings.table import MARKER

if TYPE_CHECKING:
    import warnings
    from collections.abc import Iterator

    Node = pytest.Item | pytest.Collector | None

_ERRORS, _VALUES = "pytest_vmports.errors", "pytest_vmports.models"
_RICH = "rich-terminal-reporter"


def prune(config: pytest.Config, node: Node, *errors: pytest.ExceptionInfo[Any]) -> list[str]:
    """Take out what no report shows of these; return what went wrong with that."""
    mishaps: list[str] = []
    if errors and _may_be_there():
        from pytest_vmports.report import traceback
        from pytest_vmports.system.mishaps import noting

        for excinfo in errors:
            with noting("frames of vmports are shown", mishaps.append):
                traceback.prune(config, node, excinfo)
    return mishaps


@contextlib.contextmanager
def pruned_when_raised(config: pytest.Config) -> Iterator[None]:
    """Let an exception leave the ``with`` block without them, where no test is known yet.

    Args:
        config: pytest's, before it has read its options.
    """
    try:
        yield
    except BaseException as error:
        if getattr(config.known_args_namespace, "fulltrace", False):
            for name, module in sys.modules.items():
                if name.startswith("pytest_vmports."):
                    vars(module).pop("__tracebackhide__", None)
        else:
            prune(config, None, pytest.ExceptionInfo.from_exception(error))
        raise


def prune_collected(collector: pytest.Collector, made: pytest.CollectReport) -> None:
    """Make the report of what was collected anew where a module's own code met an error of ours."""
    call = vars(made).get("call")
    if call is None or call.excinfo is None or not _may_be_there():
        return
    made.sections += [
        ("vmports", line) for line in prune(collector.config, collector, call.excinfo)
    ]
    shown = collector.repr_failure(call.excinfo) if made.failed else ""
    if hasattr(shown, "toterminal"):
        made.longrepr = shown
    shorten(made)


def shorten(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Let the summary's line of a failure, which is cut to the terminal's width, begin with it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and crash.message.startswith(f"{_ERRORS}."):
        crash.message = crash.message.removeprefix(f"{_ERRORS}.")


class BesideReports:
    """Hooks that mend what pytest shows in no report, or puts on one that is made.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: Any, excinfo: pytest.ExceptionInfo[Any]) -> None:
        """Show anew how a hook of the user's has met an error of ours."""
        errors = sys.modules.get(_ERRORS)
        # Those of others have come through hooks of ours too, and are not to be cut for that.
        if errors and isinstance(excinfo.value, errors.VmPortsError) and not self._all():
            prune(self._config, None, excinfo)
            vars(excrepr).update(vars(excinfo.getrepr(style="native")))

    # First: before it is shown, written, or sent to xdist's controller.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Make fit to be shown what was put on a report since it was made, as subtests do.

        And where pytest-rich shows it, put our sections where that looks for some: of a failure it
        shows the traceback and no more.
        """
        if hasattr(report, MARKER):
            from pytest_vmports.report.shielded import shield_rest

            shield_rest(report)
            # In the controller alone, where it writes to a terminal; an error of a fixture's it
            # shows whole.
            fails = report.failed and report.when == "call"
            if fails and self._config.pluginmanager.has_plugin(_RICH):
                of_failure = getattr(report.longrepr, "sections", ())
                report.sections += [(title, text) for title, text, _ in of_failure]

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Mend the text of a warning, which may quote a guest, or hold a thread's traceback."""
        warning = warning_message.message
        if isinstance(warning, Warning) and _may_be_there():
            from pytest_vmports.errors.shown import printable
            from pytest_vmports.report.traceback_text import pruned

            mend = str if self._all() else pruned
            warning.args = tuple(
                printable(mend(one)) if isinstance(one, str) else one for one in warning.args
            )

    def _all(self) -> bool:
        return bool(self._config.getoption("fulltrace", False))


def _may_be_there() -> bool:
    # Where none of our errors or values was ever made, none of our code met one.
    return not {_ERRORS, _VALUES}.isdisjoint(sys.modules)

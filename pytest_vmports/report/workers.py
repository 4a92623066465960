"""Lines of xdist's workers: their controller writes them, who knows where on its line pytest is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_KEY = "vmports_lines"
_EVENT = "vmports_line"


def listen(node: Any, session_of: Callable[[pytest.Config], Any]) -> None:
    """Write what a worker sends.

    Args:
        node: xdist's of the worker, which has not begun.
        session_of: returns whose terminal writes; it is not made before there is a line.
    """

    def write(line: str) -> None:
        session_of(node.config).terminal.write_here(line)

    controller = node.config.pluginmanager.getplugin("dsession")
    if controller is None:
        return
    # Its main loop calls what its queue names: so no line gets in between the parts of pytest's.
    setattr(controller, f"worker_{_EVENT}", write)
    channel = node.gateway.newchannel()
    channel.setcallback(partial(_queue, controller))
    node.workerinput[_KEY] = channel


def send(config: pytest.Config, line: str) -> bool:
    """Send a line from a worker; return whether that is done."""
    channel = getattr(config, "workerinput", {}).get(_KEY)
    if channel is None:
        return False
    from pytest_vmports.system.mishaps import printable

    try:
        channel.send(printable(line))
    except OSError:  # its controller has gone
        return False
    return True


def _queue(controller: Any, line: str) -> None:
    controller.queue.put((_EVENT, {"line": line}))

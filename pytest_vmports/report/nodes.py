"""xdist's workers as they begin, on both sides.

One that xdist reaches by ssh or a socket is far: on another host. It is told what the controller's
environment says, names its host in what it tells, sends its artifacts, and ends its VMs as soon as
nobody listens any more. What that takes is loaded there only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_vmports.report.workers import CHANNEL, FAR, far

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

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
    node.workerinput[CHANNEL] = channel
    take: Callable[[Any], None] = partial(_queue, controller)
    if _is_far(node):
        from pytest_vmports.report.far import invite

        take, node.workerinput[FAR] = invite(node.config, node.workerinput["workercount"], take)
    channel.setcallback(take)


def begin(config: pytest.Config) -> None:
    """Be a far worker, before anybody asks for a setting; elsewhere nothing."""
    if told := far(config):
        from pytest_vmports.report.far import begin as begin_far

        begin_far(config, config.workerinput[CHANNEL], told)  # type: ignore[attr-defined]


def greet(config: pytest.Config) -> None:
    """Tell the controller of a far worker which programs its host has."""
    if far(config):
        from pytest_vmports.report.far import greet as greet_far

        greet_far(config)


def over(config: pytest.Config) -> None:
    """Take note that a far worker's tests have ended, and that its controller may go."""
    if far(config):
        from pytest_vmports.report.far import over as far_over

        far_over(config)


def _is_far(node: Any) -> bool:
    """Whether a worker may be on another host: execnet starts it through more than a pipe."""
    spec = node.gateway.spec
    while spec.via:  # started by another gateway, a proxy
        spec = node.nodemanager.group[spec.via].spec
    return not spec.popen


def _queue(controller: Any, line: str) -> None:
    controller.queue.put((_EVENT, {"line": line}))

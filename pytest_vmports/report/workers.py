"""Lines of xdist's workers: their controller writes them, who knows where on its line pytest is.

Of a worker on another host they name the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

CHANNEL, FAR = "vmports_lines", "vmports_far"
"""Keys of what a worker is given: the way to its controller, and what only a far one is told."""
_OURS = "vmports: "


def host_of(config: pytest.Config) -> str:
    """Return the host's name in a far worker; elsewhere nothing, for it goes without saying."""
    if not far(config):
        return ""
    import socket

    return socket.gethostname()


def post(config: pytest.Config, message: object) -> bool:
    """Send something to the controller; return whether that is done."""
    channel = getattr(config, "workerinput", {}).get(CHANNEL)
    if channel is None:
        return False
    try:
        channel.send(message)
    except OSError:  # its controller has gone
        return False
    return True


def send(config: pytest.Config, line: str) -> bool:
    """Send a line from a worker; return whether that is done."""
    if CHANNEL not in getattr(config, "workerinput", {}):
        return False
    from pytest_vmports.system.mishaps import printable

    return post(config, printable(on_host(config, line)))


def on_host(config: pytest.Config, line: str) -> str:
    """Return a line that names the host, in a far worker, where it begins with our name."""
    host = host_of(config)
    if host and line.startswith(_OURS):
        return f"{_OURS}{host}: {line.removeprefix(_OURS)}"
    return line


def far(config: pytest.Config) -> Any:
    """Return what a worker on another host was told by its controller; elsewhere None."""
    return getattr(config, "workerinput", {}).get(FAR)

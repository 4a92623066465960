"""Sockets of ours, whatever a test has put in the place of the standard library's.

Those functions of `socket` that make a socket look up its class when they are called, and find what
pytest-socket or a mock has put there.
"""

from __future__ import annotations

import socket
from _socket import socketpair
from contextlib import ExitStack
from socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM
from socket import socket as Socket  # noqa: N812 - it is a class
from types import ModuleType

Address = tuple[str, int] | tuple[str, int, int, int]
"""Host in figures and port, and of IPv6 the flow and the index of an interface too."""
__all__ = ["Address", "Socket", "connected", "module", "pair"]


def module() -> ModuleType:
    """Return a module like `socket` for code of others, in which no test replaces anything."""
    copy = ModuleType(socket.__name__)
    vars(copy).update(vars(socket))
    return copy


def pair(kind: int = SOCK_STREAM) -> tuple[Socket, Socket]:
    """Return two Unix sockets of a kind that are connected with each other."""
    ours, theirs = socketpair(AF_UNIX, kind)
    return Socket(fileno=ours.detach()), Socket(fileno=theirs.detach())


def connected(address: Address, seconds: float) -> Socket:
    """Return a TCP connection to an address in figures.

    Args:
        address: where to.
        seconds: how long that may take, and whatever is done with it later.

    Raises:
        OSError: there is none.
    """
    with ExitStack() as stack:
        made = stack.enter_context(Socket(AF_INET6 if ":" in address[0] else AF_INET, SOCK_STREAM))
        made.settimeout(seconds)
        made.connect(address)
        stack.pop_all()
    return made

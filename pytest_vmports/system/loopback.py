"""Whether this machine's loopback can be reached at all."""

from __future__ import annotations

import errno
import ipaddress
import socket

from pytest_vmports.errors import HostError
from pytest_vmports.system.sockets import Socket

_ANY_PORT = 9


def refuse_without(host: str) -> None:
    """Refuse a forward on a loopback address that nobody could connect to.

    A port is bound there all the same, so that without this each VM would be waited for in vain.

    Args:
        host: the address that the forward binds.

    Raises:
        HostError: the interface is down, as in a network namespace that was just made.
    """
    try:
        if not ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        return  # a name, which whoever binds it looks up
    # By what it does: /sys may show the interfaces of another network namespace.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with Socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))  # sends nothing
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            raise HostError(
                f"the loopback interface lo is down here, so nobody can reach a forward on {host} "
                f"({error.strerror}); run `ip link set lo up` in this network namespace"
            ) from None

"""Where gvproxy may connect to on a guest's behalf: what its `doorman` says to each ``connect``.

Never to the host's loopback, to a link-local address or a broadcast; with ``strict_network`` to no
address of the host's own; with a list only to what is listed, or what a listed name led to.
gvproxy's own questions for names are connects too, to the host's name servers: they are led to
`names`.
"""

from __future__ import annotations

import errno
import ipaddress
import threading
from collections import Counter
from typing import TYPE_CHECKING

from pytest_vmports.network.names import NOT_LISTED, Names
from pytest_vmports.system import resolving, routes
from pytest_vmports.system.routes import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.network.destinations import Address, Destination, Destinations
    from pytest_vmports.network.log import NetworkLog
    from pytest_vmports.system.gate import Asked

MOST_ADDRESSES = 4096
"""That names may lead to, in all: who answers for a listed name decides how many there are."""
# Go puts a name's addresses in order by what the kernel says of UDP sockets that it connects to
# each once, and sends nothing. Source: its ``net/addrselect.go``. It can do without.
_ORDERING = ("udp", 53)
_MOST_ORDERINGS = 8


class Outgoing:
    """Decides for one VM; its names' relay is closed by `close`.

    Args:
        allowed: what may be reached; None for everything.
        strict: an address of the host's own may not.
        log: takes note of each.
    """

    def __init__(self, allowed: Destinations | None, *, strict: bool, log: NetworkLog) -> None:
        self._allowed, self._strict, self._log = allowed, strict, log
        self._lock = threading.Lock()
        # Of an address the names that led to it, and the entries that list one of them.
        self._led: dict[str, tuple[str, tuple[Destination, ...]]] = {}
        self._orderings: Counter[str] = Counter()
        self._names = Names(allowed, log, self._answered)
        # gvproxy answers these itself, and asks nobody.
        for name, address in resolving.known_names():
            self._learn(name, [address])

    def __call__(self, asked: Asked) -> int | tuple[str, int]:
        """Return 0 for what may be reached, an errno, or where to connect to instead."""
        if not isinstance(asked.address, tuple) or asked.protocol not in {"tcp", "udp"}:
            return errno.EACCES
        host, port = asked.address
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        if port == resolving.PORT and str(address) in _asked_for_names():
            return self._to_names(asked.protocol)
        if (asked.protocol, port) == _ORDERING and self._puts_in_order(str(address)):
            return errno.EACCES
        name, entries = self._led_to(address)
        why, objection = self._judged(address, port, entries)
        self._log.note(
            "connect", name=name, address=str(address), port=port, protocol=asked.protocol,
            allowed=not objection, why=objection or why,
        )  # fmt: skip
        return errno.EACCES if objection else 0

    def close(self) -> None:
        """End the relay. Safe to call again."""
        self._names.close()

    def _judged(
        self, address: Address, port: int, entries: Sequence[Destination]
    ) -> tuple[str, str]:
        """Return what allows it, and what forbids it, one of them empty."""
        closed, of_the_host = self._closed(address)
        if closed or self._allowed is None:
            return "" if closed else "allow_network", closed
        listed = self._allowed.holding(address, port)
        if listed is not None:
            return str(listed), ""
        by_name = next((one for one in entries if one.port in {None, port}), None)
        if by_name is None:
            return "", NOT_LISTED
        if of_the_host:  # who answers for a name could lead the guest to the host by it
            return "", f"an address of the host itself, to which {by_name} leads"
        return str(by_name), ""

    def _closed(self, address: Address) -> tuple[str, bool]:
        """Return why nobody may be led to it, list or no list, and whether it is the host's own."""
        if address.is_loopback or address in ipaddress.ip_network("0.0.0.0/8"):
            return "the host's loopback", True
        if address.is_unspecified:
            return "the host's loopback", True
        if address.is_link_local:  # gvproxy should not even ask
            return "a link-local address, where clouds keep their machines' secrets", False
        try:
            kind = routes.kind_of(str(address))
        except OSError as error:
            return f"the kernel does not tell whose address it is: {error}", False
        if kind not in {Kind.ELSEWHERE, Kind.LOCAL} or address.is_multicast:
            return f"a {Kind.MULTICAST if address.is_multicast else kind} address", False
        own = kind is Kind.LOCAL
        return "an address of the host itself (strict_network)" if own and self._strict else "", own

    def _learn(self, name: str, addresses: Sequence[str]) -> None:
        """Take note of what a name led to."""
        listed = () if self._allowed is None else tuple(self._allowed.named(name))
        with self._lock:
            for address in addresses:
                if address in self._led:
                    before, known = self._led[address]
                    more = (*known, *(one for one in listed if one not in known))
                    self._led[address] = (before if known or not listed else name, more)
                elif len(self._led) < MOST_ADDRESSES:
                    self._led[address] = (name, listed)

    def _answered(self, name: str, addresses: Sequence[str]) -> None:
        self._learn(name, addresses)
        with self._lock:
            for address in addresses:
                if address in self._led:
                    self._orderings[address] = min(self._orderings[address] + 1, _MOST_ORDERINGS)

    def _puts_in_order(self, address: str) -> bool:
        """Whether a connect is gvproxy's own; a guest's would be repeated, and then be noted."""
        with self._lock:
            self._orderings[address] -= 1
            if self._orderings[address] >= 0:
                return True
            del self._orderings[address]
        return False

    def _led_to(self, address: Address) -> tuple[str, tuple[Destination, ...]]:
        with self._lock:
            return self._led.get(str(address), ("", ()))

    def _to_names(self, protocol: str) -> int | tuple[str, int]:
        try:
            return self._names.address(protocol)
        except OSError:
            # Names alone are no reason to close a network that is open.
            return 0 if self._allowed is None else errno.EACCES


def _asked_for_names() -> tuple[str, ...]:
    """Return whom gvproxy may take for a name server.

    Once another file has come in the place of the host's, as DHCP or a VPN puts it there, gvproxy's
    walls keep it from that, and Go asks those of a host without one.
    """
    return (*resolving.name_servers(), *resolving.NOBODY_SAYS)

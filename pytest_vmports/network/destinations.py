"""What a guest may reach where ``allow_network`` is a list: names, addresses, networks. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.constants import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ALLOWED = (
    "write yes, no, or a list of names (packages.example.org, *.example.org for all below it), "
    "addresses (192.0.2.7) and networks (10.1.0.0/16), each with a port if it is to be one alone "
    "(example.org:443, [2001:db8::1]:443)"
)
# Source: RFC 1035 and RFC 1123; '_' is no letter of a host's name, and asked for all the same.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(?:\.{_LABEL})*\.?")
_LONGEST_NAME = 253
_LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
_LOOPBACK = ("0.0.0.0/8", "127.0.0.0/8", "::1/128", "::/128", "224.0.0.0/4", "ff00::/8")


@dataclass(frozen=True, order=True)
class Destination:
    """One entry: a name or a network, and the port if it is for one alone.

    Attributes:
        name: in small letters, without a dot at its end; ``*.`` stands for any name below.
        network: in figures, with the length of its prefix.
        port: None for all.
    """

    name: str = ""
    network: str = ""
    port: int | None = None

    def is_called(self, name: str) -> bool:
        """Whether it is the entry of a name."""
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return bool(self.name) and name == self.name

    def has(self, address: Address) -> bool:
        """Whether it is a network with this address."""
        return bool(self.network) and address in ipaddress.ip_network(self.network)

    def __str__(self) -> str:
        one = self.network.removesuffix("/128" if ":" in self.network else "/32")
        bare = self.name or one
        if self.port is None:
            return bare
        return f"[{bare}]:{self.port}" if ":" in bare else f"{bare}:{self.port}"


@dataclass(frozen=True)
class Destinations:
    """A list of them, in an order that is the same however it was written; may be empty."""

    entries: tuple[Destination, ...] = ()

    def named(self, name: str) -> list[Destination]:
        """Return the entries of a name, as a name server is asked for it.

        Of one that is written with a backslash there are none: a dot may stand within a label, and
        then it is a name below another.
        """
        plain = plain_name(name)
        if "\\" in plain:
            return []
        return [one for one in self.entries if one.is_called(plain)]

    def holding(self, address: Address, port: int) -> Destination | None:
        """Return the network, or address, by which this may be reached; None for none."""
        return next((o for o in self.entries if o.port in {None, port} and o.has(address)), None)

    def __str__(self) -> str:
        return ", ".join(map(str, self.entries)) or "(nothing)"


def plain_name(name: str) -> str:
    """Return a name as entries have it."""
    return name.lower().removesuffix(".")


def read(words: Iterable[str]) -> Destinations:
    """Return what words name.

    Raises:
        ValueError: one is nothing that can be allowed; says which, and what can be.
    """
    return Destinations(tuple(sorted({_read_one(word.strip()) for word in words}, key=str)))


def _read_one(word: str) -> Destination:
    host, port = _split(word)
    network = _network(host, word)
    if network is not None:
        return Destination(network=str(network), port=port)
    name = _in_ascii(host, word).lower()
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(f"{word!r} is none of these; {_slip(host)}{ALLOWED}")
    labels = name.removesuffix(".").split(".")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        raise ValueError(f"{word!r} is no address; {ALLOWED}")
    if labels[-1] == "localhost":
        raise ValueError(_of_loopback(word))
    if len(labels) == 1 and port is None and not name.endswith("."):
        raise ValueError(f"{word!r} has no dot: write '{word}.' if that is a name; {ALLOWED}")
    return Destination(name=plain_name(name), port=port)


def _in_ascii(host: str, word: str) -> str:
    """Return a name as name servers know it; empty for none."""
    if host.isascii():
        return host
    try:
        # Python's own, which is of 2003: since then some letters stand for themselves.
        name = host.encode("idna").decode("ascii")
        same = name.encode().decode("idna") == host.lower()
    except UnicodeError:
        return ""
    if not same:
        raise ValueError(f"{word!r} may be another name than {name}: write it in ASCII")
    return name


def _split(word: str) -> tuple[str, int | None]:
    """Return the host and the port of an entry."""
    match = re.fullmatch(r"\[([^][]*)\](?::(\d{1,5}))?|([^:]*):(\d{1,5})", word)
    if match is None:
        return word, None
    host, port = match[1] or match[3] or "", match[2] or match[4]
    if port is not None and not 1 <= int(port) <= MAX_PORT:
        raise ValueError(f"{word!r}: {port} is no port from 1 to {MAX_PORT}; {ALLOWED}")
    return host, None if port is None else int(port)


def _network(host: str, word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        found = ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    if mapped is not None:
        raise ValueError(f"{word!r}: write the IPv4 address alone, {mapped}; {ALLOWED}")
    # One that holds more is fine: of it the host's loopback stays closed.
    if _is_within(found, _LOOPBACK):
        raise ValueError(_of_loopback(word))
    if _is_within(found, _LINK_LOCAL):
        raise ValueError(
            f"{word!r} is link-local, and closed to every guest: clouds keep their machines' "
            f"secrets there; {ALLOWED}"
        )
    address = host.partition("/")[0]
    if "/" in host and ipaddress.ip_address(address) != found.network_address:
        raise ValueError(f"{word!r} is an address in a network: write {found}, or {address} alone")
    return found


def _is_within(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, others: Iterable[str]
) -> bool:
    return any(
        network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
        for other in map(ipaddress.ip_network, others)
    )


def _of_loopback(word: str) -> str:
    return (
        f"{word!r} is no place that a guest could reach; a service on the host's own loopback is "
        "given to it by host_ports"
    )


def _slip(host: str) -> str:
    """Return what was meant, as the begin of a sentence; empty for no idea."""
    if host == "*":
        return "if everything is meant, write yes; "
    if "//" in host:
        return "leave out https:// and what comes behind the name; "
    if re.search(r"[\[\]'\"]", host):
        return "leave out brackets and quotes; "
    if host.startswith("."):
        return f"did you mean *{host}? "
    return ""

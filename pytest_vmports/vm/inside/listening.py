"""What a guest's own tables say of its servers and its network, and what follows for its ports."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vmports.constants import GUEST_IP, GUEST_MAC
from pytest_vmports.errors import MachineDiedError, VmPortsError
from pytest_vmports.system.said import said_by
from pytest_vmports.vm.readiness import GOOD_ANSWER, NOT_HTTP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vmports.vm.inside.shell import Shell

_SECONDS = 5.0
_PARTS = ["servers", "datagrams", "cards", "addresses", "end"]
_MOST_BYTES, _MOST_ROWS, _MOST_SHOWN = 64 * 1024, 200, 8
_IPV4_DIGITS, _UP = 8, 1
# 0A is LISTEN, 07 a UDP socket without a peer (source: Linux's include/net/tcp_states.h); the
# formats: its net/ipv4/tcp_ipv4.c.
_COMMAND = f"""
echo servers
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep ' 0A ' | head -n {_MOST_ROWS} | cut -c 1-120
echo datagrams
cat /proc/net/udp /proc/net/udp6 2>/dev/null | grep ' 07 ' | head -n {_MOST_ROWS} | cut -c 1-120
echo cards
for card in /sys/class/net/*; do
  echo "${{card##*/}} $(cat "$card/address") $(cat "$card/flags")"
done | head -n {_MOST_ROWS}
echo addresses
ip -o -4 addr show 2>/dev/null | head -n {_MOST_ROWS} | cut -c 1-120
echo end
"""
_SOCKET = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F:]+ (0A|07)\b.*")
_CARD = re.compile(r"([\w.@-]{1,20}) ([0-9a-f:]{0,60}) (0x[0-9a-f]{1,8})")
_ADDRESS = re.compile(r"\d+: ([\w.@-]{1,20})\s+inet ([0-9.]{7,15})[/ ].*")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Heard:
    """What a guest has said of itself.

    Attributes:
        servers: address and port of each TCP socket that listens.
        network: what is wrong with the card that the forwards lead to; empty for nothing.
        datagrams: the UDP ports that programs have open.
    """

    servers: tuple[tuple[Address, int], ...] = ()
    network: str = ""
    datagrams: frozenset[int] = frozenset()


def ask(shell: Callable[[], Shell | None]) -> Heard | None:
    """Return what the guest says; None where it cannot be asked, or says nothing that makes sense.

    Args:
        shell: returns the way into it, or None.

    Raises:
        MachineDiedError: its VM has ended.
    """
    try:
        way = shell()
        if way is None:
            return None
        _, said, _ = way.execute(_COMMAND, timeout=_SECONDS, input=b"")
        return heard(said)
    except MachineDiedError:
        raise
    except (VmPortsError, OSError, ValueError, subprocess.SubprocessError):
        return None  # it is asked to explain another failure, which is told in any case


def heard(said: bytes) -> Heard:
    """Return what the guest's answer means.

    Raises:
        GuestSaidError: it is malformed.
    """
    with said_by("the guest, asked for its servers", said):
        return _heard(said)


def _heard(said: bytes) -> Heard:
    # The guest is hostile: nothing of its own words goes further than this function, but for
    # numbers, addresses and names of letters.
    if len(said) > _MOST_BYTES:
        raise ValueError("the answer is too long")
    rows: dict[str, list[str]] = {}
    at: list[str] = []
    for line in said.decode("ascii").splitlines():
        if line in _PARTS and line not in rows:
            at = rows[line] = []
        else:
            at.append(line)
    if list(rows) != _PARTS or rows["end"]:
        raise ValueError("the answer is not whole")
    servers = tuple(dict.fromkeys(_socket(line, "0A") for line in rows["servers"]))
    datagrams = frozenset(_socket(line, "07")[1] for line in rows["datagrams"])
    return Heard(servers, _network(rows["cards"], rows["addresses"]), datagrams)


def explained(answers: Mapping[int, str], said: Heard | None) -> dict[int, str]:
    """Return the answers of ports, each with the reason that the guest's own tables give.

    Args:
        answers: guest port to what a `readiness.Probe` says of it.
        said: what the guest says; None where it could not be asked.
    """
    if said is None:
        return dict(answers)
    return {
        port: answer if answer.startswith((GOOD_ANSWER, NOT_HTTP)) else _reason(port, answer, said)
        for port, answer in answers.items()
    }


def _reason(port: int, answer: str, said: Heard) -> str:
    if said.network:
        return f"{_event(answer)}: {said.network}"
    here = [address for address, number in said.servers if number == port]
    reached = [one for one in here if isinstance(one, ipaddress.IPv4Address) and _reached(one)]
    if reached:
        return (
            f"{answer.partition(':')[0]}, though a server listens on {_shown(reached[0], port)} "
            "now: a packet filter in the guest, or it has too much to do"
        )
    if here:
        where = ", ".join(_shown(address, port) for address in here[:_MOST_SHOWN])
        alone = "IPv6 alone" if all(one.version == 6 for one in here) else "this address alone"  # noqa: PLR2004
        return (
            f"{_event(answer)}: in the guest a server listens on {where}, for {alone}, which "
            f"forwards do not reach: have it listen on 0.0.0.0 (they lead to {GUEST_IP})"
        )
    if port in said.datagrams:
        return (
            f"{_event(answer)}: a program in the guest has the UDP port {port} open, and nothing "
            f'listens there by TCP: declare "{port}/udp" where UDP is meant'
        )
    if not said.servers:
        return (
            f"{_event(answer)}: no program in the guest listens on any TCP port: does the setup "
            "start a server, and has that ended?"
        )
    others = sorted(said.servers, key=lambda one: (one[1], one[0].version, int(one[0])))
    shown = ", ".join(_shown(*one) for one in others[:_MOST_SHOWN])
    more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
    return (
        f"{_event(answer)}: nothing in the guest listens on port {port}; servers listen on "
        f"{shown}{more}"
    )


def _event(answer: str) -> str:
    """Return what happened, without the guess at its reason."""
    return re.split(r"[:(]", answer, maxsplit=1)[0].strip()


def _reached(address: ipaddress.IPv4Address) -> bool:
    return str(address) in {"0.0.0.0", GUEST_IP}  # noqa: S104 - what the guest listens on


def _shown(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004


def _socket(line: str, wanted: str) -> tuple[Address, int]:
    match = _SOCKET.fullmatch(line)
    if match is None or match[3] != wanted:
        raise ValueError("no row of /proc/net/tcp or udp")
    digits, port, _ = match.groups()
    # Words of 32 bits, each in the processor's order: little-endian wherever this runs.
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    packed = b"".join(words)
    if len(digits) == _IPV4_DIGITS:
        return ipaddress.IPv4Address(packed), int(port, 16)
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address, int(port, 16)


def _network(cards: list[str], addresses: list[str]) -> str:
    """Return what is wrong with the guest's first card; empty for nothing."""
    found = [match.groups() for line in cards if (match := _CARD.fullmatch(line))]
    if len(found) != len(cards):
        raise ValueError("no row of a card")
    ours = [(name, int(flags, 16)) for name, mac, flags in found if mac == GUEST_MAC]
    if not ours:
        return "the guest has no network card with the address that we gave it (no driver?)"
    name, flags = ours[0]
    if not flags & _UP:
        return f"the guest's network card {name} is down"
    known = [match.groups() for line in addresses if (match := _ADDRESS.fullmatch(line))]
    if not known or any(address == GUEST_IP for _, address in known):
        return ""  # nothing is known where there is no ip program
    has = ", ".join(address for card, address in known if card == name)[:60] or "none"
    known = [(card, str(ipaddress.IPv4Address(address))) for card, address in known]
    return f"the guest's network card {name} has not the address {GUEST_IP}, and has {has}"

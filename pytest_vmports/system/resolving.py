"""What this host is told of names: its name servers, and the file of names that it knows itself.

Sources: resolv.conf(5), hosts(5); Go's ``net/dnsconfig_unix.go``, for what a missing file means.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Final

from pytest_vmports.system.small_file import read_small

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"
PORT: Final = 53
NOBODY_SAYS: Final = ("127.0.0.1", "::1")
"""Those that are asked where the file is not to be read."""
_MOST = 3
# What was read last: while a test has replaced the file system, that holds.
_texts: dict[str, list[list[str]]] = {}


def name_servers(*, zones: bool = False) -> list[str]:
    """Return the addresses of the host's name servers, in figures, the first to be asked first.

    Args:
        zones: with the interface behind which a link-local one is reached, as ``fe80::1%eth0``.
    """
    rows = [row for row in _rows(RESOLV_CONF, "#;") if row[0] == "nameserver"]
    words = [word for row in rows for word in row[1:2] if _address(word)][:_MOST]
    found = [_address(word) + "".join(word.partition("%")[1:] if zones else ()) for word in words]
    return found or [*NOBODY_SAYS]


def known_names() -> list[tuple[str, str]]:
    """Return name and address of what the host's own file names; a name may have several."""
    rows = _rows(HOSTS, "#")
    return [(name, address) for row in rows if (address := _address(row[0])) for name in row[1:]]


def _rows(path: str, comments: str) -> list[list[str]]:
    try:
        # It is a link where systemd-resolved keeps it.
        text = read_small(os.path.realpath(path)).decode("utf-8", "replace")
    except OSError:
        return _texts.get(path, [])
    bare = (re.split(f"[{comments}]", line, maxsplit=1)[0].split() for line in text.splitlines())
    _texts[path] = [words for words in bare if words]
    return _texts[path]


def _address(word: str) -> str:
    try:
        return str(ipaddress.ip_address(word.partition("%")[0]))
    except ValueError:
        return ""

"""How a setting's text, or a marker's value, becomes a value.

Each function raises ValueError or TypeError with what is allowed. The heavy modules are imported
only when a value needs them: a test that leases a port needs neither guests nor mappings.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import MAX_PORT, PORT_FORWARD_MIN_HOST_PORT
from pytest_vmports.settings.wait_for import WaitFor
from pytest_vmports.system.paths import absolute, text_bytes

if TYPE_CHECKING:
    from pytest_vmports.models import PortMapping
    from pytest_vmports.network.destinations import Destinations

_WORDS = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}
_MOST_READY = 64
_LEAST_MEMORY = 64
_MOST_MEMORY = 1 << 40  # MiB; QEMU counts bytes in 64 bits
_MOST_SECONDS = 10**8  # three years, which every clock and system call takes
# Readers of paths, which are given what a relative one is relative to.
ROOTED = frozenset(
    {
        "path", "program", "folder_or_no", "picture", "report", "files", "guest", "disks", "store",
        "secret",
    }
)  # fmt: skip


def boolean(value: Any) -> bool:
    """Read yes or no."""
    if isinstance(value, bool):
        return value
    word = _WORDS.get(str(value).strip().lower())
    if word is None:
        raise ValueError("write yes or no (also true/false, on/off, 1/0)")
    return word


def reach(value: Any) -> bool | Destinations:
    """Read yes, no, or what a guest may reach: a list, or a text with blanks or commas."""
    from pytest_vmports.network.destinations import ALLOWED, Destinations, read

    if isinstance(value, bool | Destinations):
        return value
    word = _WORDS.get(str(value).strip().lower())
    if word is not None:
        return word
    if isinstance(value, str):
        words = value.replace(",", " ").split()
        if not words:
            raise ValueError(ALLOWED)
        return read(words)
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError(ALLOWED)
    for one in value:
        if isinstance(one, bool | int | bytes) or not re.fullmatch(r"\S+", str(one)):
            raise ValueError(f"{one!r} is none of these; {ALLOWED}")
    return read(map(str, value))


def yes_no_or(*others: str) -> Callable[[Any], bool | str]:
    """Return a reader of yes, no, or one of these words."""

    def read(value: Any) -> bool | str:
        word = str(value).strip().lower()
        if word in others:
            return word
        if isinstance(value, bool) or word in _WORDS:
            return boolean(value)
        raise ValueError(f"write yes, no or {', '.join(others)} (also true/false, on/off, 1/0)")

    return read


def choice(*allowed: str) -> Callable[[Any], str]:
    """Return a reader of one of these words."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"write one of {', '.join(allowed)}")
        return str(value)

    return read


def whole(least: int, most: int) -> Callable[[Any], int]:
    """Return a reader of a whole number between two, both included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value).strip()):
            raise ValueError(f"write a whole number from {least} to {most}")
        number = int(value)
        if not least <= number <= most:
            raise ValueError(f"write a whole number from {least} to {most}")
        return number

    return read


def kept_ready(value: Any) -> int | str:
    """Read how many VMs are kept ready: a whole number, or ``auto``."""
    try:
        return "auto" if str(value).strip() == "auto" else whole(0, _MOST_READY)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def memory(value: Any) -> int:
    """Read MiB: ``256``, ``"256M"`` or ``"1G"``."""
    allowed = (
        f"write MiB as a whole number from {_LEAST_MEMORY} up to {_MOST_MEMORY}, like 256, or 1G"
    )
    match = re.fullmatch(r"(\d+)\s*(?:([MG])i?B?)?", str(value).strip(), re.IGNORECASE)
    if isinstance(value, bool) or match is None:
        raise ValueError(allowed)
    size = int(match[1]) * (1024 if (match[2] or "m").lower() == "g" else 1)
    if not _LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise ValueError(allowed)
    return size


def seconds(value: Any) -> float:
    """Read a positive number of seconds."""
    allowed = f"write a positive number of seconds, up to {_MOST_SECONDS}"
    if isinstance(value, bool):
        raise TypeError(allowed)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(allowed) from None
    if not 0 < number <= _MOST_SECONDS:
        raise ValueError(allowed)
    return number


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise TypeError("write a text")
    try:
        text_bytes(value)
    except UnicodeEncodeError as error:
        raise ValueError(f"write a text; {value[error.start]!r} is none") from error
    return value


def words(value: Any) -> str:
    """Read words: a text, of several lines too, or a list of them."""
    if isinstance(value, list | tuple):
        return " ".join(map(words, value))
    return " ".join(text(value).splitlines())


def text_or_none(value: Any) -> str | None:
    """Read a text; empty means none, blanks alone too."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text(str(value) if hasattr(value, "__fspath__") else value)


def path(value: Any, root: Path | None = None) -> str | None:
    """Read a path; empty means none."""
    written = text_or_none(value)
    return None if written is None else str(absolute(written, root))


def program(value: Any, root: Path | None = None) -> str | None:
    """Read a program's path, or a name that is looked for on PATH; empty means none."""
    written = text_or_none(value)
    if written is None or not ("/" in written or written.startswith("~")):
        return written
    return path(written, root)


def folder_or_no(value: Any, root: Path | None = None) -> str | None:
    """Read a folder's path; ``no`` means that none is wanted, however it is spelled."""
    # Of false in a native table pytest 8 makes the text "False".
    return "no" if _WORDS.get(str(value).lower()) is False else path(value, root)


def picture(value: Any, root: Path | None = None) -> str | None:
    """Return the path of a file to draw into.

    Raises:
        ValueError: it is neither HTML nor SVG, nor JSON for trace events.
    """
    file = path(value, root)
    if file is not None and not file.lower().endswith((".html", ".svg", ".json")):
        raise ValueError("a file name that ends in .html, .svg or .json")
    return file


def report(value: Any, root: Path | None = None) -> bool | str:
    """Read yes, no, or the path of a file for the report, which says yes too.

    Raises:
        ValueError: it is neither, as a file that is not JSON.
    """
    if isinstance(value, bool) or str(value).strip().lower() in _WORDS:
        return boolean(value)
    try:
        return json_file(value, root)
    except ValueError as error:
        raise ValueError(f"write yes or no, or {error}") from None


def json_file(value: Any, root: Path | None = None) -> str:
    """Return the path of a file for JSON.

    Raises:
        ValueError: its name ends otherwise.
    """
    file = path(value, root)
    if file is None or not file.lower().endswith(".json"):
        raise ValueError("a file name that ends in .json")
    return file


def files(value: Any, root: Path | None = None) -> Mapping[str, str]:
    """Read host path to guest path: a mapping, or ``host=guest`` words as a shell splits them."""
    if not value:
        return {}
    if isinstance(value, str):
        value = shlex.split(text(value))
        if any(word.endswith(",") for word in value[:-1]):
            raise ValueError("write blanks between the pairs, and no commas: a=/b c=/d")
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        # A host path may have the sign too, and a guest path begins with a slash.
        split = (text(word).partition("=/") for word in value)
        pairs = [(host, sign[1:] + guest) for host, sign, guest in split]
    elif isinstance(value, Mapping):
        pairs = [(text(str(host)), text(str(guest))) for host, guest in value.items()]
    else:
        raise TypeError('write a mapping like {"app.conf": "/etc/app.conf"}')
    for host, guest in pairs:
        bad = not PurePosixPath(guest).is_absolute() or ".." in guest.split("/") or "\0" in guest
        if not host or bad:
            raise ValueError(
                f"{host!r} to {guest!r}: write host path and absolute guest path, "
                'like {"app.conf": "/etc/app.conf"} or app.conf=/etc/app.conf'
            )
    return {str(absolute(host, root)): guest for host, guest in pairs}


def host_ports(value: Any) -> Mapping[int, int]:
    """Read the guest's port to the host's: a mapping, or ``guest:host`` words."""
    allowed = (
        "write the guest's port and that of a service on the host's 127.0.0.1, like {8000: 45123} "
        "or 8000:45123"
    )
    if not value:
        return {}
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, str):
        pairs = [word.partition(":")[::2] for word in value.replace(",", " ").split()]
    else:
        raise TypeError(allowed)
    ports: dict[int, int] = {}
    for pair in pairs:
        for port in pair:
            if not re.fullmatch(r"[0-9]{1,5}", str(port)) or not 1 <= int(port) <= MAX_PORT:
                raise ValueError(f"{port!r} is no port from 1 to {MAX_PORT}; {allowed}")
        guest_port, host_port = map(int, pair)
        if guest_port in ports:
            raise ValueError(f"the guest's port {guest_port} is there twice; {allowed}")
        if host_port in ports.values():
            raise ValueError(f"the host's port {host_port} is there twice: one of them is enough")
        ports[guest_port] = host_port
    return ports


def network_name(value: Any) -> str | None:
    """Read the name of a network; empty means none."""
    name = text_or_none(value)
    if name is not None and not re.fullmatch(r"[\w.-]{1,40}", name):
        raise ValueError("write a name of letters, digits, '.', '_' and '-', like backend")
    if name is not None and name.lower() in _WORDS and not name.isdigit():
        raise ValueError(
            "write a name, like backend; whether a guest reaches the network says allow_network"
        )
    return name


def ipv4(value: Any) -> str:
    """Read an IPv4 address of this machine; QEMU 7.2 forwards from no other kind."""
    try:
        return str(ipaddress.IPv4Address(str(value)))
    except ValueError:
        raise ValueError("write an IPv4 address of this machine, like 127.0.0.1") from None


def port_range(value: Any) -> tuple[int, int] | None:
    """Read ``"20000-30000"``, both included."""
    if value is None:
        return None
    allowed = f"write first-last, like 20000-30000, within {PORT_FORWARD_MIN_HOST_PORT}-{MAX_PORT}"
    if isinstance(value, list):
        value = "-".join(map(str, value))
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", str(value).strip())
    if match is None:
        raise ValueError(allowed)
    first, last = int(match[1]), int(match[2])
    if not PORT_FORWARD_MIN_HOST_PORT <= first <= last <= MAX_PORT:
        raise ValueError(allowed)
    return first, last


def ports(value: Any) -> tuple[PortMapping, ...]:
    """Read several ports: a list, or a text with blanks or commas between them."""
    if value is None or value == "":  # as most say, and each run reads it
        return ()
    from pytest_vmports.port_forward import parse_ports

    return parse_ports(value)


def wait_for(value: Any) -> WaitFor:
    """Read what has to answer before the VM is ready."""
    if isinstance(value, WaitFor):
        return value
    if value is None:
        return WaitFor(mode="none")
    if isinstance(value, str) and value.strip() in {"any", "all", "none"}:
        return WaitFor(mode=value.strip())
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)(/\S*)", value.strip())):
        return WaitFor(mode="http", ports=(_guest_port(match[1]),), path=match[2])
    numbers = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if isinstance(numbers, int):
        numbers = [numbers]
    if not isinstance(numbers, list | tuple) or not numbers:
        raise ValueError(_WAIT_FOR)
    return WaitFor(mode="ports", ports=tuple(_guest_port(number) for number in numbers))


_WAIT_FOR = "write any, all, none, guest ports like 80 or [80, 443], or an HTTP path like 8080/up"


def _guest_port(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,5}", str(value)):
        raise ValueError(_WAIT_FOR)
    number = int(value)
    if not 1 <= number <= MAX_PORT:
        raise ValueError(f"guest port {number} is not within 1 to {MAX_PORT}")
    return number

"""What people write in the place of a setting's name, and what they mean."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pytest_vmports.constants import BY_MARKER
from pytest_vmports.settings.table import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Protocol

    class Named(Protocol):
        """A marker, as pytest has it."""

        @property
        def name(self) -> str:
            """Its name."""


_PORTS = frozenset(
    ["port", "ports", "guest_port", "guest_ports", "forward", "forwards", "forwarded_ports",
     "publish", "exposed", "expose_ports", "exposed_ports", "tcp", "udp", "mappings"]
)  # fmt: skip
# Only names that no likeness of letters leads to, or that one would lead to another setting.
_MEANT = {
    **dict.fromkeys(("ram", "mem", "mem_size", "size"), "memory"),
    **dict.fromkeys(("cores", "smp", "vcpus", "processors"), "cpus"),
    **dict.fromkeys(("timeout", "start_timeout", "ready_timeout", "wait_timeout"), "boot_timeout"),
    **dict.fromkeys(("wait", "ready", "wait_until", "health", "healthcheck"), "wait_for"),
    **dict.fromkeys(("image", "disk", "os", "distro", "qcow2", "vm"), "guest"),
    **dict.fromkeys(("script", "command", "cmd", "run", "provision", "init", "user_data"), "setup"),
    **dict.fromkeys(("internet", "net", "network_access", "online", "nat"), "allow_network"),
    **dict.fromkeys(("file", "copy", "put", "volumes", "mount", "mounts"), "files"),
    **dict.fromkeys(("kvm", "acceleration", "accelerator", "tcg"), "accel"),
    **dict.fromkeys(("cmdline", "kernel_args", "kernel_cmdline"), "append"),
    **dict.fromkeys(("cold", "fresh", "no_template"), "fresh_boot"),
    **dict.fromkeys(("snapshot", "clone"), "template"),
    **dict.fromkeys(("graphics", "screen", "vga"), "display"),
    **dict.fromkeys(("skip", "on_missing"), "missing"),
    **dict.fromkeys(("host", "address", "listen", "bind"), "bind_host"),
    **dict.fromkeys(("capture", "tcpdump"), "pcap"),
}

_ALIKE = 0.7


def hint(name: str, known: Sequence[str], where: str) -> str:
    """Return what an unknown keyword may mean, as the begin of a sentence; empty for no idea.

    Args:
        name: the keyword.
        known: those that are allowed.
        where: the marker or the function that it was given to.
    """
    plain = name.lower().replace("-", "_")
    if plain in _PORTS:
        if where == "vm_factory":
            return "write ports as a list: vm_factory(ports=[8080]); "
        return "write ports positionally: vmports(8080, 9090); "
    close = [_MEANT[plain]] if plain in _MEANT else difflib.get_close_matches(plain, known, 1)
    return f"did you mean {close[0]}? " if close else ""


def misspelt(markers: Sequence[str], right: str) -> str | None:
    """Return the name among a test's markers that is meant to be this one; None for none."""
    plain = right.replace("_", "")
    for name in markers:
        bare = name.lower().replace("_", "")
        # "imports" has more of its letters than "vmprt" has.
        if bare[0] != plain[0] and bare not in _PORTS:
            continue
        if name != right and difflib.SequenceMatcher(None, bare, plain).ratio() >= _ALIKE:
            return name
    return None


def how_to_declare(markers: Iterable[Named]) -> str:
    """Return what to do about a port that a test looks up and has not declared.

    Args:
        markers: the test's.
    """
    slip = misspelt([mark.name for mark in markers], MARKER)
    return f"{BY_MARKER}, not @pytest.mark.{slip}" if slip else BY_MARKER


def in_common(told: Iterable[tuple[str, str]]) -> list[str]:
    """Return what is wrong with tests, in order; what several have in common once.

    Args:
        told: each test's name, and what is wrong with it, which may begin with that name.
    """
    found: dict[str, list[str]] = {}
    for test, problem in told:
        named = problem.startswith(test)
        found.setdefault(problem.removeprefix(test), []).append(test if named else "")
    return [
        f"{tests[0]} and {len(tests) - 1} more{what}" if tests[0] and tests[1:] else tests[0] + what
        for what, tests in found.items()
    ]

"""The table of settings, and the homes where their values stand.

Every pytest run loads this, whether or not it starts a VM: it imports next to nothing, and how a
value is read is named only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_vmports.constants import PORT_FORWARD_BIND_HOST, PORT_SPELLINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Protocol

    import pytest

    class Homes(Protocol):
        """Command line and ini file, as pytest's configuration shows them."""

        @property
        def rootpath(self) -> Path:
            """What relative paths are relative to."""

        @property
        def inipath(self) -> Path | None:
            """The ini file."""

        def getoption(self, name: str, /) -> Any:
            """Return what the command line says; None for nothing."""

        def getini(self, name: str, /) -> Any:
            """Return what the ini file says; None for nothing."""


MARKER = "vmports"
# What `python -m pytest_vmports.leases run` tells its command, a port's number each.
LEASED_PORT = "VMPORTS_PORT_"


class Option(NamedTuple):
    """One setting: how it is read and explained.

    Attributes:
        name: its name in all homes.
        default: its value when nobody says anything, in the spelling a user would use.
        reader: the name of the function in a module beside this one that makes the final
            value.
        help: for ``pytest --help`` and the README.
        among: what makes that reader, where it depends: a choice's words, a number's bounds.
        marker: a marker may set it; False for what is chosen once per process.
        flag: on the command line its name alone says yes.
    """

    name: str
    default: str | None
    reader: str
    help: str
    among: tuple[Any, ...] = ()
    marker: bool = True
    flag: bool = False

    def read(self, value: Any, root: Path | None = None) -> Any:
        """Return the final value.

        Args:
            value: as it is written.
            root: what a relative path is relative to; None means the current folder.

        Raises:
            ValueError: the value is wrong; says what is allowed.
            TypeError: likewise.
        """
        from pytest_vmports.settings import far_store, guests, hardware, parse

        home = next(
            one for one in (guests, hardware, far_store, parse) if hasattr(one, self.reader)
        )
        reader = getattr(home, self.reader)
        if self.reader in parse.ROOTED:
            return reader(value, root)
        return reader(*self.among)(value) if self.among else reader(value)


OPTIONS = (
    Option("expose", "", "ports", "guest ports of every test, e.g. '8080 5353/udp 3000:80'"),
    Option(
        "allow_network", "no", "reach",
        "let the guest reach the network: yes, no, or only these names, addresses and networks, "
        "e.g. 'packages.example.org, *.example.net:443, 10.1.0.0/16'",
    ),
    Option(
        "backend", "auto", "choice",
        "who connects the guest: auto (gvproxy when allow_network, else usernet), usernet, "
        "gvproxy, passt",
        ("auto", "usernet", "gvproxy", "passt"),
    ),
    Option(
        "host_ports", "", "host_ports",
        "services on the host's 127.0.0.1 that the guest may reach, at 192.168.128.1: "
        "its port:the host's, e.g. '8000:45123'",
    ),
    Option(
        "network", None, "network_name",
        "name of a network that this VM shares with other VMs of the test process",
    ),
    Option(
        "strict_network", "no", "boolean",
        "let no guest reach the host by the host's own addresses, and refuse a VM that cannot be "
        "kept from gvproxy's API and the host's 127.0.0.1: yes or no",
    ),
    Option(
        "guest", "alpine", "guest",
        "what to boot: alpine, alpine-disk, an image's name (debian-13), path or address, a "
        "container image (docker://nginx:1.27, oci:app.tar), or module:attribute "
        "(a Guest, or returns one)",
    ),
    Option("kernel", None, "path", "path of a kernel to boot instead"),
    Option("initrd", None, "path", "path of the initrd that goes with kernel"),
    Option("append", "", "words", "words for the command line of kernel"),
    Option("files", None, "files", "what to put into the guest: host path=guest path, and more"),
    Option("setup", None, "text_or_none", "shell text or a script's path, run as root"),
    Option(
        "cloud_init", "strict", "choice",
        "a complaint of one of cloud-init's modules fails the VM (strict) or is warned of "
        "(tolerant)",
        ("strict", "tolerant"),
    ),
    Option(
        "agent", "yes", "boolean",
        "let cloud-init bring our agent into a disk image's guest, by which commands and files go: "
        "yes or no",
    ),
    Option("memory", "256", "memory", "the guest's memory in MiB, or as 1G"),
    Option("cpus", "1", "whole", "the guest's virtual processors", (1, 255)),
    Option(
        "machine", None, "text_or_none",
        "the guest's board, as QEMU calls it, e.g. pc, q35 or microvm (default: the first that "
        "its architecture has)",
    ),
    Option(
        "cpu", None, "cpu",
        "the guest's processor, as QEMU's -cpu takes it: max, or 'qemu64,+avx' (default: the "
        "host's own, or what can be emulated)",
    ),
    Option(
        "disks", "", "disks",
        "further disks, behind the root if there is one: sizes of empty ones and images' paths, "
        "e.g. '512M data.qcow2'",
    ),
    Option("tpm", "no", "boolean", "give the guest a TPM 2.0, by swtpm: yes or no"),
    Option(
        "nics", None, "nics",
        "network cards that the guest has at least; those beyond what its ports and networks need "
        "lead nowhere (1 to 8)",
    ),
    Option(
        "paused", "no", "boolean",
        "begin before the guest's first instruction, for gdb (vm.gdb); nobody waits until it is "
        "ready: yes or no",
    ),
    Option(
        "qemu_args", "", "qemu_args",
        "further words for QEMU, as a shell splits them, or a list, e.g. '-device edu'; not those "
        "that settings or we need",
    ),
    Option("display", "no", "boolean", "give the guest a graphics card, for screenshots"),
    Option(
        "accel", "auto", "choice",
        "accelerator: auto, kvm, hvf or tcg",
        ("auto", "kvm", "hvf", "tcg"),
    ),
    Option("boot_timeout", "120", "seconds", "seconds until the guest must be ready"),
    Option(
        "wait_for", "any", "wait_for",
        "what must answer: any, all, none, guest ports ('80 443') or an HTTP path ('8080/health')",
    ),
    Option(
        "template", "yes", "yes_no_or",
        "boot once and start each test's VM from its saved state: yes, no, or always: also where "
        "nothing can set a restored guest's clock, which is behind then",
        ("always",),
    ),
    Option("fresh_boot", "no", "boolean", "boot this test's VM from cold: yes or no"),
    Option("allow_crash", "no", "boolean", "a crash of its kernel does not fail a test: yes or no"),
    Option(
        "on_reboot", "fail", "choice",
        "a guest that reboots by itself ends its VM, and the test fails (fail), or it lives on "
        "(allow)",
        ("fail", "allow"),
    ),
    Option(
        "crash_dump", "no", "boolean",
        "write the memory of a guest whose kernel crashed to the artifacts: yes or no",
    ),
    Option("copy_limit", "1G", "memory", "most MiB that vm.get copies out of a guest, or as 1G"),
    Option(
        "prewarm", "auto", "kept_ready",
        "most VMs that each test process keeps ready for its next tests while one runs: a number, "
        "or auto, by processors; never more than fit in its share of the free memory",
    ),
    Option(
        "cache_size", "4G", "memory", "MiB on disk for saved states, or as 4G", marker=False
    ),
    Option("cache_dir", None, "path", "folder of the saved states", marker=False),
    Option(
        "cache_store", None, "store",
        "folder or address, as s3://bucket/folder, where saved states are looked for before a boot "
        "and put after one; behind it readonly, or trusted where nobody signs them", marker=False,
    ),
    Option(
        "cache_store_secret", None, "secret",
        "what saved states are signed with: env:NAME of a variable, or a file", marker=False,
    ),
    Option(
        "images_size", "20G", "memory", "MiB on disk for images that were fetched, or as 20G",
        marker=False,
    ),
    Option("images_dir", None, "path", "folder of the images that were fetched", marker=False),
    Option(
        "image_mirror", "", "mirrors",
        "where images come from instead of their distribution's own server: "
        "debian=https://mirror.example/images/cloud, and more", marker=False,
    ),
    Option(
        "port_range", None, "port_range",
        "host ports to choose from, e.g. 20000-30000", marker=False,
    ),
    Option("port_wait", "60", "seconds", "seconds to wait for a fixed port of another test"),
    Option("bind_host", PORT_FORWARD_BIND_HOST, "ipv4", "host address that forwards bind"),
    Option("qemu", None, "program", "QEMU's program or path"),
    Option("gvproxy", None, "program", "gvproxy's program or path"),
    Option(
        "missing", "error", "choice",
        "what a test does when QEMU, gvproxy or the guest is missing: error or skip",
        ("error", "skip"),
    ),
    Option(
        "state_dir", None, "path", "directory of the port leases", marker=False
    ),
    Option(
        "artifacts", None, "folder_or_no",
        "folder for console, logs and a start script of failing tests' VMs (default: below "
        "pytest's folder for temporary files), or no", marker=False,
    ),
    Option("pcap", "no", "boolean", "capture the guest's packets for artifacts: yes or no"),
    Option(
        "keep", "never", "choice",
        "VMs that stay alive after their test, for you to look into: never, failed or always",
        among=("never", "failed", "always"),
        marker=False,
    ),
    Option(
        "console", "no", "boolean", "show what guests write to their consoles as it comes",
        marker=False, flag=True,
    ),
    Option(
        "console_limit", "64", "memory",
        "MiB on disk for what a guest writes to its console; of more its middle is dropped",
    ),
    Option(
        "report", "no", "report",
        "tell at the end what the VMs came to: yes, no, or NAME.json, which then has it too",
        marker=False, flag=True,
    ),
    Option(
        "timeline", None, "picture",
        "draw the run into this file: NAME.html, NAME.svg, or NAME.json for ui.perfetto.dev",
        marker=False,
    ),
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest's command line and ini file."""
    group = parser.getgroup("vmports", "virtual machines with forwarded ports (pytest-vmports)")
    for option in OPTIONS:
        shown = "" if option.default in {None, ""} else f" (default: {option.default})"
        text = f"{option.help}{shown}"
        takes: dict[str, Any] = {"metavar": "VALUE"}
        if option.flag:
            takes |= {"nargs": "?", "const": "yes"}
        group.addoption(
            f"--{MARKER}-{option.name.replace('_', '-')}", dest=f"{MARKER}_{option.name}",
            default=None, help=text.replace("%", "%%"), **takes,
        )  # fmt: skip
        parser.addini(f"{MARKER}_{option.name}", text, default=None)


def spell_out(config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Let a flag's name alone say yes, and not take the word behind it, which may be a test's.

    Args:
        config: knows what of the command line has been read already.
        parser: reads it.
        args: its words, which are changed.
    """
    flags = {f"--{MARKER}-{option.name}" for option in OPTIONS if option.flag}
    ours = args[: args.index("--")] if "--" in args else args[:]
    if flags.isdisjoint(ours):
        return
    args[: len(ours)] = [f"{word}=yes" if word in flags else word for word in ours]
    import copy

    # What names the folders whose conftest.py is loaded next.
    read = parser.parse_known_args(args, namespace=copy.copy(config.option))
    config.known_args_namespace.file_or_dir = read.file_or_dir


def marker_line() -> str:
    """Return the marker's entry for ``pytest --markers``."""
    names = ", ".join(f"{option.name}=" for option in OPTIONS if option.marker)
    return (
        f"{MARKER}(*ports, **settings): guest ports that this test needs forwarded "
        f"({PORT_SPELLINGS}) and settings for it ({names.rstrip('=')}=). Ports of module, class "
        "and function add up; of settings the closest wins."
    )


def find(option: Option, homes: Homes, keywords: Mapping[str, Any], where: str) -> tuple[Any, str]:
    """Return a setting as it is written in the nearest home, and which home that is.

    Args:
        option: the setting.
        homes: pytest's configuration.
        keywords: what the marker says.
        where: names the marker.
    """
    key = f"{MARKER}_{option.name}"
    if option.name in keywords:
        return keywords[option.name], where
    if (value := homes.getoption(key)) is not None:
        return value, f"--{key.replace('_', '-')}"
    if (value := os.environ.get(key.upper())) is not None:
        return value, f"environment variable {key.upper()}"
    if (value := _in_ini(homes, key)) is not None:
        return value, f"{_ini(homes, key)}: {key}"
    return option.default, "default"


def misspelt(homes: Homes) -> Iterator[tuple[str, str, Any, str]]:
    """Yield home, name, value and the nearest known name of what is no setting of ours."""
    ini = getattr(homes, "_inicfg", None)  # of pytest 9, which calls the other one deprecated
    prefix, ini = f"{MARKER}_", getattr(homes, "inicfg", {}) if ini is None else ini
    environment = "environment variable"
    written = [(environment, *pair) for pair in os.environ.items()]
    written += [
        (_ini(homes, key), key, getattr(value, "value", value)) for key, value in ini.items()
    ]
    for home, key, value in written:
        name = key.lower().replace("-", "_")
        if name == MARKER and home != environment:  # a table, which pytest may make a text of
            inside = next(iter(value), "") if isinstance(value, dict) else ""
            yield home, key, value, inside and f"{prefix}{inside}"
        spell = str.upper if home == environment else str
        known = name.removeprefix(prefix)
        if not name.startswith(prefix) or (known in BY_NAME and key == spell(name)):
            continue
        import difflib

        leased = key.startswith(LEASED_PORT) and str(value).isdigit()
        near = difflib.get_close_matches(known, BY_NAME, 1, 0.85 if leased else 0.6)
        if near or not leased:
            yield home, key, value, spell(prefix + near[0]) if near else ""


def _ini(homes: Homes, key: str) -> str:
    """Return where a line of the ini file stands, if it is not the command line that says it."""
    if any(one.startswith(f"{key}=") for one in homes.getoption("override_ini") or ()):
        return "-o"
    return homes.inipath.name if homes.inipath else "ini"


def _in_ini(homes: Homes, key: str) -> Any:
    """Return what the ini file says, of whatever type; None for nothing.

    pytest 9 keeps the numbers and lists of ``[tool.pytest]``, and its ``getini`` gives a setting
    of one type only, while most of ours take several.
    """
    written = getattr(homes, "_inicfg", None)
    if written is None:
        return homes.getini(key)
    found = written.get(key)
    return getattr(found, "value", found)


def said(homes: Homes, *names: str) -> bool:
    """Whether anybody says anything of these settings, outside of markers."""
    return any(find(BY_NAME[name], homes, {}, "")[1] != "default" for name in names)

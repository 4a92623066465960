"""One table of settings, and their way from marker, command line, environment and ini to a value.

Nearest wins: marker keyword, then ``--vmports-NAME``, then ``VMPORTS_NAME``, then ``vmports_NAME``
in the ini file, then the default. Every home takes the same spellings.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pytest_vmports import parse
from pytest_vmports.constants import PORT_FORWARD_BIND_HOST, PORT_SPELLINGS
from pytest_vmports.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import PortMapping
    from pytest_vmports.vm.readiness import WaitFor

MARKER = "vmports"


@dataclass(frozen=True)
class Settings:
    """All settings of one test, each of its final type. Times are in seconds, memory in MiB."""

    expose: tuple[PortMapping, ...]
    allow_network: bool
    backend: str
    host_ports: Mapping[int, int]
    network: str | None
    strict_network: bool
    guest: str | Guest | Callable[[], Guest]
    kernel: str | None
    initrd: str | None
    append: str
    files: Mapping[str, str]
    setup: str | None
    memory: int
    cpus: int
    display: bool
    accel: str
    boot_timeout: float
    wait_for: WaitFor
    template: bool
    fresh_boot: bool
    allow_crash: bool
    prewarm: int
    cache_size: int
    cache_dir: str | None
    port_range: tuple[int, int] | None
    port_wait: float
    bind_host: str
    qemu: str | None
    gvproxy: str | None
    missing: str
    state_dir: str | None
    artifacts: str | None
    pcap: bool
    keep: str
    console: bool
    report: bool
    timeline: str | None

    sources: Mapping[str, str] = field(compare=False)
    """Where each value came from, by name."""

    def nearness(self, name: str) -> int:
        """Return how near to the test the value's home is: see `FIXTURE_NEARNESS`."""
        source = self.sources[name]
        if source == "default":
            return 5
        if source.startswith("--"):
            return 1
        if source.startswith("environment variable "):
            return 2
        return 4 if re.match(rf"[^:]*: {MARKER}_{name}\b", source) else 0


@dataclass(frozen=True)
class Option:
    """One setting: how it is read and explained.

    Attributes:
        name: its name in all homes.
        default: its value when nobody says anything, in the spelling a user would use.
        read: makes the final value; raises ValueError or TypeError that says what is allowed.
        help: for ``pytest --help`` and the README.
        marker: a marker may set it; False for what is chosen once per process.
        flag: on the command line its name alone says yes.
    """

    name: str
    default: Any
    read: Callable[[Any], Any]
    help: str
    marker: bool = True
    flag: bool = False


OPTIONS = (
    Option("expose", "", parse.ports, "guest ports of every test, e.g. '8080 5353/udp 3000:80'"),
    Option("allow_network", "no", parse.boolean, "let the guest reach the network: yes or no"),
    Option(
        "backend", "auto", parse.choice("auto", "usernet", "gvproxy"),
        "who connects the guest: auto (gvproxy when allow_network, else usernet), usernet, gvproxy",
    ),
    Option(
        "host_ports", "", parse.host_ports,
        "services on the host's 127.0.0.1 that the guest may reach, at 192.168.128.1: "
        "its port:the host's, e.g. '8000:45123'",
    ),
    Option(
        "network", None, parse.network_name,
        "name of a network that this VM shares with other VMs of the test process",
    ),
    Option(
        "strict_network", "no", parse.boolean,
        "refuse a VM that cannot be kept from gvproxy's API and the host's 127.0.0.1: yes or no",
    ),
    Option(
        "guest", "alpine", parse.guest,
        "what to boot: alpine, a disk image's path, or module:attribute (a Guest, or returns one)",
    ),
    Option("kernel", None, parse.text_or_none, "path of a kernel to boot instead"),
    Option("initrd", None, parse.text_or_none, "path of the initrd that goes with kernel"),
    Option("append", "", parse.text, "words for the command line of kernel"),
    Option("files", None, parse.files, "what to put into the guest: host path=guest path, …"),
    Option("setup", None, parse.text_or_none, "shell text or a script's path, run as root"),
    Option("memory", "256", parse.memory, "the guest's memory in MiB, or as 1G"),
    Option("cpus", "1", parse.whole(1, 255), "the guest's virtual processors"),
    Option("display", "no", parse.boolean, "give the guest a graphics card, for screenshots"),
    Option(
        "accel", "auto", parse.choice("auto", "kvm", "hvf", "tcg"),
        "accelerator: auto, kvm, hvf or tcg",
    ),
    Option("boot_timeout", "120", parse.seconds, "seconds until the guest must be ready"),
    Option(
        "wait_for", "any", parse.wait_for,
        "what must answer: any, all, none, guest ports ('80 443') or an HTTP path ('8080/health')",
    ),
    Option(
        "template", "yes", parse.boolean,
        "boot once and start each test's VM from its saved state: yes or no",
    ),
    Option("fresh_boot", "no", parse.boolean, "boot this test's VM from cold: yes or no"),
    Option("allow_crash", "no", parse.boolean, "a kernel panic does not fail its test: yes or no"),
    Option(
        "prewarm", "1" if (os.cpu_count() or 1) > 1 else "0", parse.whole(0, 1),
        "VMs that are kept ready for the next test while one runs: 0 or 1",
    ),
    Option(
        "cache_size", "4G", parse.memory, "MiB on disk for saved states, or as 4G", marker=False
    ),
    Option("cache_dir", None, parse.text_or_none, "folder of the saved states", marker=False),
    Option(
        "port_range", None, parse.port_range,
        "host ports to choose from, e.g. 20000-30000", marker=False,
    ),
    Option("port_wait", "60", parse.seconds, "seconds to wait for a fixed port of another test"),
    Option("bind_host", PORT_FORWARD_BIND_HOST, parse.ipv4, "host address that forwards bind"),
    Option("qemu", None, parse.text_or_none, "QEMU's program or path"),
    Option("gvproxy", None, parse.text_or_none, "gvproxy's program or path"),
    Option(
        "missing", "error", parse.choice("error", "skip"),
        "what a test does when QEMU, gvproxy or the guest is missing: error or skip",
    ),
    Option(
        "state_dir", None, parse.text_or_none, "directory of the port leases", marker=False
    ),
    Option(
        "artifacts", None, parse.text_or_none,
        "folder for console, logs and a start script of failing tests' VMs (default: below "
        "pytest's folder for temporary files), or no", marker=False,
    ),
    Option("pcap", "no", parse.boolean, "capture the guest's packets for artifacts: yes or no"),
    Option(
        "keep", "never", parse.choice("never", "failed", "always"),
        "VMs that stay alive after their test, for you to look into: never, failed or always",
        marker=False,
    ),
    Option(
        "console", "no", parse.boolean, "show what guests write to their consoles as it comes",
        marker=False, flag=True,
    ),
    Option(
        "report", "no", parse.boolean, "tell at the end what the VMs came to", marker=False,
        flag=True,
    ),
    Option(
        "timeline", None, parse.picture, "draw the run into this file: NAME.html or NAME.svg",
        marker=False,
    ),
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}
assert set(BY_NAME) == {f.name for f in fields(Settings)} - {"sources"}


class NoConfig:
    """A pytest configuration that says nothing, where there is no pytest."""

    inipath = None

    def getoption(self, _name: str) -> None:
        """Say nothing."""

    getini = getoption


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest's command line and ini file."""
    group = parser.getgroup("vmports", "virtual machines with forwarded ports (pytest-vmports)")
    for option in OPTIONS:
        shown = "" if option.default in {None, ""} else f" (default: {option.default})"
        text = f"{option.help}{shown}"
        takes: dict[str, Any] = {"metavar": "VALUE"}
        if option.flag:
            takes = {"action": "store_const", "const": "yes"}
        group.addoption(
            f"--{MARKER}-{option.name.replace('_', '-')}", dest=f"{MARKER}_{option.name}",
            default=None, help=text.replace("%", "%%"), **takes,
        )  # fmt: skip
        parser.addini(f"{MARKER}_{option.name}", text, default=None)


def marker_line() -> str:
    """Return the marker's entry for ``pytest --markers``."""
    names = ", ".join(f"{option.name}=" for option in OPTIONS if option.marker)
    return (
        f"{MARKER}(*ports, **settings): guest ports that this test needs forwarded "
        f"({PORT_SPELLINGS}) and settings for it ({names.rstrip('=')}=). Ports of module, class "
        "and function add up; of settings the closest wins."
    )


def settings_for(item: pytest.Item) -> Settings:
    """Return the settings of one test.

    Raises:
        SettingError: a value, an unknown keyword or a marker's port is wrong; names the test.
    """
    marks = _marks(item)
    where = f"{item.nodeid}: marker {MARKER}"
    keywords: dict[str, Any] = {}
    for mark in marks:
        for name, value in mark.kwargs.items():
            _check_keyword(name, value, where)
            keywords.setdefault(name, value)
    settings = resolve(item.config, keywords, where, user=item.nodeid)
    wanted = list(settings.expose)
    _read(parse.checked_request, "expose", wanted, settings.sources["expose"])
    for mark in reversed(marks):
        for port in mark.args:
            mapping = _read(parse.one_port, "port", port, where)
            if mapping not in wanted:
                wanted.append(mapping)
    _read(parse.checked_request, "ports", wanted, where)
    return _with_ports(settings, tuple(wanted), where)


def settings_of_call(config: pytest.Config, keywords: Mapping[str, Any], where: str) -> Settings:
    """Return the settings for keywords as a marker takes them, ``expose`` among them.

    Raises:
        SettingError: a value or a keyword is wrong.
    """
    for name, value in keywords.items():
        _check_keyword(name, value, where)
    settings = resolve(config, keywords, where)
    return _with_ports(settings, settings.expose, where)


def resolve(
    config: pytest.Config | NoConfig, keywords: Mapping[str, Any], where: str, *, user: str = ""
) -> Settings:
    """Return settings from all homes.

    Args:
        config: pytest's.
        keywords: what the marker says.
        where: names the marker in errors.
        user: the test that asks, named in errors about the other homes.

    Raises:
        SettingError: a value is wrong.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        raw, source = _find(option, config, keywords, where)
        if user and source not in {where, "default"}:
            source = f"{source} (used by {user})"
        values[option.name] = _read(option.read, option.name, raw, source)
        sources[option.name] = source
    return Settings(**values, sources=sources)


def values(config: pytest.Config, *names: str) -> list[Any]:
    """Return the values of a few settings outside any test.

    Raises:
        SettingError: a value is wrong.
    """
    found = ((BY_NAME[name], *_find(BY_NAME[name], config, {}, "")) for name in names)
    return [_read(option.read, option.name, raw, source) for option, raw, source in found]


def configured(config: pytest.Config) -> bool:
    """Whether this project says anything about VMs outside its markers."""
    return any(_find(option, config, {}, "")[1] != "default" for option in OPTIONS)


def _marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return the test's markers, the closest first."""
    # pytest lists what `pytest.param(…, marks=…)` brings after the function's own.
    brought = list(getattr(getattr(item, "callspec", None), "marks", ()))
    marks = list(item.iter_markers(MARKER))
    return sorted(marks, key=lambda mark: not any(mark is one for one in brought))


def _find(
    option: Option, config: pytest.Config | NoConfig, keywords: Mapping[str, Any], where: str
) -> tuple[Any, str]:
    key = f"{MARKER}_{option.name}"
    if option.name in keywords:
        return keywords[option.name], where
    if (value := config.getoption(key)) is not None:
        return value, f"--{key.replace('_', '-')}"
    if (value := os.environ.get(key.upper())) is not None:
        return value, f"environment variable {key.upper()}"
    if (value := config.getini(key)) is not None:
        file = config.inipath.name if config.inipath else "ini"
        return value, f"{file}: {key}"
    return option.default, "default"


def _check_keyword(name: str, value: Any, where: str) -> None:
    known = sorted(option.name for option in OPTIONS if option.marker)
    if name in known:
        return
    option = BY_NAME.get(name)
    if option is not None:
        allowed = f"this is chosen once per run: use --vmports-{name.replace('_', '-')} or the ini"
    else:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        allowed = f"{hint}known keywords are {', '.join(known)}"
    raise SettingError(source=where, name=name, value=value, allowed=allowed)


def _read(read: Callable[[Any], Any], name: str, raw: Any, source: str) -> Any:
    try:
        return read(raw)
    except SettingError:
        raise
    except (ValueError, TypeError) as error:
        raise SettingError(
            source=source, name=name, value=_shown(raw), allowed=str(error)
        ) from error


def _shown(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, list) else value


def _with_ports(settings: Settings, ports: tuple[PortMapping, ...], where: str) -> Settings:
    from dataclasses import replace

    wait_for = settings.wait_for
    tcp = {port.internal for port in ports if port.protocol == "tcp"}
    unknown = [port for port in wait_for.ports if port not in tcp]
    if unknown:
        shown = ", ".join(map(str, sorted(tcp))) or "none"
        raise SettingError(
            source=settings.sources["wait_for"], name="wait_for", value=str(unknown[0]),
            allowed=f"wait for exposed TCP ports; {where.partition(':')[0]} exposes: {shown}",
        )  # fmt: skip
    return replace(settings, expose=ports)

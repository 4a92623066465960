"""The way of settings from marker, command line, environment and ini to their values.

Nearest wins: marker keyword, then ``--vmports-NAME``, then ``VMPORTS_NAME``, then ``vmports_NAME``
in the ini file, then the default. Every home takes the same spellings. A relative path is relative
to pytest's rootdir in all of them, wherever a test goes meanwhile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import FIXTURE_NEARNESS
from pytest_vmports.errors import SettingError
from pytest_vmports.settings.mistyped import hint
from pytest_vmports.settings.table import BY_NAME, MARKER, OPTIONS, find, misspelt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import PortMapping
    from pytest_vmports.network.destinations import Destinations
    from pytest_vmports.settings.far_store import FarStore
    from pytest_vmports.settings.table import Option
    from pytest_vmports.settings.wait_for import WaitFor

_ALL_OR_NOTHING = {"usernet": "QEMU's user network", "passt": "passt"}


@dataclass(frozen=True)
class Settings:
    """All settings of one test, each of its final type. Times are in seconds, memory in MiB."""

    expose: tuple[PortMapping, ...]
    allow_network: bool | Destinations
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
    cloud_init: str
    agent: bool
    memory: int
    cpus: int
    machine: str | None
    cpu: str | None
    disks: tuple[int | str, ...]
    tpm: bool
    nics: int | None
    paused: bool
    qemu_args: tuple[str, ...]
    display: bool
    accel: str
    boot_timeout: float
    wait_for: WaitFor
    template: bool | str
    fresh_boot: bool
    allow_crash: bool
    on_reboot: str
    crash_dump: bool
    copy_limit: int
    prewarm: int | str
    cache_size: int
    cache_store: FarStore | None
    cache_store_secret: str | None
    cache_dir: str | None
    images_size: int
    images_dir: str | None
    image_mirror: Mapping[str, str]
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
    console_limit: int
    report: bool | str
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

    def whose_guest(self, own: Guest | None) -> tuple[bool, bool]:
        """Return whether a kernel is named nearer than a guest, and whether the fixture's counts.

        Args:
            own: what the fixture ``vmports_guest`` returned.
        """
        # Marker, command line and environment are nearer to the test than its fixture, the ini and
        # the default are farther.
        homes = self.nearness("guest"), self.nearness("kernel")
        by_kernel = self.kernel is not None and (
            homes[1] < homes[0] or (homes[1] == homes[0] and self.guest == "alpine")
        )
        return by_kernel, own is not None and homes[by_kernel] > FIXTURE_NEARNESS

    def with_ports_of(self, own: Guest | None) -> Settings:
        """Return the same with the ports that the test's guest brings for every test of it.

        Args:
            own: what the fixture ``vmports_guest`` returned.
        """
        from pytest_vmports.settings.guests import made_by

        by_kernel, by_own = self.whose_guest(own)
        guest = own if by_own else None if by_kernel else self.guest
        ports = getattr(made_by(guest) if callable(guest) else guest, "ports", ())
        asked = {(port.internal, port.protocol) for port in self.expose}
        more = tuple(port for port in ports if (port.internal, port.protocol) not in asked)
        return replace(self, expose=(*self.expose, *more)) if more else self


assert set(BY_NAME) == {f.name for f in fields(Settings)} - {"sources"}


class NoConfig:
    """A pytest configuration that says nothing, where there is no pytest."""

    inipath = None

    @property
    def rootpath(self) -> Path:
        """The current folder."""
        return Path.cwd()

    def getoption(self, _name: str) -> None:
        """Say nothing."""

    getini = getoption


def settings_for(item: pytest.Item) -> Settings:
    """Return the settings of one test.

    Raises:
        SettingError: a value, an unknown keyword or a marker's port is wrong; names the test.
    """
    from pytest_vmports.port_forward import check_request, parse_port

    marks = _marks(item)
    where = f"{item.nodeid}: marker {MARKER}"
    keywords: dict[str, Any] = {}
    for mark in marks:
        for name, value in mark.kwargs.items():
            _check_keyword(name, value, where)
            keywords.setdefault(name, value)
    settings = resolve(item.config, keywords, where, user=item.nodeid)
    wanted = list(settings.expose)
    _read(check_request, "expose", wanted, settings.sources["expose"])
    for mark in reversed(marks):
        for port in mark.args:
            mapping = _read(parse_port, "port", port, where)
            if mapping not in wanted:
                wanted.append(mapping)
    _read(check_request, "ports", wanted, where)
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
        raw, source = find(option, config, keywords, where)
        if user and source not in {where, "default"}:
            source = f"{source} (used by {user})"
        values[option.name] = _value(option, config, raw, source)
        sources[option.name] = source
    backend = values["backend"]
    if not isinstance(values["allow_network"], bool) and backend in _ALL_OR_NOTHING:
        raise SettingError(
            source=sources["backend"], name="backend", value=backend,
            allowed=f"{_ALL_OR_NOTHING[backend]} reaches all or nothing, and allow_network is a "
            f"list ({sources['allow_network']}): write auto or gvproxy, or allow_network = yes or "
            "no",
        )  # fmt: skip
    return Settings(**values, sources=sources)


def name_mistakes(config: pytest.Config | NoConfig) -> list[SettingError]:
    """Return what is wrong with variables and lines of the ini file that look like ours."""
    return [
        SettingError(
            source=home, name=name, value=value,
            allowed="no setting has this name; " + (
                f"did you mean {near}?" if near else f"there are {', '.join(sorted(BY_NAME))}"
            ),
        )
        for home, name, value, near in misspelt(config)
    ]  # fmt: skip


def values(config: pytest.Config | NoConfig, *names: str) -> list[Any]:
    """Return the values of a few settings outside any test.

    Raises:
        SettingError: a value is wrong.
    """
    found = ((BY_NAME[name], *find(BY_NAME[name], config, {}, "")) for name in names)
    return [_value(option, config, raw, source) for option, raw, source in found]


def _marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return the test's markers, the closest first."""
    # pytest lists what `pytest.param(…, marks=…)` brings after the function's own.
    brought = list(getattr(getattr(item, "callspec", None), "marks", ()))
    marks = list(item.iter_markers(MARKER))
    return sorted(marks, key=lambda mark: not any(mark is one for one in brought))


def _check_keyword(name: str, value: Any, where: str) -> None:
    known = sorted(option.name for option in OPTIONS if option.marker)
    if name in known:
        return
    option = BY_NAME.get(name)
    if option is not None:
        allowed = f"this is chosen once per run: use --vmports-{name.replace('_', '-')} or the ini"
    else:
        allowed = f"{hint(name, known, where)}known keywords are {', '.join(known)}"
    raise SettingError(source=where, name=name, value=value, allowed=allowed)


def _value(option: Option, config: pytest.Config | NoConfig, raw: Any, source: str) -> Any:
    return _read(partial(option.read, root=config.rootpath), option.name, raw, source)


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
    wait_for = settings.wait_for
    tcp = {port.internal for port in ports if port.protocol == "tcp"}
    unknown = [port for port in wait_for.ports if port not in tcp]
    if unknown:
        shown = ", ".join(map(str, sorted(tcp))) or "none"
        raise SettingError(
            source=settings.sources["wait_for"], name="wait_for", value=str(unknown[0]),
            allowed=f"wait for exposed TCP ports; {where.partition(': ')[0]} exposes: {shown}",
        )  # fmt: skip
    return replace(settings, expose=ports)

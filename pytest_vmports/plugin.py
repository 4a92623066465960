"""pytest's hooks and the fixtures; what they do stands in report/ and pool/."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vmports import options, report
from pytest_vmports.errors import HostError, SettingError
from pytest_vmports.mishaps import noting

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_vmports.factory import VmFactory
    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.leases import FreePortFactory, PortAllocator
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool

_settings_key: pytest.StashKey[options.Settings] = pytest.StashKey()
_next_key: pytest.StashKey[options.Settings | None] = pytest.StashKey()
_closing_key: pytest.StashKey[list[Any]] = pytest.StashKey()
_PROBLEMS = "vmports_problems"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the settings."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; read now what would come to light at the run's end only."""
    config.addinivalue_line("markers", options.marker_line())
    try:
        config.stash[_closing_key] = options.values(config, "report", "timeline")
    except SettingError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name QEMU, accelerator and gvproxy where this project has settings of ours."""
    return _header(config) if options.configured(config) else []


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Name them here where only markers tell that VMs are used."""
    used = any(_settings_key in item.stash for item in items)
    return _header(config) if used and not options.configured(config) else []


# Last, so that what others have deselected is not read.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read every test's settings now, so that a mistake costs no boot."""
    problems: dict[str, None] = {}  # in order, each once
    for item in items:
        asks = "vmports_settings" in report.fixtures(item)
        if asks or item.get_closest_marker(options.MARKER):
            try:
                item.stash[_settings_key] = options.settings_for(item)
            except SettingError as error:
                problems[str(error)] = None
    if problems:
        if hasattr(config, "workeroutput"):
            config.workeroutput[_PROBLEMS] = list(problems)
        raise pytest.UsageError(*problems)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Raise in xdist's controller what a worker found: nobody sees the error of a worker."""
    problems = getattr(node, "workeroutput", {}).get(_PROBLEMS)
    if problems:
        raise pytest.UsageError(*problems)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Remember the test, and what the next one needs: its VM can be made ready meanwhile."""
    recorder = report.recorder(item.config)
    recorder.item = item
    with noting("evidence failed: what the next test needs", recorder.note):
        if nextitem is not None and "vm_with_ports" in report.fixtures(nextitem):
            item.stash[_next_key] = nextitem.stash.get(_settings_key, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the evidence to a failing test's report."""
    made = yield
    table, timeline = item.config.stash[_closing_key]
    report.complete(item, made, facts=table or timeline is not None)
    return made


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None]:
    """Write how to reach what was kept, and what ``report`` and ``timeline`` ask for."""
    yield
    table, timeline = config.stash[_closing_key]
    path = None if timeline is None else config.rootpath / timeline
    from pytest_vmports.closing import write_closing

    write_closing(terminalreporter, table=table, timeline=path)


@pytest.fixture(scope="session")
def vmports_allocator(request: pytest.FixtureRequest) -> Iterator[PortAllocator]:
    """Return the allocator that grants this process its host ports."""
    from pytest_vmports.leases import open_allocator

    state_dir, port_range = options.values(request.config, "state_dir", "port_range")
    with open_allocator(state_dir, port_range) as allocator:
        yield allocator


@pytest.fixture(scope="session")
def vmports_pool(
    vmports_allocator: PortAllocator, request: pytest.FixtureRequest
) -> Iterator[Pool]:
    """Return what makes this process's VMs."""
    from pytest_vmports.pool.pool import open_pool

    config = request.config
    cache, limit = options.values(config, "cache_dir", "cache_size")
    with (
        report.console_stream(config),
        open_pool(
            vmports_allocator, root=config.rootpath, tell=report.terminal(config),
            cache_dir=cache, cache_size=limit, keeper=report.keeper(config),
        ) as pool,
    ):  # fmt: skip
        yield pool


@pytest.fixture(scope="session")
def vmports_guest() -> Guest | None:
    """Override this to return the `Guest` of your tests; a marker still overrules it."""
    return None


@pytest.fixture
def vmports_settings(request: pytest.FixtureRequest) -> options.Settings:
    """Return this test's settings."""
    settings: options.Settings | None = request.node.stash.get(_settings_key, None)
    # `getfixturevalue` may ask for a VM in a test that did not look like it at collection.
    return settings or options.settings_for(request.node)


@pytest.fixture
def exposed_ports(
    vmports_allocator: PortAllocator,
    vmports_settings: options.Settings,
    request: pytest.FixtureRequest,
) -> Iterator[ExposedPorts]:
    """Return the test's forwards, their host ports leased until it ends; starts no VM."""
    from pytest_vmports.network.exposed import lease_exposed

    wanted, on_wait = vmports_settings, report.recorder(request.config).on_wait
    exposed = lease_exposed(
        wanted.expose, vmports_allocator, report.terminal(request.config), host=wanted.bind_host,
        wait=wanted.port_wait, allow_network=wanted.allow_network, on_wait=on_wait,
    )  # fmt: skip
    yield exposed
    exposed.release()


@pytest.fixture
def vm_with_ports(
    exposed_ports: ExposedPorts,
    vmports_pool: Pool,
    vmports_settings: options.Settings,
    vmports_guest: Guest | None,
    request: pytest.FixtureRequest,
) -> Iterator[VM]:
    """Return a running VM that answers on the test's ports; it is gone after the test."""
    running = vmports_pool.vm(
        vmports_settings, vmports_guest, exposed=exposed_ports,
        observe=report.recorder(request.config).observe,
        following=request.node.stash.get(_next_key, None),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        with _missing(vmports_settings):
            vm = stack.enter_context(running)
        yield vm


@pytest.fixture(scope="session")
def vm_factory(
    vmports_pool: Pool, vmports_guest: Guest | None, request: pytest.FixtureRequest
) -> VmFactory:
    """Return a function that makes a VM, of any ports and settings, for a ``with`` block."""
    from pytest_vmports.factory import VmFactory

    recorder = report.recorder(request.config)
    return VmFactory(request.config, vmports_pool, vmports_guest, recorder)


@pytest.fixture
def free_port_factory(vmports_allocator: PortAllocator) -> Iterator[FreePortFactory]:
    """Return a function that gives free host ports, leased until the test ends."""
    from pytest_vmports.leases import FreePortFactory

    with FreePortFactory(vmports_allocator) as factory:
        yield factory


@pytest.fixture
def free_port(free_port_factory: FreePortFactory) -> int:
    """Return a free host port, leased until the test ends."""
    return free_port_factory()


@pytest.fixture(scope="session")
def session_free_port_factory(vmports_allocator: PortAllocator) -> Iterator[FreePortFactory]:
    """Return a function that gives free host ports, leased until the session ends."""
    from pytest_vmports.leases import FreePortFactory

    with FreePortFactory(vmports_allocator) as factory:
        yield factory


@contextlib.contextmanager
def _missing(settings: options.Settings) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        if settings.missing == "skip":
            pytest.skip(str(error))
        raise


def _header(config: pytest.Config) -> list[str]:
    if hasattr(config, "workerinput") or config.getoption("verbose", 0) < 0:
        return []
    try:
        wanted = options.values(config, "qemu", "accel", "gvproxy")
    except SettingError as error:
        raise pytest.UsageError(str(error)) from error
    lines: list[str] = []
    with noting("vmports: header failed", lines.append):
        lines += report.header_lines(*wanted)
    return lines

"""pytest's hooks and the fixtures; what they do stands in report/ and pool/."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

# No more of ours is imported here: most pytest runs use nothing of it.
from pytest_vmports.report import coming, frames, nodes
from pytest_vmports.settings import table

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.leases import FreePortFactory, PortAllocator
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.factory import VmFactory
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.report.session import Session
    from pytest_vmports.settings.options import Settings

_settings_key: pytest.StashKey[Settings] = pytest.StashKey()
_closing_key: pytest.StashKey[Sequence[Any]] = pytest.StashKey()
_running_key: pytest.StashKey[pytest.Item] = pytest.StashKey()
_session_key: pytest.StashKey[Session] = pytest.StashKey()
_PROBLEMS = "vmports_problems"
_CLOSING = ("report", "timeline")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the settings, and now, before any conftest's, the hooks that show errors."""
    table.add_options(parser)
    config = pluginmanager.getplugin("pytestconfig")
    pluginmanager.register(frames.BesideReports(config), "vmports-frames")


# First: others may ask for a setting that comes from the controller.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; read now what would come to light at the run's end only."""
    nodes.begin(config)
    config.addinivalue_line("markers", table.marker_line())
    if table.said(config, *_CLOSING):
        config.stash[_closing_key] = _checked(config, *_CLOSING)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name QEMU, accelerator and gvproxy, in a line, where this project has settings of ours."""
    return _header(config) if table.said(config, *table.BY_NAME) else []


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Name them here where only markers tell that VMs are used."""
    used = any(_settings_key in item.stash for item in items)
    lines = _header(config) if used and not table.said(config, *table.BY_NAME) else []
    boots = [item.stash[coming.BOOTS] for item in items if coming.BOOTS in item.stash]
    if boots and _has_header(config):
        from pytest_vmports.report.header import missing_lines

        lines += missing_lines(boots)
    return lines


# Last, so that what others have deselected is not read.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read every test's settings now, so that a mistake costs no boot."""
    asking = [
        item for item in items
        if "vmports_settings" in _fixtures(item) or item.get_closest_marker(table.MARKER)
    ]  # fmt: skip
    if asking:
        nodes.greet(config)
        # What these remember is as it was before the first test.
        from pytest_vmports.system import sockets, surroundings  # noqa: F401
    told = [(item.nodeid, problem) for item in asking if (problem := _problem(item))]
    if told:
        from pytest_vmports.settings.mistyped import in_common

    problems = in_common(told) if told else []
    if asking or any("vmports_allocator" in _fixtures(item) for item in items):
        problems += _misspelt(config)
    if problems:
        if hasattr(config, "workeroutput"):
            config.workeroutput[_PROBLEMS] = problems
        raise pytest.UsageError(*problems)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let an xdist worker's lines be written by its controller."""
    nodes.listen(node, session_of)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Raise in xdist's controller what a worker found: nobody sees the error of a worker."""
    problems = getattr(node, "workeroutput", {}).get(_PROBLEMS)
    if problems:
        raise pytest.UsageError(*problems)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Remember the test, and the next one: its VM can be made ready meanwhile."""
    item.config.stash[_running_key] = item
    if nextitem is not None:
        item.stash[coming.NEXT] = nextitem


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Show no frame of ours where a module's own code met an error of ours."""
    made = yield
    frames.prune_collected(collector, made)
    return made


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None]:
    """Show no frame of ours where a conftest.py or a plugin meets an error of ours."""
    table.spell_out(early_config, parser, args)
    with frames.pruned_when_raised(early_config):
        return (yield)


# First: what others make of the traceback is made of what is shown.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show no frame of ours in a failing test's report, and add the evidence."""
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.fail.Exception):
        from pytest_vmports.report.scope_mismatch import explain

        explain(call)
    # A TestCase keeps its own until the report is made.
    errors = [call.excinfo, *(getattr(item, "_excinfo", None) or ())]
    mishaps = frames.prune(item.config, item, *filter(None, errors))
    made = yield
    frames.shorten(made)
    made.sections += [("vmports", line) for line in mishaps]
    session = item.config.stash.get(_session_key, None)
    if session is not None:
        session.complete(item, made, facts=any([*item.config.stash.get(_closing_key, ())]))
    return made


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None]:
    """Write how to reach what was kept, and what ``report`` and ``timeline`` ask for."""
    yield
    report, timeline = config.stash.get(_closing_key, (False, None))
    # Under xdist only what the reports bring along tells that a worker had VMs.
    session = config.stash.get(_session_key, None)
    kept = [] if session is None else session.take_kept()
    stats = terminalreporter.stats.values()
    ridden = any(hasattr(one, table.MARKER) for reports in stats for one in reports)
    if report or timeline or ridden or kept:
        from pytest_vmports.report.closing import write_closing

        write_closing(terminalreporter, table=report, timeline=timeline, kept=kept)


# Last, when the session's fixtures have ended, and before xdist's controller is told so: it then
# waits for nobody.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what no report carried of an xdist worker, as after Ctrl-C: it has no summary."""
    if hasattr(session.config, "workerinput"):
        pytest_unconfigure(session.config)
        nodes.over(session.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write what no report and no summary carried."""
    if (session := config.stash.get(_session_key, None)) is not None:
        session.tell_rest()


def session_of(config: pytest.Config) -> Session:
    """Return what takes note of this process's VMs and tells of them."""
    if _session_key not in config.stash:
        from pytest_vmports.report.session import Session

        config.stash[_session_key] = Session(config, lambda: config.stash.get(_running_key, None))
    return config.stash[_session_key]


@pytest.fixture(scope="session")
def vmports_allocator(request: pytest.FixtureRequest) -> Iterator[PortAllocator]:
    """Return the allocator that grants this process its host ports."""
    from pytest_vmports.leases import open_allocator

    state_dir, port_range = _values(request.config, "state_dir", "port_range")
    with open_allocator(state_dir, port_range) as allocator:
        yield allocator


@pytest.fixture(scope="session")
def vmports_pool(
    vmports_allocator: PortAllocator, request: pytest.FixtureRequest
) -> Iterator[Pool]:
    """Return what makes this process's VMs."""
    from pytest_vmports.system.surroundings import restored

    # A class of the library's that is a test's own now, as pytest-socket's, is nobody's base.
    with restored():
        from pytest_vmports.images.images import Kept
        from pytest_vmports.pool.pool import open_pool
    config, session = request.config, session_of(request.config)
    cache, limit = _values(config, "cache_dir", "cache_size")
    store, secret = _values(config, "cache_store", "cache_store_secret")
    images = Kept(*_values(config, "images_dir", "images_size", "image_mirror"))
    with (
        session.console_stream(),
        open_pool(
            vmports_allocator, root=config.rootpath, tell=session.terminal, cache_dir=cache,
            cache_size=limit, store=store, secret=secret, images=images, keeper=session.keeper(),
            run=getattr(config, "workerinput", {}).get("testrunuid"),
        ) as pool,
    ):  # fmt: skip
        yield pool


@pytest.fixture(scope="session")
def vmports_guest() -> Guest | None:
    """Override this to return the `Guest` of your tests; a marker still overrules it."""
    return None


@pytest.fixture
def vmports_settings(request: pytest.FixtureRequest) -> Settings:
    """Return this test's settings."""
    from pytest_vmports.settings.options import settings_for

    settings: Settings | None = request.node.stash.get(_settings_key, None)
    # `getfixturevalue` may ask for a VM in a test that did not look like it at collection.
    return settings or settings_for(request.node)


@pytest.fixture
def exposed_ports(
    vmports_allocator: PortAllocator,
    vmports_settings: Settings,
    vmports_guest: Guest | None,
    request: pytest.FixtureRequest,
) -> Iterator[ExposedPorts]:
    """Return the test's forwards, their host ports leased until it ends; starts no VM."""
    from pytest_vmports.network.exposed import lease_exposed
    from pytest_vmports.settings.mistyped import how_to_declare

    wanted, session = vmports_settings.with_ports_of(vmports_guest), session_of(request.config)
    exposed = lease_exposed(
        wanted.expose, vmports_allocator, session.terminal, host=wanted.bind_host,
        wait=wanted.port_wait, allow_network=wanted.allow_network,
        on_wait=session.recorder.on_wait, declare=how_to_declare(request.node.iter_markers()),
    )  # fmt: skip
    yield exposed
    exposed.release()


@pytest.fixture
def vm_with_ports(
    exposed_ports: ExposedPorts,
    vmports_pool: Pool,
    vmports_settings: Settings,
    vmports_guest: Guest | None,
    request: pytest.FixtureRequest,
) -> Iterator[VM]:
    """Return a running VM that answers on the test's ports; it is gone after the test."""
    running = vmports_pool.vm(
        vmports_settings, vmports_guest, exposed=exposed_ports,
        observe=session_of(request.config).recorder.observe,
        following=coming.coming(request.node),
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
    from pytest_vmports.pool.factory import VmFactory

    recorder, stash = session_of(request.config).recorder, request.config.stash
    return VmFactory(
        request.config, vmports_pool, vmports_guest, observe=recorder.observe,
        on_wait=recorder.on_wait, running=lambda: stash.get(_running_key, None),
        coming=coming.coming,
    )  # fmt: skip


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


def _fixtures(item: pytest.Item) -> Sequence[str]:
    """Return the names of all fixtures that a test uses, also through others."""
    return getattr(item, "fixturenames", ())


def _problem(item: pytest.Item) -> str:
    """Keep a test's settings on it; return what is wrong with them, or nothing."""
    from pytest_vmports.errors import SettingError
    from pytest_vmports.settings.options import settings_for

    try:
        settings = item.stash[_settings_key] = settings_for(item)
    except SettingError as error:
        return str(error)
    if "vm_with_ports" in _fixtures(item):
        item.stash[coming.BOOTS] = settings
    return ""


def _misspelt(config: pytest.Config) -> list[str]:
    """Return what is wrong with the names of settings, where VMs or ports are used."""
    if not any(table.misspelt(config)):
        return []
    from pytest_vmports.settings import options

    return [str(error) for error in options.name_mistakes(config)]


def _values(config: pytest.Config, *names: str) -> list[Any]:
    from pytest_vmports.settings import options

    return options.values(config, *names)


def _checked(config: pytest.Config, *names: str) -> list[Any]:
    from pytest_vmports.errors import SettingError

    try:
        return _values(config, *names)
    except SettingError as error:
        raise pytest.UsageError(str(error)) from error


@contextlib.contextmanager
def _missing(settings: Settings) -> Iterator[None]:
    from pytest_vmports.errors import VmPortsError

    try:
        yield
    except VmPortsError as error:
        if error.lacking and settings.missing == "skip":
            pytest.skip(str(error))
        raise


def _has_header(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput") and config.getoption("verbose", 0) >= 0


def _header(config: pytest.Config) -> list[str]:
    if not _has_header(config):
        return []
    from pytest_vmports.report.header import header_lines

    more = config.getoption("verbose", 0) > 0
    return header_lines(*_checked(config, "qemu", "accel", "gvproxy"), more=more)

"""What every test of this project may ask for, whichever folder it lives in."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

pytest_plugins = ["pytester"]

TOOLS = Path(__file__).parent / ".tools"
ON_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

if ON_CI:
    # The plugin's own fixtures then fail too where they would have skipped. The environment is the
    # home of the setting that xdist's workers see as well.
    os.environ.setdefault("VMPORTS_MISSING", "error")


if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Tests start hundreds of interpreters, each of which would compile all of the plugin again.
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parent / ".pytest_cache" / "compiled")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As behind `nohup make test &`; the runs that tests interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Two plugins that no inner run has a use for take most of the time in which one starts.
@pytest.fixture(autouse=True)
def _inner_runs_start_clean(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pytester run sees only the settings its test gives it, not those of this run."""
    if "pytester" in request.fixturenames:
        for name in [name for name in os.environ if name.startswith("VMPORTS_")]:
            monkeypatch.delenv(name)
        request.getfixturevalue("pytester")  # which takes the variable away
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")


@pytest.fixture(scope="session")
def missing() -> Callable[..., NoReturn]:
    """Return a function that ends a test for want of something: a failure on CI, else a skip."""
    return _missing


@pytest.fixture(scope="session")
def gdb_binary() -> Path:
    """Path of a gdb that runs."""
    return _running("gdb")


@pytest.fixture(scope="session")
def qemu_binary() -> Path:
    """Path of a QEMU that runs."""
    return _running("qemu-system-x86_64")


@pytest.fixture(scope="session")
def skopeo() -> Path:
    """Path of what fetches container images."""
    return _running("skopeo")


@pytest.fixture(scope="session")
def swtpm() -> Path:
    """Path of what is a guest's TPM."""
    return _running("swtpm")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser that can be run without a display."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None or not _runs(found, "--version"):
        _missing("chromium")
    return found


@pytest.fixture(scope="session")
def gvproxy_089() -> Path:
    """Path of the gvproxy that takes its forwards from a configuration file."""
    return _gvproxy("0.8.9")


@pytest.fixture(scope="session")
def gvproxy_081() -> Path:
    """Path of the gvproxy that takes its forwards over its API only."""
    return _gvproxy("0.8.1")


@pytest.fixture(scope="session", params=["0.8.1", "0.8.9"])
def any_gvproxy(request: pytest.FixtureRequest) -> Path:
    """Path of a gvproxy; the test runs once with each generation."""
    return _gvproxy(request.param)


@pytest.fixture(scope="session")
def passt() -> object:
    """Return the passt on PATH; where it is too old, tests/versions.py runs what needs one."""
    from apt_sources import release  # noqa: PLC0415 - from the tests' own folder

    from pytest_vmports.errors import PasstNotFoundError  # noqa: PLC0415 - few need it
    from pytest_vmports.system.passt import find_passt  # noqa: PLC0415 - likewise

    try:
        return find_passt()
    except PasstNotFoundError as error:
        if release("VERSION_CODENAME") == "bookworm":
            pytest.skip(f"tests/versions.py runs it with a later Debian's passt: {error}")
        _missing(str(error))


def _gvproxy(version: str) -> Path:
    binary = TOOLS / f"gvproxy-{version}" / "gvproxy"
    if not _runs(str(binary), "-version"):
        _missing(f"gvproxy {version}")
    return binary


def _runs(*command: str) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _running(name: str) -> Path:
    found = shutil.which(name)
    if found is None or not _runs(found, "--version"):
        _missing(name)
    return Path(found)


def _missing(what: str, remedy: str = "run `make setup`") -> NoReturn:
    message = f"{what} is missing or does not run: {remedy}"
    if ON_CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)

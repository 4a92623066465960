"""Fixtures of the tests with real VMs: `boot` makes machines that several tests can share."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from typing import TYPE_CHECKING, Any

import debian_image
import pytest
from vm_helpers import debian_words

from pytest_vmports import Guest
from pytest_vmports.network import seal
from pytest_vmports.pool.pool import open_pool
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import options
from pytest_vmports.system import gate, landlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_vmports.leases import PortAllocator
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.vm.machine import Machine

    Boot = Callable[..., AbstractContextManager[VM]]


# Projects of a user's kind, which `make test-matrix` runs in environments of their own.
collect_ignore = ["matrix"]


def pytest_make_parametrize_id(val, argname):
    # What is packed may hold the second at which it was, and xdist's workers, who collect each for
    # itself, have to name the same tests.
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    for item in items:
        for word in (word for mark in item.iter_markers("slow_as") for word in mark.args):
            if word in item.callspec.id:
                item.add_marker("slow")


@pytest.fixture(scope="session")
def debian(missing: Callable[..., Any]) -> debian_image.DebianImage:
    """Return the Debian image, built when it is not there."""
    if lacking := debian_image.missing():
        missing("what builds the Debian image", f"install {', '.join(lacking)}")
    return debian_image.image()


@pytest.fixture(scope="session")
def debian_guest(debian: debian_image.DebianImage) -> Guest:
    """Return a guest whose template all tests share that need any Debian: a boot takes minutes."""
    return Guest.disk(debian.root, **debian_words(debian))


@pytest.fixture
def shared_templates(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Let this test's inner runs use the templates that other tests' inner runs have made.

    By itself pytester gives each test a home, and so a cache, of its own.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    monkeypatch.setenv("VMPORTS_CACHE_DIR", str(base / "templates"))


@pytest.fixture(autouse=True)
def _none_kept_ready(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that replaces what VMs are started by gets one that it starts, and leaves none."""
    if not {"monkeypatch", "vmports_pool"} <= set(request.fixturenames):
        yield
        return
    standby = request.getfixturevalue("vmports_pool").standby
    standby.drop()
    yield
    standby.drop()


@pytest.fixture
def encrypted_qcow2(tmp_path: Path, qemu_binary: Path) -> Path:
    """Path of an image that cannot be read without its secret."""
    image = tmp_path / "secret.qcow2"
    # Not luks: qemu-img measures how slow its key can be made, which fails on a busy host.
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=word"]
    encrypted = ["-o", "encrypt.format=aes,encrypt.key-secret=s", str(image), "4M"]
    subprocess.run([*create, *encrypted], check=True, capture_output=True)
    return image


@pytest.fixture
def saved_guest(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function: the template of some facts that a function has filled, in use."""
    with contextlib.closing(TemplateStore(tmp_path / "cache", 1 << 30)) as store:
        yield functools.partial(store.get, timeout=5)


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faked: a host that does not let us put a filter before gvproxy."""
    monkeypatch.setattr(seal, "problem", lambda: "the test switched it off")


@pytest.fixture
def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faked: a host on which no call of gvproxy's can be held."""
    monkeypatch.setattr(gate, "problem", lambda: "the test switched it off")


@pytest.fixture
def unwalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faked: a host without Landlock."""
    monkeypatch.setattr(landlock, "problem", lambda: "the test switched it off")


@pytest.fixture(scope="session")
def boot(vmports_pool: Pool, request: pytest.FixtureRequest, qemu_binary: Path) -> Boot:
    """Return a function that boots a VM for a ``with`` block, in tests and fixtures of any scope.

    It takes ports and settings as the marker does, boots from cold unless told otherwise, and
    takes ``meanwhile``, a function that is given the leased ports before the VM is started, and
    ``observe``, one that is given every machine before it starts.
    """
    return functools.partial(_booted, vmports_pool, request.config)


@pytest.fixture
def boot_and_lines(
    vmports_allocator: PortAllocator, request: pytest.FixtureRequest, qemu_binary: Path
) -> Iterator[tuple[Boot, list[str]]]:
    """Return the same in a pool of this test's own, and the lines that it tells its user."""
    lines: list[str] = []
    with open_pool(vmports_allocator, root=request.config.rootpath, tell=lines.append) as pool:
        yield functools.partial(_booted, pool, request.config), lines


@contextlib.contextmanager
def _booted(
    pool: Pool,
    config: pytest.Config,
    *ports: Any,
    meanwhile: Callable[[ExposedPorts], None] | None = None,
    observe: Callable[[Machine], None] = lambda _machine: None,
    **keywords: Any,
) -> Iterator[VM]:
    keywords = {"fresh_boot": True, **keywords, "expose": ports}
    settings = options.resolve(config, keywords, "the test")
    exposed = pool.lease(settings.expose, settings)
    try:
        if meanwhile is not None:
            meanwhile(exposed)
        with pool.vm(settings, exposed=exposed, observe=observe) as vm:
            yield vm
    finally:
        exposed.release()

"""No report shows a frame of ours: over every public call, and every way of showing a traceback."""

from __future__ import annotations

import inspect
import re
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

import pytest_vmports
from pytest_vmports import plugin
from pytest_vmports.leases import FreePortFactory
from pytest_vmports.pool.factory import VmFactory
from pytest_vmports.report import traceback
from pytest_vmports.vm.saved import Snapshot

PUBLIC = [getattr(pytest_vmports, name) for name in pytest_vmports.__all__]
CLASSES = [
    *(one for one in PUBLIC if inspect.isclass(one) and not issubclass(one, Exception)),
    Snapshot, FreePortFactory, VmFactory,
]  # fmt: skip
DUNDERS = {"__getitem__", "__call__", "__iter__", "__enter__", "__exit__"}
# Each raises in the inner suite: by itself, or because a stand-in below, whose code is said to
# stand in our package, fails as our own would.
RAISING = {
    "VM.ports": "vm.ports", "VM.wiring": "vm.wiring", "VM.lan_address": "vm.lan_address",
    "VM.host_address": "vm.host_address", "VM.origin": "vm.origin", "VM.pids": "vm.pids",
    "VM.console": "vm.console", "VM.screenshot": "vm.screenshot('x.png')",
    "VM.command_line": "vm.command_line", "VM.run": "vm.run('true')", "VM.put": "vm.put('a', 'b')",
    "VM.get": "vm.get('a', 'b')", "VM.network_log": "vm.network_log",
    "VM.ssh_config": "vm.ssh_config('x')", "VM.reboot": "vm.reboot()", "VM.reboots": "vm.reboots",
    "VM.clock_behind": "vm.clock_behind", "VM.share": "vm.share('/tmp', '/a')",
    "VM.unshare": "vm.unshare('/a')", "VM.gdb": "vm.gdb", "VM.wait_ready": "vm.wait_ready()",
    "VM.expose": "vm.expose(80)", "VM.unexpose": "vm.unexpose(80)", "VM.pause": "vm.pause()",
    "VM.resume": "vm.resume()", "VM.reset": "vm.reset()", "VM.snapshot": "vm.snapshot()",
    "VM.restore": "vm.restore(None)", "VM.shutdown": "vm.shutdown()", "VM.end": "vm.end()",
    "VM.connect": "vm.connect(80)", "VM.__getitem__": "vm[80]", "VM.__iter__": "list(vm)",
    "ExposedPorts.own": "ports('_own').own", "ExposedPorts.ports": "ports('_granted').ports",
    "ExposedPorts.pass_fds": "ports('_own').pass_fds",
    "ExposedPorts.qemu_args": "ports('_granted').qemu_args()",
    "ExposedPorts.gvproxy_config": "ports('_granted').gvproxy_config()",
    "ExposedPorts.release_guards": "ports('_own').release_guards()",
    "ExposedPorts.release": "ports('_own').release()",
    "ExposedPorts.replace": "ports('_own').replace([])",
    "ExposedPorts.add_own": "ExposedPorts([]).add_own(broken)",
    "ExposedPorts.__getitem__": "ExposedPorts([])[80]",
    "ExposedPorts.__iter__": "list(ports('_granted'))",
    "PortAllocator.acquire": "PortAllocator().acquire(0)",
    "PortAllocator.acquire_fixed": "PortAllocator().acquire_fixed(70000)",
    "PortAllocator.leases": "closed(PortAllocator()).leases()",
    "PortAllocator.release_all": "with_broken(PortAllocator(), '_ledger').release_all()",
    "PortAllocator.close": "with_broken(PortAllocator(), '_ledger').close()",
    "PortAllocator.__exit__": "with_broken(PortAllocator(), '_ledger').__exit__(None, None, None)",
    "PortLease.fileno": "released().fileno()", "PortLease.verify": "released().verify()",
    "FreePortFactory.__call__": "FreePortFactory(broken)()",
    "FreePortFactory.close": "with_broken(FreePortFactory(PortAllocator()), '_leases').close()",
    "FreePortFactory.__exit__":
        "with_broken(FreePortFactory(PortAllocator()), '_leases').__exit__(None, None, None)",
    "VmFactory.__enter__": "vm_factory.__enter__()",
    "VmFactory.__call__": "vm_factory([80], qemu='/nowhere').__enter__()",
    "Guest.alpine": "without_package().alpine()",
    "Guest.alpine_disk": "without_package().alpine_disk()",
    "Guest.kernel": "Guest.kernel('nowhere')",
    "Guest.disk": "Guest.disk('nowhere')",
    "Guest.image": "Guest.image('nowhere')",
    "Guest.oci": "Guest.oci('')", "Guest.at": "Guest('x', root_disk=3).at(broken)",
    "Guest.with_additions":
        "Guest('x', prepared=False, root_disk=3).with_additions(files={}, setup='true')",
    "Guest.boot_files": "Guest('x', broken, broken).boot_files(broken, broken, broken)",
    "Guest.digest": "Guest('x', broken, broken).digest(broken, broken)",
    "Snapshot.bring_back_disks": "Snapshot(None, '', None, 3).bring_back_disks(3)",
    "Snapshot.open_state": "Snapshot(broken, '', None).open_state()",
    "free_port": "free_port(host='no address')",
    "leased_ports": "leased_ports(0).__enter__()",
    "allocate_ephemeral_port": "allocate_ephemeral_port('no address')",
    "normalize_port_mappings": "normalize_port_mappings(['x'])",
    "resolve_port_mappings": "resolve_port_mappings(['x'])",
}  # fmt: skip
# Values alone, or written to meet no error.
SILENT = {
    "VmFactory.__exit__",
    "Guest.kernel_words", "Guest.tolerating", "Guest.bringing",
    "LeaseInfo.describe", "PortMapping.model_config", "ExposedPort.model_config", "ExposedPort.url",
    "ExposedPort.address", "PortAllocator.__enter__", "PortLease.held", "PortLease.__enter__",
    "PortLease.__exit__", "PortLease.release", "PortLease.release_guard", "PortLease.guard_with",
    "PortLease.forget_after_fork", "FreePortFactory.__enter__", "Completed.stdout_bytes",
    "Completed.stderr_bytes", "NetworkEntries.refused",
    # The user's own; and ours alone, before a fixture hands the settings over.
    "CommandRunner.run", "Settings.nearness", "Settings.whose_guest", "Settings.with_ports_of",
}  # fmt: skip
FIXTURES = [
    name for name, one in vars(plugin).items()
    if type(one).__name__ == "FixtureFunctionDefinition" or hasattr(one, "_pytestfixturefunction")
]  # fmt: skip
# They need no lease, and the guest is what the user's own override returns.
AT_EASE = {"vmports_guest", "vmports_settings"}
SUITE = """
import contextlib, os
import pytest
import pytest_vmports
from pytest_vmports import *
from pytest_vmports.guests import guest
from pytest_vmports.leases import FreePortFactory
from pytest_vmports.pool.factory import VmFactory
from pytest_vmports.vm.saved import Snapshot

STAND_IN = '''
import contextlib, subprocess
from pytest_vmports.errors import MachineError
class Broken:
    def __getattr__(self, name):
        if name[:2] == "__": raise AttributeError(name)
        return self()
    def __call__(self, *args, **kwargs):
        with contextlib.suppress(KeyError):
            try:
                subprocess.run(["/nowhere"])
            except OSError as error:
                raise MachineError("THE MESSAGE") from error
    def __iter__(self): return self()
    def __add__(self, other): return self()
    __radd__ = __bool__ = __str__ = __fspath__ = __add__
'''
there = {"__name__": "pytest_vmports.broken"}
exec(compile(STAND_IN, os.path.join(pytest_vmports.__path__[0], "broken.py"), "exec"), there)
broken = there["Broken"]()

def with_broken(one, name):
    vars(one)[name] = broken
    return one

def ports(name):
    return with_broken(ExposedPorts([]), name)

def closed(allocator):
    allocator.close()
    return allocator

def without_package():
    guest.alpine.find_images = broken
    return Guest

def released():
    (lease,) = PortAllocator().acquire(1)
    lease.release()
    return lease

class VMs(VM):
    def __repr__(self): return "a VM"

class Machine(there["Broken"]):
    ram = None

vm = VMs(Machine(), broken, broken)
"""
PARTS = {
    "pytest_vmports.guests.booted", "pytest_vmports.pool.copies", "pytest_vmports.pool.debugging",
    "pytest_vmports.pool.network_log", "pytest_vmports.pool.shares",
}  # fmt: skip
FRAME = re.compile(
    r"pytest_vmports/|contextlib\.py|subprocess\.py|pydantic|selectors\.py|functools\.py|"
    r"During handling|direct cause"
)


def _parts(kind):
    """Return a class and what it is put together from, if anything."""
    return [kind, *(one for one in kind.__mro__[1:] if one.__module__ in PARTS)]


def members(kind):
    return [
        name for part in _parts(kind) for name, one in vars(part).items()
        if (name[0] != "_" or name in DUNDERS)
        and (callable(one) or isinstance(one, property | classmethod | staticmethod))
    ]  # fmt: skip


def public_calls():
    names = {f"{kind.__name__}.{name}" for kind in CLASSES for name in members(kind)}
    functions = {one for one in pytest_vmports.__all__ if one[0].islower()}
    return names | functions


def test_every_public_call_has_its_row():
    missing = public_calls() - set(RAISING) - SILENT
    assert not missing, f"add a row that raises to RAISING, or a word to SILENT: {missing}"
    # `__enter__` and those that a base class has are no rows of their own.
    assert not set(RAISING) - public_calls()


@pytest.fixture
def failures(pytester, qemu_binary):
    """Return a function that runs a suite; it returns each test's text by name."""

    def run(suite, *words):
        pytester.makepyfile(suite)
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
        result = pytester.run(*command, "--junitxml=junit.xml", *words)
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
        cases = ET.parse(pytester.path / "junit.xml").iter("testcase")
        return {
            case.get("name"): "\n".join(one.text or "" for one in case if one.tag != "system-out")
            for case in cases
        }

    return run


def suite_of_calls(names=RAISING):
    tests = [
        f"def test_{number}(vm_factory):\n    {RAISING[name]}\n"
        for number, name in enumerate(names)
    ]
    return "\n".join([SUITE, *tests])


@pytest.mark.parametrize(
    "words", ["", "--tb=short", "--tb=native", "--tb=line", "--tb=long -l -n1"]
)
def test_no_frame_of_ours_is_shown_of_any_public_call(failures, words):
    texts = failures(suite_of_calls(), *words.split())
    assert len(texts) == len(RAISING)
    for (name, call), text in zip(RAISING.items(), texts.values(), strict=True):
        assert text, f"{name} met no error"
        told = text.partition("\nVM: ")[0]
        if "native" in words:  # with pytest's own frames above
            told = told[told.index(", in test_") :]
        assert not FRAME.search(told), f"{name}\n{told}"
        if "line" not in words and "native" not in words:
            lines = [line for line in told.splitlines() if line.strip()]
            at = next(i for i, line in enumerate(lines) if line.lstrip("> ").startswith(call[:20]))
            assert any(line.startswith("E  ") for line in lines[at : at + 3]), f"{name}\n{told}"


def test_a_whole_trace_shows_them(failures):
    # Of each class of ours, and no more: pytest takes long to write all of its own frames.
    asked = {name.partition(".")[0]: name for name in RAISING}.values()
    texts = failures(suite_of_calls(asked), "--full-trace", "--tb=short")
    for name, text in zip(asked, texts.values(), strict=True):
        assert "pytest_vmports/" in text or "<string>" in text, f"{name}\n{text}"
    assert any("direct cause" in text for text in texts.values())


@pytest.mark.parametrize("words", ["", "--tb=short", "--tb=native -n1"])
def test_a_fixture_of_ours_that_fails_shows_the_def_of_the_users_test(failures, words):
    """Whose arguments are many lines, below decorators of many lines."""
    asked = [name for name in FIXTURES if name not in AT_EASE]
    assert {"exposed_ports", "vm_with_ports", "vm_factory", "free_port"} <= set(asked)
    tests = [
        f"@pytest.mark.vmports(\n    8080,\n)\ndef test_{name}(\n    {name},\n):\n    pass\n"
        for name in asked
    ]
    suite = "\n".join(["import pytest", *tests])
    texts = failures(suite, "--vmports-state-dir=/dev/null", *words.split())
    assert [*texts] == [f"test_{name}" for name in asked]
    for name, text in texts.items():
        assert not FRAME.search(text), text
        lines = [line for line in text.splitlines() if line.strip()][:8]
        assert any(f"def {name}(" in line for line in lines), text
        assert any("StateDirError: " in line for line in lines), text
        assert "_pytest" not in text, text


def test_a_failing_end_of_a_fixture_shows_the_def_beside_the_tests_own_failure(failures):
    suite = SUITE + (
        "@pytest.mark.vmports(8080)\n"
        "def test_it(exposed_ports):\n    exposed_ports.release = broken\n    assert 0\n"
        "@pytest.fixture\ndef mine(exposed_ports):\n    yield\n    broken()\n"
        "@pytest.mark.vmports(8080)\n"
        "def test_both(exposed_ports, mine):\n    exposed_ports.release = broken\n"
    )
    texts = failures(suite)
    for name, text in texts.items():
        assert not FRAME.search(text), text
        assert f"def {name}(" in text and "THE MESSAGE" in text
    assert "    broken()" in texts["test_both"]


KEPT = """
def callback(machine): raise ValueError("of the user's")

class Lease:
    def fileno(self): return callback(None)

def test_callback():
    ExposedPorts([(None, Lease())]).pass_fds

def test_chain():
    try:
        1 / 0
    except ZeroDivisionError:
        vm.run("true")

def test_own_error_from_ours():
    try:
        vm.run("true")
    except MachineError as error:
        raise ValueError("of the user's") from error

def test_helper_of_the_users():
    def helper():
        with contextlib.ExitStack() as stack:
            stack.callback(vm.run, "true")
    helper()

def test_expected():
    with pytest.raises(MachineError, match="MESSAGE") as info:
        vm.run("true")
    assert info.value.__cause__ is not None and len(info.traceback) > 1

import unittest
class TestCase(unittest.TestCase):
    def test_case(self):
        vm.run("true")
"""


@pytest.mark.parametrize("words", ["", "--tb=short", "--tb=native"])
def test_what_is_the_users_stays(failures, words):
    suite = SUITE + "from pytest_vmports.errors import MachineError\n" + KEPT
    texts = failures(suite, *words.split())
    assert texts.pop("test_expected") == ""
    for text in texts.values():
        assert not re.search(r"pytest_vmports/|subprocess\.py", text), text
    assert "in callback" in texts["test_callback"] or "def callback" in texts["test_callback"]
    for line in ("1 / 0", 'vm.run("true")', "During handling"):
        assert line in texts["test_chain"], texts["test_chain"]
    for line in ('vm.run("true")', "raise ValueError", "direct cause"):
        assert line in texts["test_own_error_from_ours"]
    assert "helper()" in texts["test_helper_of_the_users"]
    assert 'vm.run("true")' in texts["test_case"]


def test_a_skip_for_a_missing_program_names_the_test(pytester):
    pytester.makepyfile(
        "import pytest\n@pytest.mark.vmports(8080, qemu='/nowhere', missing='skip')\n"
        "def test_it(vm_with_ports): pass\n"
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * test_a_skip*.py:[23]: no working QEMU found*"])


def test_an_error_at_import_shows_the_modules_line(pytester):
    pytester.makepyfile("from pytest_vmports import Guest\nGuest.disk('nowhere')\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*.py:2: in <module>", "    Guest.disk('nowhere')", "E  *nowhere*"]
    )
    result.stdout.no_fnmatch_line("*guests/guest.py*")


def test_a_fault_of_the_pruning_costs_no_report(pytester):
    pytester.makepyfile("def test_it(): assert 0")
    pytester.makeconftest(
        "from pytest_vmports.report import traceback\n"
        "import pytest_vmports.errors\n"
        "def broken(*_): raise RuntimeError('of ours')\n"
        "traceback.prune = broken\n"
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*frames of vmports are shown: RuntimeError: of ours*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_an_item_that_is_no_function_is_named_by_its_file(tmp_path):
    node = SimpleNamespace(
        path=tmp_path / "a.yaml", name="one", config=SimpleNamespace(getoption=lambda *_: False)
    )
    try:
        pytest_vmports.ExposedPorts([])[80]
    except KeyError as error:
        # Nothing of the user's: as from a fixture.
        error.__traceback__ = error.__traceback__.tb_next
        info = pytest.ExceptionInfo.from_exception(error)
        assert traceback.prune(node.config, node, info)
        assert [(str(one.path), one.lineno) for one in info.traceback] == [
            (str(tmp_path / "a.yaml"), 0)
        ]

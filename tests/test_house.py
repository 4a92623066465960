"""The layout: which way imports point, what is loaded when, how long a module may be."""

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_vmports
from pytest_vmports.network.wiring import Wiring
from pytest_vmports.settings import parse
from pytest_vmports.settings.table import OPTIONS

PACKAGE = Path(pytest_vmports.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent
# A module may import from its own layer and from those before it.
LAYERS = [
    {"constants", "errors", "models", "system.mishaps"},
    {
        "leases.record", "leases.refusal", "leases.guard", "leases.candidates", "leases.state_dir", "leases.lease",
        "leases.allocator", "leases", "leases.cli", "system.programs", "system.process", "system.run_dir", "port_forward",
        "system.progress", "system.fingerprint", "system.minder", "pool.kept", "system.proc", "system", "leases.free_ports",
    },
    {"network", "guests"},
    {"vm"},
    {"settings", "settings.options", "settings.parse"},
    {
        "report", "report.evidence", "report.artifacts", "report.summary", "report.timeline", "pool.factory", "cli.run", "cli.doctor",
        "report.terminal", "report.console_stream", "cli.tables", "report.closing",
    },
    {"plugin", "cli.main"},
]  # fmt: skip
HEAVY = ["pydantic", "filelock", "qemu.qmp", "platformdirs", "asyncio"]
# What of ours a run loads that uses nothing of it.
UNUSED = {"", ".plugin", ".settings", ".settings.table", ".constants"}


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def layer_of(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name.split(".", maxsplit=1)[0] in layer)


def imports(module: Path) -> set[str]:
    """Return what a module imports, when it is loaded or later, but not for types only."""
    tree = ast.parse(module.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(found: set[str]) -> set[str]:
    names = {name.removeprefix("pytest_vmports.") for name in found if "pytest_vmports." in name}
    rooms = {room for layer in LAYERS for room in layer}
    return {name for name in names if name.split(".")[0] in rooms}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_point_towards_the_foundations(module):
    name = name_of(module)
    if name == "__init__":
        return
    used = ours(imports(module))
    assert {other for other in used if layer_of(other) > layer_of(name)} == set()


def test_only_hooks_and_reports_know_pytest():
    users = {name_of(m) for m in MODULES if "pytest" in imports(m)}
    assert users <= {"plugin", "report.recorder", "report.closing"}


def test_leases_know_nothing_of_qemu():
    program = "import sys, pytest_vmports.leases; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "filelock" in loaded
    for name in loaded:
        assert not name.startswith(
            ("qemu", "pydantic", "pytest_vmports.vm", "pytest_vmports.network")
        )


def test_allocators_are_made_in_one_place():
    makers = [
        name_of(module)
        for module in MODULES
        for _ in range(module.read_text().count("PortAllocator("))
    ]
    assert makers == ["leases.free_ports"]


def test_installed_and_unused_it_loads_nothing_heavy(pytester, monkeypatch):
    # Other plugins of this environment load some of these themselves.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("def test_plain(): pass\ndef test_fails(): assert 0")
    pytester.makeconftest(
        f"""
        import sys
        def pytest_unconfigure(config):
            print("LOADED", *[m for m in {HEAVY} if m in sys.modules])
            print("OURS", *[m for m in sys.modules if m.startswith("pytest_vmports")])
        """
    )

    def loaded(*words):
        result = pytester.runpytest_subprocess(*words, "-s")
        result.assert_outcomes(passed=1, failed=1)
        lines = [line.split() for line in result.outlines]
        return [{*line[1:]} for line in lines if line[:1] in (["LOADED"], ["OURS"])]

    heavy, ours = loaded("-p", "pytest_vmports.plugin")
    assert ours == {f"pytest_vmports{name}" for name in UNUSED}
    # pytest itself loads asyncio from Python 3.14 on, whose pdb does.
    assert [heavy, set()] == loaded()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_setting_names_a_reader_that_reads_its_default(option):
    assert inspect.getmodule(getattr(parse, option.reader)) is parse
    option.read(option.default)


@pytest.mark.parametrize("name", pytest_vmports.__all__)
def test_every_public_name_is_there(name):
    module = importlib.import_module("pytest_vmports")
    assert getattr(module, name) is not None and name in dir(module)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Vm'"):
        _ = pytest_vmports.Vm


def test_all_public_names_can_be_imported_at_once():
    names = {}
    exec("from pytest_vmports import *", names)
    assert set(pytest_vmports.__all__) <= set(names)


def test_installing_it_pulls_in_these_packages_and_no_more(missing):
    if sys.version_info < (3, 11):
        missing("tomllib", "use Python 3.11 or later")
    tomllib = importlib.import_module("tomllib")
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"pytest", "pydantic", "filelock", "qemu.qmp", "platformdirs"}


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_module_grows_beyond_reading(module):
    assert module.read_text().count("\n") <= 400


def test_no_two_files_of_the_network_need_each_other_be_it_for_types():
    graph = {}
    for module in (PACKAGE / "network").glob("*.py"):
        nodes = [
            n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.ImportFrom)
        ]
        named = {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
        graph[name_of(module)] = ours(named | {n.module for n in nodes}) - {"network"}
    assert "network.wiring" in graph["network.usernet"]
    graphlib.TopologicalSorter(graph).prepare()


def test_a_way_of_connecting_a_guest_has_to_offer_little():
    members = {name for name in vars(Wiring) if not name.startswith("_")}
    assert 0 < len(members) <= 10


def forwarded(kind: ast.ClassDef) -> list[str]:
    """Return the methods that do nothing but call, or give, another object's of the same name."""
    found = []
    for method in kind.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = [step for step in method.body if not is_text(step)]
        (only,) = body if len(body) == 1 else (None,)
        value = getattr(only, "value", None)
        value = value.value if isinstance(value, ast.Await) else value
        value = value.func if isinstance(value, ast.Call) else value
        if not isinstance(value, ast.Attribute) or not isinstance(value.value, ast.Attribute):
            continue
        owner = value.value.value
        if value.attr == method.name and isinstance(owner, ast.Name) and owner.id == "self":
            found.append(method.name)
    return found


def is_text(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def test_a_class_that_forwards_is_seen():
    text = """class Outer:
    def start(self, fds):
        "Text."
        return self.inner.start(fds)
    @property
    def kind(self):
        return self.inner.kind
    async def stop(self):
        await self.inner.stop()
    def other(self):
        return self.inner.another()
    def more(self):
        self.started = True
        self.inner.more()
"""
    (outer,) = ast.parse(text).body
    assert forwarded(outer) == ["start", "kind", "stop"]


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_class_stands_before_another_and_repeats_it(module):
    classes = [n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.ClassDef)]
    found = {kind.name: forwarded(kind) for kind in classes}
    assert {name: methods for name, methods in found.items() if len(methods) > 4} == {}


# Questions and answers about an architecture.
ARCHITECTURES = re.compile(
    r"platform\.(?:machine|processor|uname)|os\.uname|uname -m|(?i:x86|i386|aarch64|arm64|amd64)"
)
# Lines that may name one outside of system/: what they are, and what they must match.
NAMED = {
    "system.programs": r"install |X86_64\b",  # what to install
    "cli.doctor": r"X86_64\b",  # a hint for KVM
    "guests.cloud_init": r"case \$\(uname -m\)",  # run by the guest
    "network.udp_relay": r"# ",
    "network.seal": r"# ",
}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_which_architecture_it_is_is_known_in_one_room_alone(module):
    name = name_of(module)
    if name.startswith("system."):
        return
    found = [
        line.strip()
        for line in module.read_text().splitlines()
        if ARCHITECTURES.search(line) and not re.search(NAMED.get(name, "(?!)"), line)
    ]
    assert found == []


def test_the_readme_shows_the_settings_of_the_code():
    script = PACKAGE.parent / "scripts" / "settings_table.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False)
    assert done.returncode == 0, "run scripts/settings_table.py"


def test_no_inner_run_is_given_a_path_as_a_word_of_its_own():
    """pytest takes it for a place of tests: the run would have that place's settings and cache."""
    found = [
        f"{test.name}: {line.strip()}"
        for test in Path(__file__).parent.rglob("*.py")
        for line in test.read_text().splitlines()
        if re.search(r'"--vmports-[a-z-]+", str\(', line)
    ]
    assert found == []


# What a host is, and not what it lacks, decides here whether there is anything to be tested.
MAY_SKIP = {
    "test_agent.py": "the agent is a program for Linux on x86-64",
    "test_broken_suites.py": "where KVM works there is nothing to be told of it",
    "test_host.py": "a processor that nests virtual machines is not one that cannot",
    "test_udp_relay.py": "only Linux has such filters",
}
SKIPS = {"skip", "skipif", "importorskip", "skipTest", "SkipTest"}


def test_no_test_skips_unseen():
    """What is missing is told by the fixture of that name, which fails on CI."""
    found = {
        test.name
        for test in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(test.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) in SKIPS
    }
    assert found == set(MAY_SKIP)

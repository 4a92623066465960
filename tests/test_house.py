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
from folded import folded

import pytest_vmports
from pytest_vmports import errors
from pytest_vmports.network.wiring import Wiring
from pytest_vmports.pool import planning
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.settings import far_store, guests, hardware, options, parse
from pytest_vmports.settings.table import OPTIONS
from pytest_vmports.system.programs import Accelerator

PACKAGE = Path(pytest_vmports.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent
# A room imports from those before it, for types and in functions too. docs/contributing.md says
# what is in each.
ROOMS = [
    "errors", "constants", "models", "system", "leases", "port_forward", "guests", "images",
    "network", "vm", "settings", "pool", "report", "cli", "plugin",
]  # fmt: skip
TOP = {"__init__", "constants", "models", "plugin", "port_forward"}
HEAVY = ["pydantic", "filelock", "qemu.qmp", "platformdirs", "asyncio"]
# What of ours a run loads that uses nothing of it.
UNUSED = {
    "", ".plugin", ".settings", ".settings.table", ".constants", ".report", ".report.coming",
    ".report.frames", ".report.nodes", ".report.workers",
}  # fmt: skip


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


def imports(module: Path) -> set[str]:
    """Return what a module imports, when it is loaded, later, or for types only."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(module: Path) -> set[str]:
    """Return the modules of ours that a module imports, each as `name_of` has it."""
    known = {name_of(other).removesuffix(".__init__"): name_of(other) for other in MODULES}
    names = {name.removeprefix("pytest_vmports.") for name in imports(module)}
    # Of `from pytest_vmports.leases import guard` the room itself is only the way there.
    ways = {name.rpartition(".")[0] for name in names & known.keys()}
    asked = {name.rpartition(".")[0] for name in names - known.keys()}
    return {known[name] for name in names & (known.keys() - (ways - asked))} - {name_of(module)}


def functions(module: Path):
    return [
        node
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_every_module_is_in_a_room_and_few_are_at_the_top():
    assert {name_of(module) for module in PACKAGE.glob("*.py")} == TOP
    assert {room_of(name_of(module)) for module in MODULES} == {*ROOMS, "__init__"}


@folded("module", MODULES, ids=name_of)
def test_a_room_imports_only_from_those_below_it(module):
    name = name_of(module)
    if name == "__init__":  # its names are loaded when they are asked for
        return
    below = ROOMS[: ROOMS.index(room_of(name)) + 1]
    assert {other for other in ours(module) if room_of(other) not in below} == set()


def test_no_files_need_each_other_in_a_circle_be_it_for_types():
    graph = {name_of(module): ours(module) for module in MODULES if name_of(module) != "__init__"}
    assert "network.wiring" in graph["network.usernet"]
    assert "vm.plan" in graph["vm.machine"]
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("vm.plan") < order.index("vm.machine")


@folded("module", MODULES, ids=name_of)
def test_no_module_and_no_function_grows_beyond_reading(module):
    assert module.read_text().count("\n") <= 400
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in functions(module)}
    assert {name: count for name, count in lines.items() if count > 60} == {}


def assigned(module: Path) -> list[str]:
    """Return the attributes of other objects than ``self`` that a module assigns to."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        is_plain = isinstance(node, ast.AugAssign | ast.AnnAssign)
        targets = [node.target] if is_plain else getattr(node, "targets", [])
        found += [
            ast.unparse(target)
            for outer in targets
            for target in ast.walk(outer)
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        ]
    return [name for name in found if not re.fullmatch(r"self\.\w+", name)]


@folded("module", MODULES, ids=name_of)
def test_a_machine_is_changed_by_its_own_methods_only(module):
    """Whatever it is called where it is held; a context's stash and the like are nobody's."""
    named = re.compile(r"(^|\.)_?(machine|vm|booted|own|one|ready)(\.|$)")
    holders = [name.rpartition(".")[0] for name in assigned(module)]
    assert [holder for holder in holders if named.search(holder)] == []


@folded("module", MODULES, ids=name_of)
def test_of_what_kind_a_guest_is_is_asked_in_one_place(module):
    name = name_of(module)
    if room_of(name) == "guests" or name == "vm.inside.kind":
        return
    read = {
        node.attr for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }  # fmt: skip
    assert read & {"root_disk", "prepared"} == set()


def test_only_hooks_and_reports_know_pytest():
    for module in MODULES:
        known = "pytest" in imports(module) - typed_only(module)
        assert not known or room_of(name_of(module)) in {"plugin", "report"}, name_of(module)


def typed_only(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            inner = [one for one in ast.walk(node) if isinstance(one, ast.Import)]
            found |= {alias.name for one in inner for alias in one.names}
    return found


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


def places(text: str) -> list[str]:
    return [name_of(one) for one in MODULES for _ in range(one.read_text().count(text))]


def test_allocator_and_pool_are_each_made_in_one_place():
    assert places("PortAllocator(") == ["leases.free_ports"]
    assert places(" Pool(") == places(" Launcher(") == places(" Templates(") == ["pool.pool"]


def test_ports_alone_need_no_cache_and_load_nothing_of_vms(pytester, monkeypatch):
    """Nor does a header that is printed for them."""
    (pytester.path / "file").touch()
    pytester.makeini("[pytest]\nvmports_cache_dir = file/cache")
    pytester.makepyfile(
        """
        import socket, sys
        import pytest

        @pytest.mark.vmports(8080)
        def test_ports(exposed_ports):
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(exposed_ports[8080].address)
            loaded = [name for name in sys.modules if name.startswith("pytest_vmports.")]
            rooms = {name.split(".")[1] for name in loaded}
            assert rooms & {"vm", "pool"} == set(), loaded
            assert not {"qemu.qmp", "asyncio"} & (set(sys.modules) - before)

        before = set(sys.modules)
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_room_of_vms_loads_nothing_that_few_of_them_need():
    """Nor does what connects it: each process that starts a VM would pay for it."""
    program = """
import sys
from pathlib import Path
from pytest_vmports.pool import pool
from pytest_vmports.network.choose import Network, make_wiring
network = Network("usernet")
network.first_card_args((), ())
make_wiring(network, (), gvproxy=None, workdir=Path(), allocator=None)
print(*sys.modules)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"pytest_vmports.vm.machine", "pytest_vmports.network.usernet"} <= {*loaded}
    of_few = {"network.gvproxy", "network.walls", "network.seal", "network.doorman",
              "network.names", "system.gate", "vm.inside.qemu_agent"}  # fmt: skip
    assert {f"pytest_vmports.{name}" for name in of_few} & {*loaded} == set()
    assert not any(name.partition(".")[0] in {"dns", "http"} for name in loaded)


# What a guest does not see, so that none is booted anew for it: the plan's key knows nothing of it.
UNSEEN = {
    "expose": "a forward is between the host and QEMU; what is waited for is in the key",
    "strict_network": "it refuses a VM; of one with network the key knows it",
    "boot_timeout": "how long the host waits",
    "template": "whether there is a key at all, and whether clones are told the time",
    "fresh_boot": "likewise",
    "allow_crash": "what the host makes of a panic",
    "console_limit": "what the host keeps of a console",
    "cloud_init": "what the host makes of a complaint; a disk's own identity knows it",
    "agent": "a kernel's guest brings its own or none; a disk's own identity knows it",
    "copy_limit": "what the host takes of a guest's files",
    "prewarm": "when a clone is made",
    "cache_size": "how many templates are kept",
    "cache_dir": "where templates are kept",
    "cache_store": "where else templates are kept",
    "cache_store_secret": "whom a template is believed from",
    "images_size": "how many images are kept",
    "images_dir": "where images are kept; a disk's own identity knows its file",
    "image_mirror": "where images come from; a disk's own identity knows its file",
    "port_range": "host ports",
    "port_wait": "how long the host waits",
    "bind_host": "a host address",
    "gvproxy": "which program of a kind is on the other side of the card",
    "missing": "what happens where there is no VM",
    "state_dir": "where leases are kept",
    "artifacts": "what is written of a VM that has failed",
    "pcap": "QEMU writes down what passes; the standby's key knows it",
    "keep": "what happens to a VM after its test",
    "console": "what is shown of a VM",
    "report": "what is told of a run",
    "timeline": "likewise",
}
# Another value than that of `some_plan`, for every setting that is seen.
SEEN = {
    "allow_network": "yes", "backend": "gvproxy", "host_ports": "8000:1", "network": "lab",
    "guest": "{folder}/other.raw", "kernel": "{folder}/other", "initrd": "{folder}/other",
    "append": "quiet", "files": "{folder}/other=/page", "setup": "false", "memory": "128",
    "cpus": "2", "display": "yes", "crash_dump": "yes", "on_reboot": "allow", "accel": "kvm",
    "wait_for": "none", "qemu": "{folder}/{qemu}", "cpu": "qemu64,+avx",
    "qemu_args": "-device edu", "disks": "64M", "nics": "2",
    "paused": "yes", "tpm": "yes",
    "machine": "q35",
}  # fmt: skip


@pytest.fixture
def plan_with(request, tmp_path, qemu_binary, gvproxy_089, monkeypatch):
    """Return a function that makes a plan with one setting changed, in its user's spelling."""
    for name in ("kernel", "initrd", "other", "other.raw"):
        (tmp_path / name).write_text(name)
    (tmp_path / qemu_binary.name).write_text(f'#!/bin/sh\nexec {qemu_binary} "$@"\n')
    (tmp_path / qemu_binary.name).chmod(0o755)
    # Faked: an accelerator that this host need not have.
    monkeypatch.setattr(planning, "choose_accel", lambda name, _qemu: Accelerator(name, "a test"))

    def plan(**changes):
        kernel = {} if "guest" in changes else {"kernel": f"{tmp_path}/kernel"}
        wanted = {
            "expose": "8080", "initrd": f"{tmp_path}/initrd", "setup": "true", "accel": "tcg",
            "gvproxy": str(gvproxy_089), **kernel, **changes,
        }  # fmt: skip
        if "guest" in changes:
            del wanted["setup"], wanted["initrd"]
        settings = options.resolve(request.config, wanted, "the test")
        return planning.plan_of(settings, chosen_guest(settings, None, tmp_path), tmp_path)

    return plan


def test_every_setting_is_either_seen_by_the_guest_or_known_not_to_be():
    assert set(SEEN) | set(UNSEEN) == {option.name for option in OPTIONS}
    assert set(SEEN) & set(UNSEEN) == set()


@pytest.mark.parametrize("name", SEEN)
def test_a_setting_that_the_guest_sees_changes_the_key(plan_with, tmp_path, qemu_binary, name):
    value = SEEN[name].format(folder=tmp_path, qemu=qemu_binary.name)
    assert plan_with(**{name: value}).key != plan_with().key


UNSEEN_VALUES = {
    "expose": "8080 53/udp", "strict_network": "yes", "boot_timeout": "7", "template": "no",
    "fresh_boot": "yes", "allow_crash": "yes", "cloud_init": "tolerant", "prewarm": "0",
    "agent": "no",
    "copy_limit": "64M",
    "cache_size": "1G", "cache_store": "/far", "cache_store_secret": "env:X",
    "images_size": "1G", "images_dir": "/i", "image_mirror": "debian=https://mirror.example/d",
    "cache_dir": "/c", "port_range": "20000-20100", "port_wait": "7", "bind_host": "127.0.0.2",
    "missing": "skip", "state_dir": "/s", "artifacts": "no", "pcap": "yes", "keep": "always",
    "console": "yes", "console_limit": "128", "report": "yes", "timeline": "t.svg",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(UNSEEN) - {"gvproxy"}))
def test_a_setting_that_the_guest_does_not_see_leaves_the_key_as_it_is(plan_with, name):
    assert plan_with(**{name: UNSEEN_VALUES[name]}).key == plan_with().key


def test_either_generation_of_gvproxy_serves_the_same_template(plan_with, gvproxy_081):
    network = {"allow_network": "yes"}
    assert plan_with(**network, gvproxy=str(gvproxy_081)).key == plan_with(**network).key


def test_what_a_guest_may_reach_is_in_the_key_entry_by_entry(plan_with):
    told = ["yes", "example.org", "*.example.org", "example.org:443", "10.1.0.0/16", "10.1.0.0/17"]
    keys = {plan_with(allow_network=one).key for one in told}
    keys |= {plan_with(allow_network=one, strict_network="yes").key for one in told}
    assert len(keys) == 2 * len(told)
    assert (
        plan_with(allow_network="example.org 10.1.0.0/16").key
        == plan_with(allow_network="10.1.0.0/16 EXAMPLE.org. example.org").key
    )


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
    homes = [home for home in (far_store, guests, hardware, parse) if hasattr(home, option.reader)]
    assert [inspect.getmodule(getattr(home, option.reader)) for home in homes] == homes != []
    option.read(option.default)


@pytest.mark.parametrize("name", pytest_vmports.__all__)
def test_every_public_name_is_there(name):
    module = importlib.import_module("pytest_vmports")
    assert getattr(module, name) is not None and name in dir(module)


def test_every_error_and_warning_is_a_public_name():
    theirs = [
        name for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, Exception) and name[0] != "_"
    ]  # fmt: skip
    assert set(theirs) <= set(pytest_vmports.__all__)
    assert len(theirs) >= 50


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
    assert names == {"pytest", "pydantic", "filelock", "qemu.qmp", "platformdirs", "dnspython"}


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


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


@folded("module", MODULES, ids=name_of)
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
    "cli.place": r"X86_64\b|x86-64",  # hints for KVM
    "guests.cloud_init": r"case \$\(uname -m\)",  # run by the guest
    "guests.file_kinds": r"^    _kernel\(|Documentation/arch/",  # names of formats
    "network.links": r"# ",
    "network.seal": r"# ",
}


@folded("module", MODULES, ids=name_of)
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


@pytest.mark.parametrize(
    "name", ["settings_table", "settings_types", "command_line_page", "house_tree"]
)
def test_the_docs_show_the_settings_and_the_house_as_they_are(name):
    script = PACKAGE.parent / "scripts" / f"{name}.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False)
    assert done.returncode == 0, f"run scripts/{name}.py"


def test_no_inner_run_is_given_a_path_as_a_word_of_its_own():
    """pytest takes it for a place of tests: the run would have that place's settings and cache."""
    found = [
        f"{test.name}: {line.strip()}"
        for test in Path(__file__).parent.rglob("*.py")
        for line in test.read_text().splitlines()
        if re.search(r'"--vmports-[a-z-]+", str\(', line)
    ]
    assert found == []


# Where a limit of time is counted, or a program is started: with the clock that no test can stop.
TIMED = {
    "time.": {"system.clock"},
    "select.select": set(),
    "subprocess.": {"system.tools", "system.process", "system.minder"},
    "asyncio.": {"vm.qmp_thread"},
    "acquire(timeout)": set(),
    "wait_for()": {"vm.qmp_thread"},
    "communicate()": set(),
    "get(timeout)": set(),
}
# These tell of a moment that they are given, or are types.
HARMLESS = {
    "time.strftime", "time.localtime",
    "subprocess.Popen in system.surroundings",  # what tests replace it by is put back; runs nothing
    *("subprocess." + name for name in (
        "DEVNULL", "PIPE", "STDOUT", "CalledProcessError", "TimeoutExpired", "CompletedProcess",
        "SubprocessError",
    )),
    # Waits for a command without a limit.
    "subprocess.Popen in leases.cli",
}  # fmt: skip


def timed(module: Path) -> set[str]:
    """Return what of a module may wait by a clock that a test can stop, as `TIMED` names it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        words = []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            words.append(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and node.module:
            words += [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            limits = {word.arg for word in node.keywords} & {"timeout"}
            words += [f"{node.func.attr}()"] + [f"{node.func.attr}({limit})" for limit in limits]
        for word in words:
            if word not in HARMLESS and f"{word} in {name_of(module)}" not in HARMLESS:
                found |= {
                    kind for kind in TIMED
                    if word == kind or (kind.endswith(".") and word.startswith(kind))
                }  # fmt: skip
    return found


@folded("module", MODULES, ids=name_of)
def test_time_is_counted_by_the_one_clock(module):
    assert {kind for kind in timed(module) if name_of(module) not in TIMED[kind]} == set()


def test_a_module_that_counts_by_another_clock_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "one.py").write_text(
        "import time, subprocess, select\nfrom time import monotonic\n"
        "lock.acquire(timeout=3)\nqueue.get(timeout=3)\nevent.wait_for(x, 3)\n"
        "child.communicate(timeout=3)\nselect.select([], [], [])\nsubprocess.run([])\n"
    )
    assert timed(tmp_path / "one.py") == {*TIMED} - {"asyncio."}
    (tmp_path / "one.py").write_text("import time\ntime.strftime('', time.localtime(1))\n")
    assert timed(tmp_path / "one.py") == set()


# What a host is, and not what it lacks, decides here whether there is anything to be tested.
MAY_SKIP = {
    "test_agent.py": "the agent is a program for Linux on x86-64",
    "test_broken_suites.py": "where KVM works there is nothing to be told of it",
    "test_loopback.py": "a kernel or container may refuse network namespaces to users",
    "test_programs.py": "a processor that nests virtual machines is not one that cannot",
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

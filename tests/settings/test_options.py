"""Settings: one table, four homes, and mistakes that are told before anything boots."""

import itertools

import pytest

from pytest_vmports.constants import PORT_SPELLINGS
from pytest_vmports.errors import SettingError
from pytest_vmports.settings import options
from pytest_vmports.settings.table import OPTIONS

NAMES = [option.name for option in OPTIONS]
# Inner runs that end without starting a VM; the randomised order of other plugins is not at stake.
PLAIN = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:hypothesispytest")
USAGE_ERROR = pytest.ExitCode.USAGE_ERROR


@pytest.fixture
def settings(pytester):
    """Return a function from a test module (and arguments, ini) to its first test's settings."""

    names = (f"test_module_{number}" for number in itertools.count())

    def resolve(source, *args, ini=""):
        return options.settings_for(items(source, *args, ini=ini)[0])

    def items(source, *args, ini=""):
        pytester.makeini(f"[pytest]\n{ini}\n")
        path = pytester.makepyfile(**{next(names): f"import pytest\n{source}"})
        # Quiet, so that no header looks for QEMU.
        config = pytester.parseconfigure(*PLAIN, "-q", *args, path)
        return pytester.genitems([pytester.getnode(config, path)])

    resolve.items = items
    return resolve


def shown(ports):
    return [str(port) for port in ports]


PLAIN_TEST = "def test_it(): pass"


def test_every_setting_is_explained_by_help_as_option_and_as_ini(pytester):
    text = pytester.runpytest_inprocess(*PLAIN, "--help").stdout.str()
    for option in OPTIONS:
        value = "=[VALUE]" if option.flag else "=VALUE"
        assert f"--vmports-{option.name.replace('_', '-')}{value}" in text
        assert f"  vmports_{option.name} (string):" in text
    lines = " ".join(text.split())
    for option in OPTIONS:
        assert option.help.split(",")[0] in lines


def test_the_marker_and_its_keywords_are_listed(pytester):
    text = pytester.runpytest_inprocess(*PLAIN, "--markers").stdout.str()
    (line,) = [line for line in text.splitlines() if line.startswith("@pytest.mark.vmports(")]
    for option in OPTIONS:
        assert (f"{option.name}=" in line) == option.marker
    assert PORT_SPELLINGS in line


def test_the_table_and_the_settings_name_the_same_things():
    assert len(NAMES) == len(set(NAMES))
    fields = set(options.Settings.__dataclass_fields__)
    assert set(NAMES) == fields - {"sources"}


def test_every_default_is_an_allowed_value(settings):
    found = settings(PLAIN_TEST)
    assert set(found.sources.values()) == {"default"}
    assert found.expose == ()
    assert (found.memory, found.cpus, found.backend) == (256, 1, "auto")
    assert found.allow_network is False
    assert found.port_range is None


# Per setting a value for each home, from the nearest to the farthest, and what becomes of it.
HOMES = [
    ("memory", "512", "300", "200", "100", [512, 300, 200, 100, 256]),
    ("cpus", "5", "4", "3", "2", [5, 4, 3, 2, 1]),
    ("allow_network", "False", "yes", "no", "yes", [False, True, False, True, False]),
    ("template", "False", "yes", "no", "yes", [False, True, False, True, True]),
    ("copy_limit", "'2G'", "3G", "4G", "5G", [2048, 3072, 4096, 5120, 1024]),
    ("allow_crash", "False", "yes", "no", "yes", [False, True, False, True, False]),
    ("backend", "'auto'", "gvproxy", "usernet", "gvproxy",
     ["auto", "gvproxy", "usernet", "gvproxy", "auto"]),
    ("accel", "'tcg'", "kvm", "tcg", "hvf", ["tcg", "kvm", "tcg", "hvf", "auto"]),
    ("missing", "'error'", "skip", "error", "skip", ["error", "skip", "error", "skip", "error"]),
    ("boot_timeout", "1.5", "20", "30", "40", [1.5, 20.0, 30.0, 40.0, 120.0]),
    ("setup", "''", "cli", "env", "ini", [None, "cli", "env", "ini", None]),
    ("prewarm", "'auto'", "1", "0", "4", ["auto", 1, 0, 4, "auto"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "marker", "cli", "env", "ini", "wanted"), HOMES)
def test_the_nearest_home_wins(settings, monkeypatch, name, marker, cli, env, ini, wanted):
    flag = f"--vmports-{name.replace('_', '-')}={cli}"
    variable = f"VMPORTS_{name.upper()}"
    marked = f"@pytest.mark.vmports({name}={marker})\n{PLAIN_TEST}"
    in_ini = f"vmports_{name} = {ini}"
    monkeypatch.setenv(variable, env)
    found = [
        settings(marked, flag, ini=in_ini),
        settings(PLAIN_TEST, flag, ini=in_ini),
        settings(PLAIN_TEST, ini=in_ini),
    ]
    monkeypatch.delenv(variable)
    found += [settings(PLAIN_TEST, ini=in_ini), settings(PLAIN_TEST)]
    values = [getattr(one, name) for one in found]
    assert values == wanted
    sources = [one.sources[name] for one in found]
    assert ": marker vmports" in sources[0]
    assert sources[1].startswith(f"--vmports-{name.replace('_', '-')} (used by test_")
    assert sources[2].startswith(f"environment variable {variable} (used by test_")
    assert sources[3].startswith(f"tox.ini: vmports_{name} (used by test_")
    assert sources[4] == "default"


def test_an_empty_value_is_a_value_that_overrules_farther_homes(settings, monkeypatch):
    ini = "vmports_setup = of the ini"
    monkeypatch.setenv("VMPORTS_SETUP", "of the environment")
    assert settings(PLAIN_TEST, "--vmports-setup=", ini=ini).setup is None
    monkeypatch.setenv("VMPORTS_SETUP", "")
    assert settings(PLAIN_TEST, ini=ini).setup is None


THREE_LEVELS = """
pytestmark = pytest.mark.vmports(80, memory=100, cpus=2, allow_network=True)

@pytest.mark.vmports(81, "3000:80", memory=200, allow_network=False)
class TestAll:
    @pytest.mark.vmports(82, 80, memory=300)
    def test_it(self): pass

    def test_without_a_marker_of_its_own(self): pass

def test_outside(): pass
"""


def test_ports_of_module_class_and_function_add_up(settings):
    found = [shown(options.settings_for(item).expose) for item in settings.items(THREE_LEVELS)]
    assert found == [
        ["80/tcp", "81/tcp", "3000:80/tcp", "82/tcp"],
        ["80/tcp", "81/tcp", "3000:80/tcp"],
        ["80/tcp"],
    ]


def test_of_keywords_the_closest_wins_even_a_falsy_one(settings):
    found = [options.settings_for(item) for item in settings.items(THREE_LEVELS)]
    assert [(one.memory, one.cpus, one.allow_network) for one in found] == [
        (300, 2, False), (200, 2, False), (100, 2, True),
    ]  # fmt: skip


def test_ports_of_every_home_but_the_marker_are_defaults_that_markers_add_to(settings):
    marked = f"@pytest.mark.vmports(81)\n{PLAIN_TEST}"
    assert shown(settings(marked, ini="vmports_expose = 80 53/udp").expose) == [
        "80/tcp", "53/udp", "81/tcp",
    ]  # fmt: skip
    emptied = f"@pytest.mark.vmports(81, expose='')\n{PLAIN_TEST}"
    assert shown(settings(emptied, ini="vmports_expose = 80 53/udp").expose) == ["81/tcp"]


def test_a_parametrised_test_brings_its_own_markers(settings):
    items = settings.items("""
@pytest.mark.vmports(80, memory=100)
@pytest.mark.parametrize("case", [
    pytest.param(1, marks=pytest.mark.vmports(81, memory=200)),
    pytest.param(2, marks=[pytest.mark.vmports("82/udp"), pytest.mark.vmports(83)]),
    3,
])
def test_it(case): pass
""")
    found = {item.name: options.settings_for(item) for item in items}
    assert {name: shown(one.expose) for name, one in found.items()} == {
        "test_it[1]": ["80/tcp", "81/tcp"],
        "test_it[2]": ["80/tcp", "83/tcp", "82/udp"],
        "test_it[3]": ["80/tcp"],
    }
    assert found["test_it[1]"].memory == 200
    assert found["test_it[3]"].memory == 100


def test_an_underscore_or_blank_in_the_wrong_place_is_no_other_setting(settings):
    assert settings(PLAIN_TEST, ini="vmports_memory =   300  ").memory == 300


# What is wrong, and the words that have to be in the message.
MISTAKES = {
    "a value": ("@pytest.mark.vmports(memory='lots')", ["memory = 'lots'", "256, or 1G"]),
    "a falsy value": ("@pytest.mark.vmports(cpus=0)", ["cpus = 0", "from 1 to 255"]),
    "a choice": ("@pytest.mark.vmports(backend='slirp')", ["'slirp'", "usernet, gvproxy, passt"]),
    "a keyword": ("@pytest.mark.vmports(memry=1)", ["memry = 1", "did you mean memory?", "cpus"]),
    "an odd keyword": ("@pytest.mark.vmports(x=1)", ["x = 1", "known keywords are accel, "]),
    "a keyword per run": (
        "@pytest.mark.vmports(port_range='20000-30000')",
        ["port_range = '20000-30000'", "--vmports-port-range or the ini"],
    ),
    "a port": ("@pytest.mark.vmports(99999)", ["port = 99999", "1 to 65535"]),
    "a spelling": ("@pytest.mark.vmports('http')", ["port = 'http'", '"3000:8080" (host:guest)']),
    "a type": ("@pytest.mark.vmports(80.5)", ["port = 80.5", "write 8080"]),
    "a list of ports": (
        "@pytest.mark.vmports([80])", ["[80] is not a port", "write one by one, each as 8080"],
    ),
    "eleven ports": (
        "@pytest.mark.vmports(*range(8000, 8011))", ["Too many exposed ports: 11 > 10"],
    ),
    "a host port twice": (
        "@pytest.mark.vmports('3000:80', '3000:81')", ["host port 3000/tcp is asked for twice"],
    ),
    "a port to wait for": (
        "@pytest.mark.vmports(80, '53/udp', wait_for=[80, 53])",
        ["wait_for = '53'", "::test_it exposes: 80"],
    ),
    "a keyword's port": ("@pytest.mark.vmports(expose='80 x')", ["expose = '80 x'", "'x' is not"]),
}  # fmt: skip


@pytest.mark.parametrize(("marker", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_marker_is_told_with_test_value_and_what_is_allowed(settings, marker, said):
    (item,) = settings.items(f"{marker}\n{PLAIN_TEST}")
    with pytest.raises(SettingError) as caught:
        options.settings_for(item)
    assert item.nodeid in str(caught.value)
    for words in said:
        assert words in str(caught.value)


ELSEWHERE = {
    "option": (["--vmports-memory=lots"], {}, "", "--vmports-memory (used by test_"),
    "environment": ([], {"VMPORTS_MEMORY": "lots"}, "", "environment variable VMPORTS_MEMORY ("),
    "ini": ([], {}, "vmports_memory = lots", "tox.ini: vmports_memory (used by test_"),
}


@pytest.mark.parametrize(("args", "env", "ini", "said"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_mistake_elsewhere_is_a_usage_error_that_names_its_home(
    pytester, monkeypatch, args, env, ini, said
):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_it(exposed_ports): print('ran')")
    done = pytester.runpytest_inprocess(*PLAIN, "-q", *args)
    assert done.ret == USAGE_ERROR
    (line,) = [line for line in done.stderr.lines if line.startswith("ERROR: ")]
    assert said in line
    assert "memory = 'lots' is not allowed; write MiB" in line
    assert ".py::test_it" in line


TWO_MISTAKES = """
import pytest

@pytest.mark.vmports(8080, memry=512)
def test_one(vm_with_ports): print("ran")

@pytest.mark.vmports(99999)
def test_two(): print("ran")

def test_plain(): print("ran")
"""


@pytest.mark.parametrize("how", [["-p", "no:xdist"], ["-n", "2"]], ids=["alone", "two workers"])
def test_mistakes_are_usage_errors_at_collection(pytester, how):
    pytester.makepyfile(TWO_MISTAKES)
    done = pytester.runpytest_subprocess(*PLAIN, "-s", *how)
    assert done.ret == USAGE_ERROR
    text = f"{done.stdout}\n{done.stderr}"
    errors = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 2
    assert "::test_one: marker vmports: memry = 512 is not allowed; did you mean" in errors[0]
    assert "::test_two: marker vmports: port = 99999 is not allowed; guest port" in errors[1]
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    assert "ran" not in text.replace("ran in", "")


def test_a_mistake_in_a_test_that_does_not_run_stops_nobody(pytester):
    pytester.makepyfile(TWO_MISTAKES)
    pytester.runpytest_inprocess(*PLAIN, "-k", "plain").assert_outcomes(passed=1, deselected=2)


def test_ports_of_the_ini_that_can_never_be_had_are_the_inis_mistake(pytester):
    pytester.makeini("[pytest]\nvmports_expose = 3000:80 3000:81\n")
    pytester.makepyfile(USES)
    done = pytester.runpytest_inprocess(*PLAIN)
    assert done.ret == USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: tox.ini: vmports_expose*3000*"])


def test_a_mistake_in_a_fixtures_settings_outside_any_test_is_a_usage_error(pytester):
    pytester.makepyfile(PLAIN_TEST)
    done = pytester.runpytest_inprocess(*PLAIN, "--vmports-accel=warp")
    assert done.ret == USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --vmports-accel: accel = 'warp'*auto, kvm, hvf, tcg *"])


USES = "def test_it(exposed_ports): pass"
STRICT = ("--strict-markers", "--strict-config", "-W", "error")
PORTS_ONLY = """
import pytest

@pytest.mark.vmports(8080, "53/udp", memory=300)
def test_ports(exposed_ports, vmports_settings):
    assert [port.internal for port in exposed_ports] == [8080, 53]
    assert vmports_settings.memory == 300

@pytest.mark.parametrize("case", [pytest.param(1, marks=pytest.mark.vmports(81))])
def test_case(case, exposed_ports):
    assert exposed_ports[81].external != 81
"""


@pytest.mark.parametrize("how", [["-p", "no:xdist"], ["-n", "2"]], ids=["alone", "two workers"])
def test_strict_runs_pass(pytester, how):
    pytester.makeini("[pytest]\nvmports_memory = 200\nvmports_cpus = 2\n")
    pytester.makepyfile(PORTS_ONLY)
    done = pytester.runpytest_subprocess(*PLAIN, *STRICT, *how)
    done.assert_outcomes(passed=2)


def test_a_misspelt_ini_setting_is_caught_by_strict_config(pytester):
    pytester.makeini("[pytest]\nvmports_memry = 200\n")
    pytester.makepyfile(PLAIN_TEST)
    done = pytester.runpytest_inprocess(*PLAIN, "--strict-config")
    assert done.ret == USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: Unknown config option: vmports_memry"])


def test_pyproject_is_a_home_too(pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nvmports_memory = "300"\n')
    pytester.makepyfile("def test_it(vmports_settings): assert vmports_settings.memory == 300")
    pytester.runpytest_inprocess(*PLAIN, *STRICT).assert_outcomes(passed=1)


def test_a_fixture_asked_for_by_name_alone_finds_its_settings(pytester):
    pytester.makepyfile("""
def test_it(request):
    assert request.getfixturevalue("vmports_settings").memory == 256
""")
    pytester.runpytest_inprocess(*PLAIN).assert_outcomes(passed=1)


def test_settings_are_values_that_differ_by_content_and_not_by_origin(settings):
    by_option = settings(PLAIN_TEST, "--vmports-memory=300")
    by_ini = settings(PLAIN_TEST, ini="vmports_memory = 300")
    assert by_option == by_ini
    assert by_option != settings(PLAIN_TEST)

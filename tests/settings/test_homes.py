"""The homes of settings: paths mean the same in each, native values too, and names are known."""

import os
import pwd
import re
from pathlib import Path

import pytest

from pytest_vmports.errors import SettingError
from pytest_vmports.settings import options
from pytest_vmports.settings.table import BY_NAME, MARKER, OPTIONS, add_options, misspelt
from pytest_vmports.system.paths import absolute

PLAIN = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:hypothesispytest")
USES = "def test_it(exposed_ports): print('ran')"
USAGE_ERROR = pytest.ExitCode.USAGE_ERROR

# Every setting that is a path, and what is written around the path.
PATHS = {
    "kernel": "{}", "initrd": "{}", "cache_dir": "{}", "state_dir": "{}", "artifacts": "{}",
    "images_dir": "{}", "qemu": "{}", "gvproxy": "{}", "timeline": "{}.html", "report": "{}.json",
    "guest": "{}.qcow2", "files": "{}=/x", "disks": "{}", "cache_store": "{}",
    "cache_store_secret": "{}",
}  # fmt: skip
HOMES = ("option", "environment", "ini")


@pytest.fixture
def written(pytester, monkeypatch):
    """Return a function: what a setting is when it is written in a home, and the tests move."""

    def read(home, name, text):
        key, arguments, lines = f"{MARKER}_{name}", [], ""
        if home == "option":
            arguments = [f"--{key.replace('_', '-')}={text}"]
        elif home == "environment":
            monkeypatch.setenv(key.upper(), text)
        else:
            lines = f"{key} = {text}\n"
        pytester.makeini(f"[pytest]\n{lines}")
        config = pytester.parseconfig(*PLAIN, *arguments)
        elsewhere = pytester.mkdir(f"elsewhere-{home}")
        monkeypatch.chdir(elsewhere)
        (value,) = options.values(config, name)
        monkeypatch.chdir(pytester.path)
        elsewhere.rmdir()
        if name == "cache_store":
            return value.url
        return next(iter(value)) if name in {"files", "disks"} else value

    return read


def test_the_table_of_paths_is_whole():
    from pytest_vmports.settings import parse

    assert {o.name for o in OPTIONS if o.reader in parse.ROOTED} == set(PATHS)


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_expanded_and_made_absolute_in_every_home(
    written, pytester, monkeypatch, home, name
):
    monkeypatch.setenv("HOME", "/home of/me")
    me = pwd.getpwuid(os.getuid())
    ending = PATHS[name].partition("=")[0].format("")
    for text, wanted in {
        "~/x,y": "/home of/me/x,y", f"~{me.pw_name}/x": f"{me.pw_dir}/x",
        "sub/x": f"{pytester.path}/sub/x", "/abs/x": "/abs/x",
    }.items():  # fmt: skip
        assert written(home, name, PATHS[name].format(text)) == wanted + ending


@pytest.mark.parametrize("name", PATHS)
def test_the_home_of_nobody_is_a_mistake_and_no_folder(written, name):
    with pytest.raises(SettingError, match=r"no home is known for ~nobody-of-this-name"):
        written("ini", name, PATHS[name].format("~nobody-of-this-name/x"))


def test_without_a_home_a_tilde_is_a_mistake_and_all_else_works(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    with pytest.raises(ValueError, match="no home is known for ~: write an absolute path"):
        absolute("~/x")
    assert absolute("x", tmp_path) == tmp_path / "x"


def test_a_name_without_a_slash_is_a_program_of_path(written):
    assert written("ini", "qemu", "qemu-system-arm") == "qemu-system-arm"
    assert [written("ini", "artifacts", no) for no in ("no", "False", "off")] == ["no"] * 3


def test_a_name_in_no_encoding_of_the_locale_is_the_bytes_of_utf_8(tmp_path):
    assert os.fsencode(absolute("é\udcff", tmp_path)) == os.fsencode(tmp_path) + b"/\xc3\xa9\xff"


# --- the native values of TOML --------------------------------------------------------------

# pytest 8 knows the older section alone, where numbers are texts, and tables have no meaning.
NATIVE_TABLE = pytest.version_tuple >= (9,)
# As TOML, and the same as the ini file has it. Every setting is here.
NATIVE = {
    "expose": [("[80, '53/udp']", "80 53/udp"), ("8080", "8080")],
    "host_ports": [("{8000 = 45123}", "8000:45123"), ("['8000:45123']", "8000:45123")],
    "files": [("{a = '/b'}", "a=/b"), ("['a=/b']", "a=/b")],
    "wait_for": [("[80, 443]", "80 443"), ("80", "80"), ("'8080/up'", "8080/up")],
    "port_range": [("[20000, 30000]", "20000-30000"), ("'20000-30000'", "20000-30000")],
    "append": [("['a', 'b=c']", "a b=c"), ("'a'", "a")],
    "artifacts": [("false", "no"), ("'x'", "x")],
    "memory": [("512", "512"), ("'1G'", "1G")],
    "cache_size": [("512", "512")],
    "images_size": [("512", "512"), ("'20G'", "20G")],
    "image_mirror": [
        ("{debian = 'http://a'}", "debian=http://a"), ("['debian=http://a']", "debian=http://a"),
    ],
    "copy_limit": [("512", "512")],
    "console_limit": [("64", "64")],
    "cpus": [("2", "2")],
    "machine": [("'q35'", "q35")],
    "nics": [("2", "2")],
    "disks": [("['64M', 'a.qcow2']", "64M a.qcow2"), ("'1G'", "1G")],
    "qemu_args": [
        ("['-device', 'edu']", "-device edu"), ("'-device edu'", "-device edu"),
    ],
    "cpu": [("'qemu64,+avx'", "qemu64,+avx")],
    "prewarm": [("0", "0"), ("3", "3"), ("'auto'", "auto")],
    "boot_timeout": [("60", "60"), ("1.5", "1.5")],
    "port_wait": [("60", "60"), ("0.5", "0.5")],
    **{
        name: [("true", "yes"), ("false", "no"), ("'yes'", "yes")]
        for name, option in BY_NAME.items() if option.reader == "boolean"
    },
    **{
        name: [(f"'{word}'", word) for word in option.among]
        for name, option in BY_NAME.items() if option.reader == "choice"
    },
    "allow_network": [("true", "yes"), ("false", "no"),
                      ("['a.b', '10.0.0.0/8']", "a.b, 10.0.0.0/8")],
    "template": [("true", "yes"), ("false", "no"), ("'always'", "always")],
    "network": [("'back'", "back")],
    "guest": [("'x.qcow2'", "x.qcow2")],
    "setup": [("'''a\nb'''", "a\n  b")],
    "bind_host": [("'127.0.0.1'", "127.0.0.1")],
    "report": [("true", "yes"), ("false", "no"), ("'x.json'", "x.json")],
    "timeline": [("'x.svg'", "x.svg")],
    **{name: [("'x'", "x")] for name in (
        "kernel", "initrd", "cache_dir", "images_dir", "qemu", "gvproxy", "state_dir",
        "cache_store")},
    "cache_store_secret": [("'env:X'", "env:X"), ("'x'", "x")],
}  # fmt: skip


def test_every_setting_has_its_native_value():
    assert set(NATIVE) == set(BY_NAME)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BY_NAME)
def test_a_native_value_is_what_the_ini_form_is(pytester, name):
    section = "tool.pytest" if NATIVE_TABLE else "tool.pytest.ini_options"
    for native, plain in NATIVE[name]:
        if native.startswith("{") and not NATIVE_TABLE:
            continue
        pytester.makefile(".ini", tox=f"[pytest]\n{MARKER}_{name} = {plain}\n")
        (wanted,) = options.values(pytester.parseconfig(*PLAIN), name)
        (pytester.path / "tox.ini").unlink()
        pytester.makepyprojecttoml(f"[{section}]\n{MARKER}_{name} = {native}\n")
        config = pytester.parseconfig(*PLAIN)
        found, source = options.values(config, name)[0], options.resolve(config, {}, "").sources
        assert found == wanted
        assert source[name] == f"pyproject.toml: {MARKER}_{name}"
        (pytester.path / "pyproject.toml").unlink()


def test_a_native_value_that_is_wrong_is_told_with_what_is_allowed(pytester):
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{MARKER}_memory = [1, 2]\n")
    with pytest.raises(SettingError, match=r"pyproject.toml: vmports_memory.*write MiB"):
        options.values(pytester.parseconfig(*PLAIN), "memory")


def test_what_o_sets_overrules_the_file(pytester):
    pytester.makeini("[pytest]\nvmports_memory = 300\n")
    assert options.values(pytester.parseconfig(*PLAIN, "-o", "vmports_memory=400"), "memory") == [
        400
    ]


# --- names that are none --------------------------------------------------------------------

MISSPELT = {
    "a variable": ({"VMPORTS_MEMROY": "1"}, "", "VMPORTS_MEMROY = '1'", "VMPORTS_MEMORY?"),
    "a variable in small letters": ({"vmports_memory": "1"}, "", "vmports_memory", "VMPORTS_"),
    "a variable like nothing": ({"VMPORTS_QX": "1"}, "", "VMPORTS_QX", "there are accel, "),
    "a variable like a leased port's": ({"VMPORTS_PORT_WIAT": "9"}, "", "WIAT", "PORT_WAIT?"),
    "a port without a number": ({"VMPORTS_PORT_X": "abc"}, "", "VMPORTS_PORT_X", ""),
    "a line": ({}, "vmports_memroy = 1", "tox.ini: vmports_memroy = '1'", "vmports_memory?"),
    "a line with a dash": ({}, "vmports-memory = 1", "vmports-memory", "vmports_memory?"),
    "a line in capitals": ({}, "VMPORTS_MEMORY = 1", "VMPORTS_MEMORY", "vmports_memory?"),
}  # fmt: skip


@pytest.mark.parametrize("how", [["-p", "no:xdist"], ["-n1"]], ids=["alone", "a worker"])
@pytest.mark.parametrize(("env", "ini", "named", "near"), MISSPELT.values(), ids=MISSPELT)
def test_an_unknown_name_is_an_error_where_ports_are_used(
    pytester, monkeypatch, env, ini, named, near, how
):
    if how == ["-n1"] and ini != "vmports_memroy = 1":
        how = ["-p", "no:xdist"]  # one with a worker is enough
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile(USES)
    done = pytester.runpytest_inprocess(*PLAIN, "-q", *how)
    assert done.ret == USAGE_ERROR
    (line,) = [line for line in done.stderr.lines if line.startswith("ERROR: ")]
    assert named in line
    assert near in line


@pytest.mark.parametrize("table", ["tool.pytest.ini_options.vmports", "tool.pytest.vmports"])
def test_a_table_of_settings_is_an_error_and_not_passed_over(pytester, table):
    if table == "tool.pytest.vmports" and pytest.version_tuple < (9,):
        table = "tool.pytest.ini_options.vmports"  # the other one nobody reads
    pytester.makepyprojecttoml(f"[{table}]\nmemory = 512\n")
    pytester.makepyfile(USES)
    done = pytester.runpytest_inprocess(*PLAIN, "-q")
    assert done.ret == USAGE_ERROR
    (line,) = [line for line in done.stderr.lines if line.startswith("ERROR: ")]
    assert "pyproject.toml: vmports = " in line
    assert "memory" in line


@pytest.mark.parametrize("setting", ["vmports_memroy=300", "vmports_memory=30G0"])
def test_what_the_command_line_says_by_o_is_told_as_such(pytester, setting):
    pytester.makeini("[pytest]\nvmports_cpus = 1\n")
    pytester.makepyfile(USES)
    done = pytester.runpytest_inprocess(*PLAIN, "-q", "-o", setting)
    assert done.ret == USAGE_ERROR
    (line,) = [line for line in done.stderr.lines if line.startswith("ERROR: ")]
    assert line.startswith(f"ERROR: -o: {setting.partition('=')[0]}")


def test_all_unknown_names_are_told_at_once(pytester, monkeypatch):
    monkeypatch.setenv("VMPORTS_CORE", "1")
    pytester.makeini("[pytest]\nvmports_port_ragne = 1\n")
    pytester.makepyfile("def test_it(free_port): pass")
    done = pytester.runpytest_inprocess(*PLAIN)
    assert len([line for line in done.stderr.lines if line.startswith("ERROR: ")]) == 2


def test_a_run_without_vms_minds_no_name(pytester, monkeypatch):
    monkeypatch.setenv("VMPORTS_MEMROY", "1")
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_inprocess(*PLAIN).assert_outcomes(passed=1)


def test_what_the_leases_command_tells_its_command_is_known(monkeypatch):
    for name in [name for name in os.environ if name.startswith("VMPORTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VMPORTS_PORT_8080", "20417")
    monkeypatch.setenv("VMPORTS_PORT_db", "20418")
    for option in OPTIONS:
        monkeypatch.setenv(f"VMPORTS_{option.name.upper()}", "x")
    assert list(misspelt(options.NoConfig())) == []


def test_only_one_place_expands_a_home():
    package = Path(add_options.__code__.co_filename).parents[1]
    users = {
        str(file.relative_to(package))
        for file in package.rglob("*.py") if "expanduser" in file.read_text("utf-8")
    }  # fmt: skip
    assert users == {"system/paths.py"}


def test_docs_and_messages_write_options_with_their_sign():
    root = Path(__file__).parents[2]
    flags = {f"--{MARKER}-{o.name.replace('_', '-')}" for o in OPTIONS if not o.flag}
    texts = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.*")]
    texts += (root / "pytest_vmports").rglob("*.py")
    # A value is one word, then comes a mark; a sentence goes on after an option's mere name.
    wrong = rf"({'|'.join(sorted(flags, key=len, reverse=True))}) ([A-Z]+\b|[a-z0-9.~/-]+`|[~/.])"
    found = [
        (file.name, match[0])
        for file in texts
        if file.suffix in {".md", ".py", ".toml", ".ini"} and file.exists()
        for match in re.finditer(wrong, file.read_text("utf-8"))
    ]
    assert found == []

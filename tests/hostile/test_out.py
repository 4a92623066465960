"""What a guest says is obeyed by no terminal and no CI, by whichever way it comes out."""

from __future__ import annotations

import contextlib
import html
import json
import random
import re
import string
import subprocess
import sys
import textwrap
import warnings
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from heeded import HOSTILE, heeded
from runs import case, run, vm

from pytest_vmports import errors
from pytest_vmports.cli import doctor, main, tables
from pytest_vmports.cli import run as cli_run
from pytest_vmports.cli.console_text import ConsoleText
from pytest_vmports.errors import base, shown
from pytest_vmports.leases import open_allocator
from pytest_vmports.models import ExposedPort
from pytest_vmports.network import gvproxy_api, usernet
from pytest_vmports.pool import kept
from pytest_vmports.report import as_json, evidence
from pytest_vmports.report.artifacts import folder_name
from pytest_vmports.report.console_stream import ConsoleStream
from pytest_vmports.report.timeline import timeline_of
from pytest_vmports.system.mishaps import noting, plain
from pytest_vmports.system.proc import process_start
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.inside import copying
from pytest_vmports.vm.milestones import State

ALL = [words for words, _ in HOSTILE.values()]
# As lines of its own, and within one.
EVERYTHING = "\n".join([*ALL, *(f"a word and {words}" for words in ALL)])


def kinds(kind=errors.VmPortsError):
    return [kind, *(one for sub in kind.__subclasses__() for one in kinds(sub))]


def facts_of(kind, value):
    """Return all that a message is made from; what is written as a number is one."""
    parts = [part[1:3] for part in string.Formatter().parse(kind.template) if part[1]]
    return {name: 1 if form else value for name, form in parts}


def warned():
    found = [getattr(errors, name) for name in dir(errors) if name.endswith("Warning")]
    assert len(found) >= 6
    return found


def test_the_hostile_words_are_obeyed_as_they_are():
    assert [name for name, (words, _) in HOSTILE.items() if not heeded(words, groups=True)] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_words_are_broken_so_that_they_can_still_be_read_and_found(name):
    words, kept_of_it = HOSTILE[name]
    once = shown.printable(words)
    assert heeded(once) == [] and kept_of_it in once
    assert shown.printable(once) == once
    assert heeded(shown.quoted(words), groups=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "::1 localhost", "[::1]:8080 -> 80/tcp", "std::vector<int>::begin", "## Heading [1]",
        "a\tb\n", "café – 日本 ❤\ufe0f", "tests/test_a.py::test_b[1::2]", "--- a/file",
        "<Dartmoor>", "my_section_starts", "[[ATTACHMENTS]]", "<LAVA>", "e\u0301\u0323",
    ],
)  # fmt: skip
def test_words_that_nobody_obeys_stay(text):
    assert shown.printable(text) == text


# Parts of what is obeyed, of colours and of what is not to be seen.
PARTS = [
    *"#[]:a \t\n\r\x1bm80;\x07\x9bé<\u200b\u034f\ufe0f\udcff\u2028\x08Jn|",
    "##", "vso", "task.x", "::", "\x1b[", "31", "38;5;", "\x1b]", "--- ", "+++",
    "section_start:1:x", "\x1b[0K", "<CTest", "Measurement", "add-mask", "[[ATTACHMENT", "|a]]",
    "<LAVA_SIGNAL", "_TESTCASE", "\u0301\u0301\u0335",
    "\x1b[31m", "\x1b[0m", "\x1b[8m", "\x1b[?", "\x1b[>", "\x1b(",
]  # fmt: skip


def test_no_mixture_is_obeyed_and_no_look_at_it_changes_it_again():
    draw = random.Random(14)  # the same each time
    for _ in range(1500):
        text = "".join(draw.choices(PARTS, k=draw.randrange(1, 25)))
        once = shown.printable(text)
        assert heeded(once) == [] and shown.printable(once) == once, text
        assert heeded(shown.quoted(text), groups=True) == [], text
        in_colours = re.sub(r"\x1b\[[0-9;:]*m", "", shown.coloured(text))
        assert heeded(in_colours) == [], text
        fed = [in_pieces(text, size, colours=False) for size in (1, 2, 99)]
        assert heeded(fed[0], groups=True) == [] and fed == fed[:1] * 3, text


def in_pieces(text, size, *, colours):
    console = ConsoleText(colours=colours)
    fed = [console.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(fed) + console.end()


@pytest.mark.parametrize("width", range(20, 80, 7))
def test_a_reason_is_not_obeyed_wherever_pytest_wraps_it(width):
    for words in ALL:
        once = shown.wrappable(f"{'x' * 9} and {words}" * 3)
        wrapped = textwrap.wrap(once, width, replace_whitespace=False)  # as pytest's terminal.py
        assert heeded("\n".join(wrapped)) == [] and shown.wrappable(once) == once


@pytest.mark.parametrize("part", ["::a", " :", "##", "#[", "<CTest", "[[", "section_", "a::\n"])
def test_no_pattern_goes_over_a_guests_line_again_and_again(part):
    """One that does needs longer than a test may take."""
    text = part * (900_000 // len(part))
    for show in (shown.printable, shown.coloured, shown.quoted, shown.wrappable):
        assert len(show(text)) >= len(text)
    assert len(in_pieces(text, 50_000, colours=True)) > len(text)


def test_each_line_of_a_guests_begins_with_a_sign():
    assert shown.quoted("a\n\n  b") == "| a\n|\n|   b"


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_no_error_has_a_message_that_is_obeyed(kind):
    fields = facts_of(kind, EVERYTHING)
    error = kind(EVERYTHING) if set(fields) == {"message"} else kind(**fields)
    assert heeded(str(error)) == [] and len(str(error)) > len(EVERYTHING)
    # What a test asks it for is what was said.
    assert {error.fields[name] for name in fields} <= {1, EVERYTHING}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_no_line_of_an_errors_begins_with_a_guests_word(kind):
    fields = facts_of(kind, "ours")
    for heard in fields.keys() & set(base._HEARD):
        error = kind(**{**fields, heard: "first\n--- second\nlast"})
        lines = str(error).splitlines()
        assert "| --- second" in lines and "| last" in "\n".join(lines)
        alone = re.search(rf"(?:^|\n){{{heard}}}", kind.template) is not None
        assert ("| first" in lines) == alone


class Lying:
    """A monitor, or gvproxy, whose answer has lines of its own."""

    def hmp(self, _command):
        return LINES

    def _call(self, *_):
        return 500, LINES


PORT = ExposedPort(internal=80, external=20080, protocol="tcp", host="127.0.0.1")
LINES = "no\n--- a group\n[pytest-vmports explain nothing]"


@pytest.mark.parametrize(
    "tell",
    [
        lambda: copying._failed("/a from the guest", LINES),
        lambda: usernet.UsernetWiring.remove_forward(SimpleNamespace(), PORT, None, Lying()),
        lambda: gvproxy_api.Api.forwards(Lying()),
        lambda: gvproxy_api.Api.unexpose(Lying(), "127.0.0.1:1", "tcp"),
    ],
)
def test_no_line_of_a_message_of_ours_begins_with_what_it_repeats(tell):
    try:
        error = tell()
    except errors.MachineError as raised:
        error = raised
    first, *more, last = str(error).splitlines()
    assert first.endswith(" no") and "explain" in last
    assert more[:1] == ["| --- a group"] and more[1].startswith("| [pytest-vmports")


def test_no_warning_is_obeyed():
    for kind in warned():
        with pytest.warns(kind) as caught:
            warnings.warn(EVERYTHING, kind, stacklevel=1)
        assert heeded(str(caught[0].message)) == []


def test_no_mishap_and_nothing_that_rides_on_a_report_is_obeyed():
    lines = []
    with noting("evidence failed: all of it", lines.append):
        raise ValueError(EVERYTHING)
    assert heeded(lines[0]) == [] and "\n" not in lines[0]
    ridden = plain({EVERYTHING: [EVERYTHING, (EVERYTHING,), {"a": EVERYTHING}]})
    ((key, (one, (two,), three)),) = ridden.items()
    assert [heeded(text) for text in (key, one, two, three["a"])] == [[]] * 4


class TestSections:
    @pytest.fixture
    def machine(self, tmp_path):
        console = Console(tmp_path / "console.log")
        panic = f"[    1.000000] Kernel panic - not syncing: {EVERYTHING}"
        console.path.write_text(f"{EVERYTHING}\n{panic}\n", errors="surrogatepass")
        program = SimpleNamespace(name="QEMU", output=EVERYTHING, running=False)
        return SimpleNamespace(
            console=console, processes=lambda: [program], how_ended=lambda _: "exit status 0",
            vitals=SimpleNamespace(panic=console.panic()),
        )  # fmt: skip

    def test_the_console_the_kernels_words_and_a_programs_are_quoted(self, machine):
        (program,) = machine.processes()
        sections = [
            evidence._console(machine, 1000, empty=True),
            evidence._crash(machine)[1],
            evidence._output(machine, program, 1000, empty=True)[1],
        ]
        for text in sections:
            assert text and heeded(text, groups=True) == []
            assert all(line.startswith("|") for line in text.split("\n"))

    def test_a_console_that_is_shown_as_it_comes_is_quoted(self, machine):
        lines = []
        stream = ConsoleStream(lambda line: lines.append(shown.printable(line)))
        machine.state = State.READY
        machine.plan = SimpleNamespace(guest=SimpleNamespace(name="alpine"))
        stream.follow(machine)
        stream.close()
        text = "\n".join(lines)
        assert text and heeded(text, groups=True) == []
        assert all(line.startswith("alpine|") for line in text.split("\n"))


class TestRun:
    @pytest.mark.parametrize("colours", [True, False])
    def test_no_piece_of_a_console_is_obeyed_wherever_it_is_torn(self, colours):
        text = EVERYTHING
        whole = in_pieces(text, len(text), colours=colours)
        assert heeded(whole, colours=colours, groups=True) == []
        assert all(line[:1] in {"|", "", "\x1b"} for line in whole.split("\n"))
        for size in (1, 2, 3, 5, 7):
            assert in_pieces(text, size, colours=colours) == whole

    def test_colours_stay_on_a_terminal_and_end_with_the_console(self):
        text = "\x1b[0;1;31mred\x1b[38;5;8m\x1b[48;2;8;8;8m\x1b[38:2::8:8:8;1mgrey"
        assert in_pieces(text, 1, colours=True) == f"\x1b[0;1;31m| {text[9:]}\n\x1b[0m"
        assert in_pieces(text, 1, colours=False) == "| redgrey\n"

    @pytest.mark.parametrize("text", ["#\x1b[31m#vso[a.b]", "\x1b[1m::add\x1b[0m-mask::a"])
    def test_colours_within_a_word_make_none_that_is_obeyed_without_them(self, text):
        for shown_text in (shown.coloured(text), in_pieces(text, 1, colours=False)):
            assert heeded(re.sub(r"\x1b\[\d+m", "", shown_text)) == []

    @pytest.mark.parametrize("hidden", [
        "\x1b[8m", "\x1b[0;08m", "\x1b[1;8;31m", "\x1b[58;5;1;8m", "\x1b[38;2;1;2;3;8m",
        "\x1b[48;2;1;2;3;4;8m", "\x1b[38:5;8m", "\x1b[38;5:8m", "\x1b[58;5;8m", "\x1b[138;5;8m",
        "\x1b[4:38;5;8m", "\x1b[38;2:1:2:3;8m", "\x1b[38;2;1;2;3;;8m",
    ])  # fmt: skip
    def test_what_hides_text_is_no_colour(self, hidden):
        for size in (1, 99):
            assert hidden not in in_pieces(f"a{hidden}b", size, colours=True)
        assert hidden not in shown.coloured(f"a{hidden}b")

    def test_a_boot_is_read_as_before(self):
        text = "\x1bc\x1b[?7l\x1b[2J\x1b[01;01H\x1b[=3hSeaBIOS\r\n\r\n"
        text += "[\x1b[32m OK \x1b[0m] it\r\r\nlogin: "
        assert in_pieces(text, 4, colours=False) == "| SeaBIOS\n|\n| [ OK ] it\n| login: \n"

    def test_what_begins_a_sequence_and_never_ends_holds_nothing_back(self):
        console = ConsoleText(colours=True)
        assert console.feed("\x1b[" + "1" * 10_000) != ""
        assert console.feed("words") == "words"


class Ended(list):
    """A VM without ports that has ended."""

    def __init__(self, console):
        super().__init__()
        self.console, self.pids = console.text(), {"QEMU": 1}
        self.origin, self.wiring = "booted", "none"
        self._machine = SimpleNamespace(console=console)


@pytest.mark.parametrize("raw", [True, False])
def test_a_console_is_shown_as_it_is_only_when_that_is_asked_for(
    raw, tmp_path, monkeypatch, capsys
):
    console = Console(tmp_path / "console.log")
    console.path.write_text("\x1b]0;owned\x07 ##vso[a.b]\n")
    monkeypatch.setattr(cli_run, "started", lambda _: contextlib.nullcontext(Ended(console)))
    monkeypatch.setattr(cli_run, "runs", lambda _pid: False)
    assert main.main(["run", *["--raw"] * raw]) == 0
    shown_text = capsys.readouterr().out
    assert ("\x1b]0;owned\x07 ##vso[a.b]\n" in shown_text) == raw
    assert ("| \\x1b]0;owned\\x07 #\\#vso[a.b]\n" in shown_text) == (not raw)


def test_a_list_of_kept_vms_and_of_ports_is_not_obeyed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kept, "base", lambda: tmp_path)
    monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path / "state"))
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        about = {
            "test": EVERYTHING, "guest": EVERYTHING, "forwards": [EVERYTHING], "since": 1,
            "ways": {EVERYTHING: EVERYTHING},
            "processes": [[EVERYTHING, sleeper.pid, process_start(sleeper.pid)]],
        }  # fmt: skip
        folder = tmp_path / "k\x1b]0;one\x07 ##vso[a.b]"
        folder.mkdir()
        (folder / "kept.json").write_text(json.dumps(about))
        (tmp_path / "\x1b]0;owned\x07").write_text("a stray")
        assert main.main(["kept"]) == 0
        assert main.main(["kept", "stop", "other"]) == 2
        assert main.main(["kept", "stop", folder.name]) == 0
    with open_allocator() as allocator, allocator.acquire(1, label="a\x1b]0;t\x07 ##vso[a.b]")[0]:
        assert main.main(["ports"]) == 0
    tables.write([(EVERYTHING, EVERYTHING)])
    out, err = capsys.readouterr()
    assert "owned" in out and "owned" in err and "vso[a.b]" in out
    assert heeded(out) == [] and heeded(err) == []


def test_what_doctor_tells_programs_is_not_obeyed_and_read_as_it_was(capsys):
    error = errors.MachineDiedError(
        program="QEMU", returncode="0", stderr=EVERYTHING, console=EVERYTHING
    )
    found = [doctor.Finding("boot", 2, str(error))]
    doctor.show(found, as_json=True)
    text = capsys.readouterr().out
    assert heeded(text) == [] and json.loads(text)["findings"][0]["text"] == str(error)


@pytest.mark.parametrize(
    "test",
    ["../../etc/passwd", "..", ".", "a/../../b", "/etc/passwd", "a\0b", "\x1b]0;t\x07", "", "-rf"],
)
def test_no_test_puts_its_artifacts_elsewhere(test, tmp_path):
    name = folder_name(test)
    assert name and set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert not name.startswith(("-", "."))


@pytest.mark.parametrize(
    "words",
    ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "</title></svg><script>",
     "<![CDATA[<script>]]>", "<!--", "&lt;script&gt;", *ALL],
)  # fmt: skip
def test_no_page_of_a_run_is_a_program(words):
    def said(text, ending):
        port = {"host": text, "host_port": 1, "guest_port": 1, "protocol": text}
        own = case(text, text, outcome=text, host=text)
        one = vm(text, text, host=text, guest=text, wiring=text, origin=text, ports=[port])
        made = run([own], [one])
        return as_json.json_of(as_json.document(made)) if not ending else timeline_of(made, ending)

    def tree(text):
        """Return tags and attributes as a strict reader, and one of HTML, has them."""
        page = Tags(said(text, ".html"))
        root = ET.fromstring(said(text, ".svg"))
        # Of a name with colons the page has two parts.
        return [one for one in page.found if one[0] != "b"], [
            (one.tag, sorted(one.attrib)) for one in root.iter()
        ]

    assert tree(words) == tree("a")
    page = said(words, ".html")
    assert "<script" not in page.lower() and html.escape("<b>") not in said("a", ".html")
    page.encode()  # lone surrogates have no bytes
    for ending in ("", ".json"):
        text = said(words, ending)
        assert heeded(text) == [] and not re.search("[<>&]|[^ -~\n]", text)
    assert json.loads(said(words, ""))["tests"][0]["test"] == words


class Tags(HTMLParser):
    """Collects tags of a page with their attributes' names."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, sorted(name for name, _ in attrs)))

    def handle_comment(self, data):
        self.found.append(("comment", []))


SUITE = """
import json
import warnings

import pytest

from pytest_vmports import errors
from pytest_vmports.plugin import session_of
from pytest_vmports.report.recorder import evidence_of

with open("words.json") as file:
    WORDS = json.load(file)

@pytest.fixture(autouse=True)
def had_a_vm(request):
    session_of(request.config)
    evidence_of(request.node)

class Value:
    def __repr__(self):
        return WORDS

def test_value():
    said = WORDS
    assert said == "quiet"

def test_object():
    said = Value()
    assert said is None

def test_error():
    raise errors.MachineDiedError(program="QEMU", returncode=0, stderr=WORDS, console=WORDS)

def test_cause():
    try:
        raise ValueError(WORDS)
    except ValueError as error:
        raise RuntimeError(WORDS) from error

def test_printed():
    print(WORDS)
    assert False

def test_passes(capsys):
    print(WORDS)

def test_failed():
    pytest.fail(WORDS)

def test_skipped():
    pytest.skip(WORDS)

@pytest.mark.xfail(reason="expected")
def test_xfailed():
    pytest.xfail(WORDS)

def test_warned():
    warnings.warn(WORDS, errors.GuestKernelWarning)
    warnings.warn(WORDS)

def test_told(request):
    terminal = session_of(request.config).terminal
    terminal(f"vmports: as far as {WORDS}")
    session_of(request.config).recorder.note(f"artifact failed: {WORDS}")

@pytest.fixture
def broken():
    yield
    raise errors.MachineError(WORDS)

def test_teardown(broken):
    pass
"""


@pytest.mark.parametrize(
    "options",
    [
        ["-rA", "-l", "-vv"], ["-rA", "-vv", "--color=yes"], ["-rA", "--tb=native"],
        ["-rA", "-n1", "--tb=short"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_report_of_a_test_that_had_a_vm_is_not_obeyed(pytester, options):
    pytester.makepyfile(SUITE)
    words = EVERYTHING.replace("\udcff", "")  # which cannot be printed at all
    (pytester.path / "words.json").write_text(json.dumps(words))
    command = [sys.executable, "-m", "pytest", "--color=no", "--junitxml=j.xml", *options]
    result = pytester.run(*command)
    result.assert_outcomes(failed=6, passed=4, skipped=1, xfailed=1, errors=1, warnings=2)
    text = result.stdout.str() + result.stderr.str()
    found = heeded(text, colours=True)
    assert not found, ascii(found[:5])
    if "-rA" in options:
        assert text.count("variable=PATH]/tmp") > 10
    assert told_by_junit(pytester) == []


def told_by_junit(pytester):
    """Return what is heeded in JUnit's XML, which is well-formed."""
    page = list(ET.parse(pytester.path / "j.xml").getroot().iter())
    told = [text for one in page for text in (one.text or "", *one.attrib.values())]
    # As pytest writes what XML cannot hold; of a colour it is no harm.
    return heeded("\n".join(told))


PARTS_OF_TESTS = """
import contextlib
import json
import unittest
from types import SimpleNamespace

import pytest

from pytest_vmports.plugin import session_of
from pytest_vmports.report.recorder import evidence_of

with open("words.json") as file:
    WORDS = json.load(file)

if pytest.version_tuple < (9,):
    @pytest.fixture
    def subtests():
        return SimpleNamespace(test=lambda *_, **__: contextlib.nullcontext())

@pytest.fixture(autouse=True)
def had_a_vm(request):
    session_of(request.config)
    evidence_of(request.node)

def test_parts(subtests):
    with subtests.test(msg=WORDS, name=WORDS):
        print(WORDS)
        assert False

class TestOldParts(unittest.TestCase):
    def test_it(self):
        with self.subTest(WORDS, name=WORDS):
            self.fail(WORDS)
"""


@pytest.mark.parametrize("options", [["-v"], ["-n1"]], ids=" ".join)
def test_a_part_of_a_test_its_name_and_what_it_prints_are_not_obeyed(pytester, options):
    pytester.makepyfile(PARTS_OF_TESTS)
    (pytester.path / "words.json").write_text(json.dumps(EVERYTHING.replace("\udcff", "")))
    command = [sys.executable, "-m", "pytest", "--color=no", "--junitxml=j.xml", *options]
    result = pytester.run(*command)
    text = result.stdout.str() + result.stderr.str()
    assert result.parseoutcomes()["failed"] >= 2
    found = heeded(text, colours=True)
    assert not found, ascii(found[:5])
    assert text.count("variable=PATH]/tmp") >= 4 and told_by_junit(pytester) == []


SHARED = """
from types import SimpleNamespace

import pytest

from pytest_vmports.plugin import session_of

@pytest.fixture(scope="session")
def shared(request):
    session_of(request.config).recorder.made.append(SimpleNamespace(running=True))

def test_it(request):
    request.getfixturevalue("shared")  # which no list of a test's fixtures names
    print("#" + "#vso[task.x]")
    assert False

def test_a_later_one(request):
    request.getfixturevalue("shared")
    print("#" + "#vso[task.x]")
    assert False
"""


def test_a_test_that_asks_late_for_a_vm_of_several_is_not_obeyed(pytester):
    pytester.makepyfile(SHARED)
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:randomly")
    text = result.stdout.str()
    assert heeded(text) == [] and text.count("#\\#vso[task.x]") == 2


def test_differences_keep_their_colours_where_pytest_draws_some(pytester):
    pytester.makepyfile(SUITE.partition("def test_object")[0])
    (pytester.path / "words.json").write_text(json.dumps("loud\nand clear"))
    result = pytester.run(sys.executable, "-m", "pytest", "-vv", "--color=yes")
    text = result.stdout.str()
    assert r"\x1b" not in text and re.search(r"\x1b\[91m- ?quiet", text)


def test_a_test_that_had_no_vm_is_reported_as_ever(pytester):
    pytester.makepyfile(
        textwrap.dedent("""
            def test_it(free_port):
                print("#" + "#vso[task.x]")
                assert False
        """)
    )
    result = pytester.run(sys.executable, "-m", "pytest")
    result.stdout.fnmatch_lines(["##vso[[]task.x]"])

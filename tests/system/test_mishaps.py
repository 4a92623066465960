"""What goes wrong beside a test is told, and changes nothing else."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import pickle
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import MachineError
from pytest_vmports.report import artifacts, by_hand, evidence, sections, summary
from pytest_vmports.report.console_stream import ConsoleStream
from pytest_vmports.system.mishaps import noting, plain, printable
from pytest_vmports.system.progress import slowly
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.files import Files
from pytest_vmports.vm.machine import Machine, State


def noted(error):
    lines = []
    with noting("artifact failed: qemu.sh", lines.append):
        raise error
    (line,) = lines
    return line


class MuteError(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left", "f"), "OSError: [Errno 28] No space left: 'f'"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"), "UnicodeEncodeError: 'utf-8' codec"),
        (AssertionError(), "AssertionError"),
        (MachineError("it is\ngone"), "MachineError: it is gone"),
        (pickle.PicklingError("a lock"), "PicklingError: a lock"),
        (RuntimeError("\udcff\0\x1b[1m"), r"RuntimeError: \udcff\x00\x1b[1m"),
        (MemoryError(), "MemoryError"),
        (MuteError(), "MuteError: <exception str() failed>"),
        (pytest.fail.Exception("Timeout >1s"), "Timeout >1s"),
        (pytest.skip.Exception("no"), "Skipped: no"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mishap_is_one_line_that_says_what_which_exception_and_where(error, said):
    line = noted(error)
    assert line.startswith("artifact failed: qemu.sh: ") and said in line
    number = inspect.getsourcelines(noted)[1] + 3
    assert line.endswith(f"(at {__file__}:{number})")
    assert line.isprintable()


def test_a_long_message_is_cut():
    assert len(noted(ValueError("x" * 10_000))) < 1000


def test_where_it_was_raised_is_told_with_our_own_line_that_led_there(tmp_path):
    lines = []
    with noting("a", lines.append):
        artifacts._put(tmp_path / "none" / "file", "text")
    assert "pathlib" in lines[0] and f"from {artifacts.__file__}:" in lines[0]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), pytest.exit.Exception("enough")]
)
def test_what_ends_the_run_passes(error):
    with pytest.raises(type(error)):
        noted(error)


def test_what_xdist_carries_is_plain_and_has_an_encoding():
    class Text(str):
        __slots__ = ()

    value = plain({Text("a\udcff"): (1, 2.5, None, True, Path("/x\0"), [Text("é\n")])})
    assert value == {r"a\udcff": [1, 2.5, None, True, r"/x\x00", ["é\n"]]}
    assert type(value[r"a\udcff"][-1][0]) is str
    assert printable("a\tb\nc\r\x9b") == "a\tb\nc\\r\\x9b"


# Everything that a report is gathered with: what cannot raise here need not be held either. Not
# among them are the boundary itself, and what puts its lines onto a report.
GATHERERS = [evidence, artifacts, by_hand]
MORE = {
    artifacts: ["script", "screenshot"],  # under the names by which they are called
    sections: [
        "known", "evidence_of", "_add_sections", "_artifacts", "_add_facts", "forget", "_add_kept",
    ],
    summary: ["facts_of"],
    Console: ["pieces", "tail"],
    Files: ["copy"],
    Machine: ["processes"],
}  # fmt: skip
# Without these the test below would prove nothing; others may need a VM that runs.
REACHED = {
    "evidence._asked", "evidence._time_line", "evidence._parts", "Evidence.shown",
    "Evidence.sections", "artifacts.write", "artifacts.folder_name", "artifacts._by_hand",
    "artifacts._facts", "artifacts.script", "sections.known", "sections.evidence_of",
    "sections._add_sections", "sections._artifacts", "sections._add_facts", "sections.forget",
    "summary.facts_of",
    "Console.pieces", "Console.tail", "Files.copy", "Machine.processes",
}  # fmt: skip

LATE = {"sections.forget", "summary.facts_of"}


def gatherers():
    """Yield owner and name of every function that takes part in gathering a report."""
    for module in GATHERERS:
        for name, one in vars(module).items():
            if getattr(one, "__module__", "") != module.__name__:
                continue
            if inspect.isfunction(one):
                yield module, name
            elif inspect.isclass(one):
                inner = [name for name, f in vars(one).items() if inspect.isfunction(f)]
                yield from ((one, name) for name in inner if not name.startswith("__"))
    for owner, names in MORE.items():
        yield from ((owner, name) for name in names)


def label(owner, name):
    return f"{owner.__name__.rpartition('.')[2]}.{name}"


ERRORS = {
    "full disk": lambda said: OSError(errno.ENOSPC, said),
    "no encoding": lambda said: UnicodeEncodeError("utf-8", "\udcff", 0, 1, said),
    "assertion": AssertionError,
    "ours": MachineError,
    "pickle": pickle.PicklingError,
    "odd": lambda said: RuntimeError(f"\udcff\0{said}"),
    "a timeout's": pytest.fail.Exception,
}

FAKES = """
import functools
import pytest
import test_mishaps as outer
from pytest_vmports.settings import options
from pytest_vmports.plugin import session_of

active = None, None

def faked(label, real):
    @functools.wraps(real)
    def fake(*args, **keywords):
        if label != active[0]:
            return real(*args, **keywords)
        with open("called", "a") as file:
            file.write(label + "\\n")
        raise outer.ERRORS[active[1]]("fake " + label)
    return fake

def pytest_configure():
    for owner, name in outer.gatherers():
        setattr(owner, name, faked(outer.label(owner, name), getattr(owner, name)))

from vm_helpers import unstarted

@pytest.fixture
def fails(vm_factory, vmports_pool, request):
    '''Return a function that has the report of the test's VM, not started, fail at a place.'''
    global active
    active = None, None
    settings = options.resolve(request.config, {"expose": "8080", "host_ports": "80:9"}, "a test")
    exposed = vmports_pool.lease(settings.expose, settings)
    machine = unstarted(vmports_pool, settings, exposed)
    exposed.release()

    def fails(*place):
        global active
        session_of(request.config).recorder.observe(machine)
        active = place
    return fails
"""
SUITE = """
import pytest
import test_mishaps as outer

LABELS = [outer.label(*gatherer) for gatherer in outer.gatherers()]
KINDS = list(outer.ERRORS)
CASES = [(label, KINDS[number % len(KINDS)]) for number, label in enumerate(LABELS)]
CASES += [("evidence._asked", kind) for kind in KINDS] + [("none", "assertion")]

@pytest.mark.parametrize(("label", "kind"), CASES)
def test_fails(fails, label, kind):
    fails(label, kind)
    assert label == "its own result"
"""


@pytest.fixture
def faked(pytester, monkeypatch, qemu_binary):
    """Return a function that runs a suite in which the fakes of `FAKES` are to be had."""
    for folder in Path(__file__).parents[1::-1]:  # of the helpers, and this file's before that
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    pytester.makeconftest(FAKES)

    def run(suite, *words):
        pytester.makepyfile(test_it=suite)
        return pytester.runpytest_subprocess(
            "-p", "no:randomly", "-v", "--junitxml=junit.xml", *words
        )

    return run


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_test_keeps_its_own_result_whatever_fails_while_its_report_is_made(
    faked, pytester, workers
):
    result = faked(SUITE, workers, "--vmports-report")
    cases = list(ET.parse(pytester.path / "junit.xml").iter("testcase"))
    labels = [label(*gatherer) for gatherer in gatherers()]
    assert len(cases) == len(labels) + len(ERRORS) + 1
    result.assert_outcomes(failed=len(cases))
    called = set((pytester.path / "called").read_text().split())
    assert called >= REACHED
    stdout = result.stdout.str()
    for case in cases:
        (failure,) = case.findall("failure")
        assert "its own result" in failure.text
        (which,) = [
            one for one in [*labels, "none"] if case.get("name").startswith(f"test_fails[{one}-")
        ]
        if which == "none":
            assert " failed: " not in failure.text and "VM: artifacts" in failure.text
            continue
        if which in called:
            # What fails after the report of the call is told at the run's end.
            told = stdout if which in LATE else failure.text
            assert re.search(rf"(evidence|artifact) failed: .*fake {which} .*\(at ", told), which
    # One failing piece costs no other.
    (asked, *_) = [
        one.find("failure").text for one in cases if "evidence._asked" in one.get("name")
    ]
    for title in ("time line", "artifacts"):
        assert f"VM: {title} -" in asked
    assert "VM: evidence failed -" in asked


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("settings", ["network='left'", "host_ports={80: 45999}"])
def test_a_failing_test_with_a_second_card_ends_no_session(
    pytester, qemu_binary, settings, workers
):
    """No network that its script could take over, and the second one is gone with the VM."""
    pytester.makepyfile(
        f"""
        def test_x(vm_factory):
            with vm_factory(ports=[], kernel="kernel", {settings}):
                pass

        def test_y():
            pass
        """
    )
    (pytester.path / "kernel").write_bytes(b"\0no kernel" * 1000)
    result = pytester.runpytest_subprocess("-p", "no:randomly", workers, "--vmports-artifacts=kept")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*invalid kernel header*"])
    result.stdout.no_fnmatch_line("* failed: *")
    (script,) = (pytester.path / "kept").glob("*/qemu.sh")
    assert "-nic none" in script.read_text()


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("pytest.exit('enough', 7)", 7, "*Exit: enough*"),
        ("(_ for _ in ()).throw(KeyboardInterrupt)", pytest.ExitCode.INTERRUPTED, "*Interrupt*"),
    ],
)
def test_what_ends_the_run_ends_it_while_a_report_is_made_too(faked, raised, code, said):
    suite = f"""
import pytest
from pytest_vmports.report import evidence

def test_one(fails, monkeypatch):
    fails("none", None)
    evidence._asked = lambda *_: {raised}
    assert 0

def test_never(): pass
"""
    result = faked(suite, "-n0")
    assert result.ret == code
    result.stdout.fnmatch_lines([said])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


CLOSING = """
import pytest
from pytest_vmports.report import closing
from pytest_vmports.report import header

def fake(name):
    def raises(*args, **keywords):
        raise OSError("fake " + name)
    return raises

for module, names in {
    closing: ["_write_mishaps", "_write_kept", "_write_summary", "_write_timeline",
              "_write_report"],
    header: ["_there"],
}.items():
    for name in names:
        setattr(module, name, fake(name))
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_header_and_end_of_a_run_say_what_they_cannot_tell(pytester, workers):
    pytester.makeconftest(CLOSING)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(
        workers, "--vmports-report=a.json", "--vmports-timeline=a.svg"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "vmports: header failed: OSError: fake _there (at *",
            "vmports: mishaps cannot be told: OSError: fake _write_mishaps (at *",
            "vmports: the VMs that were kept cannot be told: OSError: fake _write_kept (at *",
            "vmports: the table of VMs cannot be made: OSError: fake _write_summary (at *",
            "vmports: the report cannot be written to *a.json: OSError: fake _write_report (at *",
            "vmports: the timeline cannot be written to *a.svg: OSError: fake _write_timeline (at*",
        ]
    )


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_timeline_that_cannot_be_written_is_told_and_the_rest_is_there(pytester, workers):
    pytester.makepyfile("def test_it(): pass")
    (pytester.path / "file").touch()
    result = pytester.runpytest_subprocess(
        workers, "--vmports-report", "--vmports-timeline=file/a.html"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["VMs ready *", "vmports: the timeline cannot be written to *: *Error: *file*(at *"]
    )


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_went_wrong_beside_a_test_that_passed_is_told_at_the_end_without_being_asked(
    pytester, workers
):
    pytester.makepyfile(
        """
        from pytest_vmports.plugin import session_of

        def test_passes(request):
            session_of(request.config).recorder.note("it went wrong")
        """
    )
    result = pytester.runpytest_subprocess(workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["vmports: *::test_passes: it went wrong"])


def test_a_terminal_that_a_test_closed_costs_no_test(pytester):
    pytester.makepyfile(
        """
        import io, sys, threading
        from pytest_vmports.plugin import session_of

        def test_closes_it(request, monkeypatch):
            monkeypatch.setattr(sys, "stderr", closed := io.StringIO())
            closed.close()
            terminal = session_of(request.config).terminal
            terminal("a line")
            assert terminal.redraw("another") is False
            thread = threading.Thread(target=terminal, args=["of a thread"])
            thread.start()
            thread.join()

        def test_next(request):
            session_of(request.config).terminal("it is back")
        """
    )
    # Not captured, for pytest's own capture puts another stream in the place of the closed one.
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-s", "-n0", "-W", "error")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["vmports: *test_closes_it: terminal failed: a line of vmports: ValueError: *closed*(at *"]
    )
    result.stderr.fnmatch_lines(["it is back"])


def test_a_console_that_cannot_be_read_costs_no_other(tmp_path):
    lines = []
    (tmp_path / "good").write_text("one\n")
    (tmp_path / "bad").mkdir()  # a folder cannot be opened as a file
    with contextlib.closing(ConsoleStream(lines.append)) as stream:
        for name in ("bad", "good"):
            console = Console(tmp_path / name)
            plan = SimpleNamespace(guest=SimpleNamespace(name=name))
            stream.follow(SimpleNamespace(console=console, state=State.READY, plan=plan))
    assert "good| one" in lines
    (told,) = [line for line in lines if line != "good| one"]
    assert told.startswith("vmports: the console of bad is shown no more: IsADirectoryError: ")


def test_a_detail_of_progress_that_fails_costs_no_line():
    import threading

    told, enough = [], threading.Event()

    def tell(line):
        told.append(line)
        if len(told) == 4:
            enough.set()

    def detail():
        raise OSError("gone")

    with slowly(tell, "booting", detail, first=0.01, again=0.01):
        assert enough.wait(30)
    assert told[0].startswith("vmports: how far booting is: OSError: gone (at ")
    assert told[1] == "vmports: booting, 0 s so far"

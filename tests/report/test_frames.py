"""Every place where the user's code can call ours: no frame of ours is shown of any."""

from __future__ import annotations

import re
import sys
import textwrap
import xml.etree.ElementTree as ET

import pytest

from pytest_vmports.report.traceback_text import pruned

FRAME = re.compile(r"pytest_vmports/|guests[/.]guest")
CALL = "Guest.disk('nowhere')"
SAID = "nowhere does not exist"
PLACES = """
import asyncio, builtins, contextlib, threading, unittest
import pytest
from pytest_vmports import Guest, VmPortsError

def boom(*_, **__):
    Guest.disk('nowhere')

def fixture(scope, ends):
    @pytest.fixture(scope=scope)
    def it(request):
        if ends == "finalizer":
            request.addfinalizer(boom)
        elif ends != "teardown":
            boom()
        yield
        boom()
    return it

for scope in ("function", "class", "module", "package", "session"):
    for ends in ("setup", "teardown", "finalizer"):
        globals()[f"{scope}_{ends}"] = fixture(scope, ends)

def test_call(): boom()
def test_function_setup(function_setup): pass
def test_function_teardown(function_teardown): pass
def test_function_finalizer(function_finalizer): pass
def test_class_setup(class_setup): pass
def test_class_teardown(class_teardown): pass
def test_class_finalizer(class_finalizer): pass
def test_module_setup(module_setup): pass
def test_module_setup_again(module_setup): pass
def test_session_setup(session_setup): pass
def test_package_setup(package_setup): pass
def test_lazy(request): request.getfixturevalue("function_setup")

class TestSetupMethod:
    def setup_method(self): boom()
    def test_it(self): pass
class TestTeardownMethod:
    def teardown_method(self): boom()
    def test_it(self): pass
class TestSetupClass:
    @classmethod
    def setup_class(cls): boom()
    def test_it(self): pass

class TestCase(unittest.TestCase):
    def test_it(self): boom()
    def test_cleanup(self): self.addCleanup(boom)
    def test_context(self):
        with self.assertRaises(ValueError): boom()
class TestCaseSetUp(unittest.TestCase):
    def setUp(self): boom()
    def test_it(self): pass
class TestCaseTearDown(unittest.TestCase):
    def tearDown(self): boom()
    def test_it(self): pass
class TestCaseSetUpClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls): boom()
    def test_it(self): pass
class TestCaseClassCleanup(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.addClassCleanup(boom)
    def test_it(self): pass
class TestCaseAsync(unittest.IsolatedAsyncioTestCase):
    async def test_it(self): boom()

def test_other_is_expected():
    with pytest.raises(ZeroDivisionError): boom()
def test_no_warning():
    with pytest.warns(UserWarning): boom()
def test_stack():
    with contextlib.ExitStack() as stack: stack.callback(boom)
def test_group():
    errors = []
    for _ in range(2):
        try: boom()
        except VmPortsError as error: errors.append(error)
    group = getattr(builtins, "ExceptionGroup", None)  # from Python 3.11 on
    raise errors[0] if group is None else group("several", errors)
def test_gather():
    async def task(): boom()
    async def main(): await asyncio.gather(task(), task())
    asyncio.run(main())
@pytest.mark.xfail(raises=ZeroDivisionError)
def test_xfail(): boom()

class Ends:
    def __del__(self): boom()
def test_passes_with_a_warning_of_its_end():
    Ends()
def test_passes_with_a_warning_of_a_thread():
    thread = threading.Thread(target=boom)
    thread.start()
    thread.join()
"""
OTHERS = {
    "subtests": """
        def test_subtests(subtests):
            with subtests.test(): {call}
    """,
    "setup_module": "def setup_module(): {call}\ndef test_it(): pass",
    "setup_function": "def setup_function(): {call}\ndef test_it(): pass",
    "teardown_module": "def teardown_module(): {call}\ndef test_it(): pass",
    "setUpModule": """
        import unittest
        def setUpModule(): {call}
        class TestCase(unittest.TestCase):
            def test_it(self): pass
    """,
    "import": "{call}",
    "class_body": "class TestIt:\n    {call}",
    "parameters": """
        import pytest
        @pytest.mark.parametrize("one", [{call}])
        def test_it(one): pass
    """,
    "ids": """
        import pytest
        @pytest.mark.parametrize("one", [1], ids=lambda _: {call})
        def test_it(one): pass
    """,
    "collecting": """
        import pytest
        def pytest_generate_tests(metafunc): {call}
        def test_it(one): pass
    """,
    "doctest": "def test_it():\n    '''\n    >>> {call}\n    3\n    '''",
}
STYLES = [
    "--tb=auto", "--tb=short -n2", "--tb=native --doctest-continue-on-failure", "--tb=line"
]  # fmt: skip


def write(pytester):
    pytester.makeini("[pytest]\naddopts = -p no:randomly -p no:cacheprovider")
    pytester.makepyfile(test_places=PLACES)
    for name, text in OTHERS.items():
        module = textwrap.dedent(text).format(call=CALL)
        pytester.makepyfile(**{f"test_{name}": f"from pytest_vmports import Guest\n{module}"})
    (pytester.mkdir("sub") / "conftest.py").write_text(f"from pytest_vmports import Guest\n{CALL}")
    (pytester.path / "sub" / "test_it.py").write_text("def test_it(): pass")
    (pytester.path / "test_page.txt").write_text(
        f">>> from pytest_vmports import Guest\n>>> {CALL}\n3\n"
    )


def run(pytester, *words):
    command = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", "-v"]
    result = pytester.run(*command, "--doctest-modules", "--junitxml=junit.xml", *words)
    return result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("words", STYLES)
def test_no_frame_of_ours_is_shown_wherever_the_users_code_calls_us(pytester, words):
    write(pytester)
    text = run(pytester, *words.split())
    assert "INTERNALERROR" not in text
    assert not FRAME.search(text.replace("pytest_vmports/plugin.py::", "")), text
    warnings = text[text.index("warnings summary") :]
    assert warnings.count(CALL) >= 2 and warnings.count(SAID) >= 2  # a thread's, and of __del__
    assert text.count("UNEXPECTED EXCEPTION") >= 2  # twice more where CI has the summary whole
    summary = text[text.index("short test summary info") :]
    assert " - GuestNotFoundError: the " in summary and " - pytest_vmports." not in summary
    told = 0
    for case in ET.parse(pytester.path / "junit.xml").iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        said = "\n".join(one.text or "" for one in case if one.tag in {"failure", "error"})
        # JUnit's file has no text of a doctest.
        if "passes" in name or "test_page" in name or "doctest" in name or not said:
            continue
        told += 1
        assert SAID in said or "line" in words, f"{name}\n{said}"
        assert CALL in said or "line" in words, f"{name}\n{said}"
    assert told >= 40


def test_a_whole_trace_shows_them_wherever_it_is(pytester):
    write(pytester)
    text = run(pytester, "--full-trace")
    warnings = text[text.index("warnings summary") :]
    assert len(FRAME.findall(warnings)) >= 2
    for case in ET.parse(pytester.path / "junit.xml").iter("testcase"):
        for one in case:
            said = one.text if one.tag in {"failure", "error"} else ""
            if said and "contains 1 failed" not in said:
                assert FRAME.search(said), f"{case.get('name')}\n{said}"


BROKEN = f"from pytest_vmports import Guest\n{CALL}"


@pytest.mark.parametrize(
    ("files", "words", "variables"),
    [
        ({"conftest": BROKEN}, "", {}),
        ({"conftest": BROKEN}, "-n1", {}),
        ({"conftest": "pytest_plugins = ['mine']", "mine": BROKEN}, "", {}),
        ({"mine": BROKEN}, "-p mine", {}),
        ({"mine": BROKEN}, "", {"PYTEST_PLUGINS": "mine"}),
    ],
    ids=["conftest", "conftest of workers", "pytest_plugins", "-p", "PYTEST_PLUGINS"],
)
def test_none_is_shown_of_what_pytest_begins_with(pytester, monkeypatch, files, words, variables):
    for name, value in {"PYTHONPATH": str(pytester.path), **variables}.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(**files, test_it="def test_it(): pass")
    result = pytester.run(sys.executable, "-m", "pytest", *words.split())
    text = result.stdout.str() + result.stderr.str()
    assert CALL in text and SAID in text and not FRAME.search(text), text
    assert len(text.splitlines()) < 8


def test_a_whole_trace_shows_them_of_a_conftest_too(pytester):
    pytester.makeconftest(BROKEN)
    result = pytester.run(sys.executable, "-m", "pytest", "--full-trace")
    assert FRAME.search(result.stderr.str())


@pytest.mark.parametrize(
    "hook",
    ["configure(config)", "sessionstart(session)", "collection_modifyitems(items)",
     "runtest_logreport(report)", "report_header(config)", "addoption(parser)"],
)  # fmt: skip
def test_none_is_shown_of_the_users_own_hooks(pytester, hook):
    pytester.makeconftest(f"from pytest_vmports import Guest\ndef pytest_{hook}:\n    {CALL}")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:xdist")
    text = result.stdout.str() + result.stderr.str()
    assert CALL in text and SAID in text
    assert "guests/guest.py" not in text, text


def test_an_internal_error_of_others_is_shown_whole(pytester):
    pytester.makeconftest(
        "import json\nimport pytest_vmports.errors\n"
        "def pytest_runtest_logreport(report): json.loads('{')\n"
    )
    pytester.makepyfile("def test_it(): pass")
    text = pytester.run(sys.executable, "-m", "pytest", "-p", "no:xdist").stdout.str()
    assert "json/decoder.py" in text


OURS = '  File "/x/pytest_vmports/guests/guest.py", line 3, in disk\n    raise it\n    ^^^^^\n'
MINE = '  File "/home/me/test_it.py", line 4, in run\n    Guest.disk()\n'
LIBRARY = f'  File "{re.__file__}", line 5, in sub\n    pass\n'
HEAD = "Traceback (most recent call last):\n"
CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"


@pytest.fixture(autouse=True)
def package_is_elsewhere(monkeypatch):
    monkeypatch.setattr(
        "pytest_vmports.report.traceback_text.file_is_ours", lambda file: "pytest_vmports" in file
    )
    monkeypatch.setattr(
        "pytest_vmports.report.traceback_text.file_is_users", lambda file: "/home" in file
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no traceback", "no traceback"),
        (
            f"Exception in thread\n\n{HEAD}{LIBRARY}{MINE}{LIBRARY}{OURS}XError: no\n\nmore",
            f"Exception in thread\n\n{HEAD}{LIBRARY}{MINE}XError: no\n\nmore",
        ),
        (f"{HEAD}{MINE}{LIBRARY}ValueError: no\n", f"{HEAD}{MINE}{LIBRARY}ValueError: no\n"),
        (
            f"in it\n\n{HEAD}{OURS}OSError: no\n{CAUSE}{HEAD}{MINE}{OURS}XError: no\n",
            f"in it\n\n{HEAD}{MINE}XError: no\n",
        ),
        (
            f"{HEAD}{MINE}OSError: no\n{DURING}{HEAD}{MINE}{OURS}XError: no\n",
            f"{HEAD}{MINE}OSError: no\n{DURING}{HEAD}{MINE}XError: no\n",
        ),
        (f"{HEAD}{OURS}XError: no\n", "XError: no\n"),
    ],
)  # fmt: skip
def test_tracebacks_that_are_text_lose_them_too(text, shown):
    assert pruned(text) == shown

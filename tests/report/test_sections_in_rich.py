"""Sections on a terminal as pytest-rich has it, whose place a plugin takes that shows no others."""

TERMINAL = """
class Terminal:
    def pytest_runtest_logreport(self, report):
        if report.failed:
            print("\\nshown", report.when, [title for title, _ in report.sections])

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Terminal(), "rich-terminal-reporter")
"""
SUITE = """
def test_fails(vm_factory):
    with vm_factory(ports=["8080"], kernel="kernel"):
        pass
"""


def test_a_failures_sections_are_where_pytest_rich_looks_for_them(pytester, qemu_binary):
    """With xdist too; and they are in JUnit's XML once."""
    pytester.makeconftest(TERMINAL)
    pytester.makepyfile(test_it=SUITE)
    (pytester.path / "kernel").write_bytes(b"\0no kernel" * 1000)  # no guest boots
    for words in (["-n0"], ["-n1"]):
        result = pytester.runpytest_subprocess("--junitxml=junit.xml", *words)
        result.assert_outcomes(failed=1)
        (shown,) = (line for line in result.outlines if line.startswith("shown "))
        assert shown.startswith("shown call ['VM: usernet, booted, stopped', 'VM: time line'")
        assert "'VM: artifacts'" in shown
        assert (pytester.path / "junit.xml").read_text().count("VM: time line") == 1


def test_a_plain_terminal_shows_each_once(pytester, qemu_binary):
    pytester.makepyfile(test_it=SUITE)
    (pytester.path / "kernel").write_bytes(b"\0no kernel" * 1000)
    result = pytester.runpytest_subprocess()
    assert result.stdout.str().count("VM: time line") == 1

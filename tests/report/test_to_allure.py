"""What of a VM stands in Allure's report; in allure-pytest's place is one that takes note."""

from __future__ import annotations

import pytest

SUITE = """
import pytest

@pytest.mark.parametrize("name", ["first", "second"])
def test_fails(vm_factory, name):
    with vm_factory(ports=["8080"], kernel="kernel"):
        pass

def test_passes():
    pass
"""
# As much of allure as is used: what is attached is printed for the test that runs.
ALLURE = """
import enum, json

class attachment_type(enum.Enum):
    TEXT = "text/plain"
    JSON = "application/json"
    PNG = "image/png"
    PCAP = "pcap"

class attach:
    def __new__(cls, body, name, kind):
        write(name, kind, body)

    @staticmethod
    def file(source, name, kind):
        {fault}
        write(name, kind, open(source).read())

def write(name, kind, body):
    with open("attached", "a") as file:
        print(json.dumps([name, kind.value, body]), file=file)
"""
CONFTEST = """
def pytest_configure(config):
    config.pluginmanager.register(object(), "allure_listener")
"""


@pytest.fixture
def run(pytester, qemu_binary):
    """Return a function that runs the suite; QEMU refuses its kernel, so no guest boots."""

    def ran(*words, fault="", registered=True):
        pytester.makepyfile(allure=ALLURE.format(fault=fault), test_it=SUITE)
        pytester.makeconftest(CONFTEST if registered else "")
        (pytester.path / "kernel").write_bytes(b"\0no kernel" * 1000)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)
        result.assert_outcomes(failed=2, passed=1)
        file = pytester.path / "attached"
        return result, file.read_text() if file.exists() else ""

    return ran


def test_a_failing_test_has_its_evidence_and_artifacts_attached(run):
    _, attached = run()
    lines = attached.splitlines()
    for name in ("VM: time line", "VM: output of QEMU", "QEMU.log", "qemu.sh", "console.log"):
        assert sum(line.startswith(f'["{name}') for line in lines) == 2, name
    (kind,) = {line.split('", "')[1] for line in lines if line.startswith('["vm.json')}
    assert kind == "application/json"
    # What a guest may have written is text, whatever it looks like.
    others = {line.split('", "')[1] for line in lines if not line.startswith('["vm.json')}
    assert others == {"text/plain"}
    assert "invalid kernel header" in attached


def test_without_artifacts_the_evidence_is_attached_all_the_same(run):
    _, attached = run("--vmports-artifacts=no")
    assert '["VM: time line' in attached and "qemu.sh" not in attached


def test_nothing_is_attached_where_allure_does_not_write(run):
    _, attached = run(registered=False)
    assert attached == ""


def test_what_cannot_be_attached_is_told_and_changes_no_result(run):
    result, attached = run(fault="raise OSError(28, 'no space')")
    result.stdout.fnmatch_lines(["*artifact failed: attachments of the Allure report: OSError*"])
    assert '["VM: time line' in attached

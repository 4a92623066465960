"""What vm_factory returns is no VM before its with block is entered, and says so."""

from __future__ import annotations

import contextlib
import gc

import pytest

from pytest_vmports.errors import NotEnteredError, NotEnteredWarning, SettingError, VmPortsError
from pytest_vmports.pool.factory import VmFactory, VmToBe


@contextlib.contextmanager
def making(made):
    made.append("made")
    try:
        yield "the VM"
    finally:
        made.append("ended")


USES = {
    ".run": lambda vm: vm.run("true"),
    ".ports": lambda vm: vm.ports,
    ".connect": lambda vm: vm.connect(80),
    "[80]": lambda vm: vm[80],
    "['53/udp']": lambda vm: vm["53/udp"],
    "iteration": list,
    "len()": len,
}


@pytest.mark.parametrize("used", USES)
def test_a_vm_without_its_with_block_is_told_of_it(used):
    with pytest.raises(NotEnteredError) as caught:
        USES[used](VmToBe(lambda: making([]), "test_it.py:3"))
    assert isinstance(caught.value, VmPortsError)
    assert f"{used} is asked of what vm_factory(…) returns" in str(caught.value)
    assert "`with vm_factory(…) as vm:`" in str(caught.value)


def test_in_its_with_block_it_is_made_and_ended_also_by_an_error():
    made = []
    with VmToBe(lambda: making(made), "test_it.py:3") as vm:
        assert (vm, made) == ("the VM", ["made"])
    assert made == ["made", "ended"]
    with pytest.raises(KeyError), VmToBe(lambda: making(made), "test_it.py:3"):
        raise KeyError
    assert made == ["made", "ended"] * 2


def test_each_with_block_makes_another_also_one_within_the_other():
    made = []
    vm = VmToBe(lambda: making(made), "test_it.py:3")
    with vm, vm:
        assert made == ["made", "made"]
    with vm:
        pass
    assert made == ["made", "made", "ended", "ended", "made", "ended"]


def test_one_that_is_thrown_away_is_told_with_its_place(factory):
    with pytest.warns(NotEnteredWarning, match=rf"{__file__}:\d+ has made no VM: `with vm_factory"):
        factory([8080])


def test_one_that_was_entered_or_misused_is_not(recwarn):
    with VmToBe(lambda: making([]), "test_it.py:3"):
        pass
    with pytest.raises(ZeroDivisionError), VmToBe(lambda: 1 / 0, "test_it.py:3"):
        pass
    with pytest.raises(NotEnteredError):
        _ = VmToBe(lambda: making([]), "test_it.py:3").ports
    gc.collect()
    assert list(recwarn) == []


@pytest.fixture
def factory():
    return VmFactory(None, None, None, observe=None, on_wait=None, running=None, coming=None)


def _with(factory):
    with factory:
        pass


@pytest.mark.parametrize("used", [*USES, "a with block"])
def test_the_fixture_itself_is_no_vm_either(factory, used):
    with pytest.raises(NotEnteredError) as caught:
        {**USES, "a with block": _with}[used](factory)
    assert f"{used} is asked of vm_factory itself" in str(caught.value)
    assert "`with vm_factory(…) as vm:`" in str(caught.value)


def test_ports_one_by_one_as_the_marker_takes_them_are_told_to_be_a_list(factory):
    with pytest.raises(SettingError, match=r"write ports as a list: vm_factory\(\[8080, 9090\]\)"):
        factory(8080, 9090)


def test_it_can_be_asked_what_it_is():
    vm = VmToBe(lambda: making([]), "test_it.py:3")
    assert bool(vm) and not hasattr(vm, "run") and not hasattr(vm, "__wrapped__")
    assert "VmToBe" in repr(vm)
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(vm) == "the VM"


ASKS = """
@pytest.fixture(scope="{scope}")
def {scope}_{fixture}({fixture}):
    pass

def test_{scope}_{fixture}({scope}_{fixture}):
    pass
"""
INSTEAD = {
    "vm_with_ports": "vmports: vm_with_ports lives for one test. For a VM *ask for vm_factory*",
    "exposed_ports": "vmports: exposed_ports lives for one test. For a VM *ask for vm_factory*",
    "free_port": "vmports: free_port lives for one test; session_free_port_factory *",
    "free_port_factory": "vmports: free_port_factory lives for one test; session_free_port_fac*",
    "monkeypatch": None,
}


def test_a_scope_that_does_not_match_leads_to_what_does_and_those_of_others_are_left_alone(
    pytester,
):
    scopes = ["class", "module", "package", "session"]
    asks = (ASKS.format(scope=scope, fixture=name) for scope in scopes for name in INSTEAD)
    pytester.makepyfile("import pytest\n" + "".join(asks))
    result = pytester.runpytest_inprocess("-p", "no:randomly")
    result.assert_outcomes(errors=len(scopes) * len(INSTEAD))
    for said in filter(None, INSTEAD.values()):
        result.stdout.fnmatch_lines_random([f"*{said}"])
    # On CI pytest's summary has the whole message once more.
    told = result.stdout.str().partition("short test summary")[0].count(" lives for one test")
    assert told == len(scopes) * (len(INSTEAD) - 1)

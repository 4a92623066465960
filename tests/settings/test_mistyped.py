"""What people write in the place of a keyword leads to the right one."""

from __future__ import annotations

import pytest

from pytest_vmports.errors import SettingError
from pytest_vmports.settings import mistyped, options
from pytest_vmports.settings.mistyped import misspelt

KEYWORDS = {
    "ram": "memory", "mem": "memory", "Memory": "memory", "memry": "memory",
    "smp": "cpus", "cores": "cpus",
    "timeout": "boot_timeout", "boottimeout": "boot_timeout", "boot-timeout": "boot_timeout",
    "wait": "wait_for", "waitfor": "wait_for", "ready": "wait_for",
    "image": "guest", "disk": "guest", "guests": "guest",
    "script": "setup", "cmd": "setup", "set_up": "setup",
    "internet": "allow_network", "net": "allow_network", "networks": "network",
    "host_port": "host_ports", "hostports": "host_ports",
    "kvm": "accel", "snapshot": "template", "skip": "missing", "file": "files",
    "host": "bind_host", "cmdline": "append", "fresh": "fresh_boot",
}  # fmt: skip


@pytest.mark.parametrize("written", KEYWORDS)
def test_a_keyword_that_is_meant_otherwise_is_told_the_right_name(written, pytestconfig):
    with pytest.raises(SettingError) as caught:
        options.settings_of_call(pytestconfig, {written: 1}, "marker vmports")
    assert f"did you mean {KEYWORDS[written]}? known keywords are" in str(caught.value)


@pytest.mark.parametrize("written", ["ports", "port", "guest_ports", "forward", "publish", "PORTS"])
@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("a.py::test: marker vmports", "write ports positionally: vmports(8080, 9090); known"),
        ("vm_factory", "write ports as a list: vm_factory(ports=[8080]); known"),
    ],
)
def test_ports_by_keyword_are_told_to_be_written_positionally(written, where, said, pytestconfig):
    with pytest.raises(SettingError) as caught:
        options.settings_of_call(pytestconfig, {written: [8080]}, where)
    assert said in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_what_is_like_nothing_is_only_told_what_there_is(pytestconfig):
    with pytest.raises(SettingError) as caught:
        options.settings_of_call(pytestconfig, {"zzzzzz": 1}, "marker vmports")
    assert "is not allowed; known keywords are accel, " in str(caught.value)


def test_every_name_that_is_meant_is_a_keyword(pytestconfig):
    for name in set(KEYWORDS.values()):
        assert options.BY_NAME[name].marker


@pytest.mark.parametrize(
    ("markers", "found"),
    [
        (["vmport"], "vmport"), (["slow", "vm_ports"], "vm_ports"), (["VmPorts"], "VmPorts"),
        (["vmports"], None), (["parametrize", "slow", "reports", "imports"], None), ([], None),
    ],
)  # fmt: skip
def test_only_what_is_close_is_a_misspelt_marker(markers, found):
    assert misspelt(markers, "vmports") == found


def test_what_many_tests_have_in_common_is_told_once_and_how_many_they_are():
    told = [("t.py::a[0]", "t.py::a[0]: no"), ("t.py::b", "t.py::b: never"),
            ("t.py::a[1]", "t.py::a[1]: no"), ("t.py::a[2]", "t.py::a[2]: no"),
            ("t.py::c", "ini file: no"), ("t.py::d", "ini file: no")]  # fmt: skip
    assert mistyped.in_common(told) == [
        "t.py::a[0] and 2 more: no",
        "t.py::b: never",
        "ini file: no",
    ]

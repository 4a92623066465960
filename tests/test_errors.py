"""Errors hold their facts, say them, and survive the way between xdist's processes."""

import pickle
import re
from importlib import resources

import pytest

from pytest_vmports import errors
from pytest_vmports.cli import explain
from pytest_vmports.errors import HostError, VmPortsError

FACTS = {
    "found": "it is too old",
    "crash": "BUG: why", "cause": "",
    "source": "pytest.ini", "name": "memory", "value": "lots", "allowed": "write MiB",
    "port": 3000, "protocol": "tcp", "host": "127.0.0.1", "holder": "pid 7",
    "wanted": 2, "range": "20000-20001", "held": 2, "holders": "pid 7",
    "path": "/run/x", "folder": "/run/y", "reason": "it is a link", "remedy": "remove it",
    "tried": "  qemu: not there", "what": "no kernel", "program": "QEMU", "returncode": 1,
    "stderr": "oops", "command": "qemu -x", "detail": "in use", "console": "panic",
    "timeout": 3.5, "waited_for": "any port", "ports": "port 80: refused", "reply": "no",
    "lock": "/run/x.lock", "cmd": "ls", "said": "no such file", "guest": "alpine",
    "reached": "its API", "why": "it cannot be kept from it",
    "forwards": "127.0.0.1:4000 -> 192.168.127.2:22/tcp",
    "problem": "it is cut", "architecture": "x86_64", "errors": "a module",
    "stdout": "so far", "owner": 7, "pid": 8, "means": "ssh", "panic": "no init",
    "ending": "is empty", "hint": "raise memory", "words": "grub>", "seconds": 5.5,
    "max_output": 1000, "exposed": "80/tcp", "who": "the guest's control channel", "used": "[80]",
    "missing": "no gate (EBUSY)",
}  # fmt: skip


def all_errors(kind: type[VmPortsError] = VmPortsError) -> list[type[VmPortsError]]:
    return [kind, *(e for sub in kind.__subclasses__() for e in all_errors(sub))]


def made(kind: type[VmPortsError]) -> VmPortsError:
    return kind("it is broken") if "{message}" in kind.template else kind(**FACTS)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_the_way_between_processes(kind):
    error = made(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) and again.fields == error.fields


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_a_message_says_every_fact_that_its_template_names(kind):
    text = str(made(kind))
    for name in re.findall(r"{(\w+)", kind.template):
        assert str({"message": "it is broken", **FACTS}[name]) in text


def test_facts_read_as_attributes_and_others_do_not():
    error = errors.PortInUseError(port=3000, protocol="tcp", host="127.0.0.1", holder="pid 7")
    assert error.port == 3000
    with pytest.raises(AttributeError, match="no field 'colour'"):
        _ = error.colour


def test_a_plain_message_is_kept_as_it_is():
    error = pickle.loads(pickle.dumps(errors.HostError("no {braces} are read")))
    assert str(error) == "no {braces} are read [pytest-vmports explain host]"


def test_the_tree_in_the_catalogue_is_the_tree_in_the_code():
    page = (resources.files("pytest_vmports") / "errors.md").read_text("utf-8")
    page = page.partition("\n## ")[0]
    drawn = re.findall(r"^ *[│ ]*(?:[├└]── )?(\w+Error)\b", page, re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in all_errors())
    for line in page.splitlines():
        if match := re.match(r"    ([│ ]*)[├└]── (\w+Error)", line):
            kind = getattr(errors, match[2])
            ours = [base for base in kind.__mro__ if issubclass(base, VmPortsError)]
            assert len(ours) - 1 == len(match[1]) // 4 + 1, line


def test_every_error_has_its_section_and_no_section_is_left_over():
    told = explain.sections()
    names = {kind.address().rpartition(" ")[2]: kind for kind in all_errors()}
    assert set(told) == set(names)
    for name, kind in names.items():
        assert f"`{kind.__name__}`" in told[name]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_a_message_ends_with_where_to_read_on(kind):
    assert str(made(kind)).endswith(f"[{kind.address()}]")


def test_the_address_stands_alone_behind_lines_that_are_a_consoles():
    assert str(HostError("one line")).endswith("one line [pytest-vmports explain host]")
    assert str(HostError("a console:\nlogin:")).splitlines()[1:] == [
        "login:", "[pytest-vmports explain host]"
    ]  # fmt: skip

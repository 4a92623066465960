"""Processors: what a QEMU says of them."""

from dataclasses import replace

import pytest

from pytest_vmports.system import processors
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.programs import Accelerator, find_qemu

TCG = Accelerator("tcg", "a test")


@pytest.fixture
def qemu(qemu_binary):
    return find_qemu(str(qemu_binary))


def test_a_processor_that_this_qemu_makes_has_no_problem(qemu):
    assert processors.problem(qemu, TCG, "qemu64,+avx") is None


@pytest.mark.parametrize(
    ("cpu", "said"),
    [("pentium9", "'pentium9'"), ("qemu64,+nonsense", "nonsense"), ("host", "host")],
)
def test_what_it_does_not_make_is_told_in_its_own_words(qemu, cpu, said):
    why = processors.problem(qemu, TCG, cpu)
    assert why.startswith("QEMU says: ") and said in why
    assert "qemu-system" not in why


@pytest.mark.parametrize("machine", X86_64.machines)
def test_this_qemu_makes_each_board_that_a_guest_may_be_given(qemu, machine):
    assert processors.problem(replace(qemu, machine=machine), TCG, "max") is None


def test_some_that_it_has_are_named_the_plain_ones_first(qemu):
    names = processors.some(qemu)
    assert names[:2] == ("max", "qemu64") and len(names) == 12
    assert "host" not in names  # nothing emulates it
    for name in names[2:5]:
        assert processors.problem(qemu, TCG, name) is None

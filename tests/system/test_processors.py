"""Processors: what a QEMU says of them."""

from dataclasses import replace

import pytest

from pytest_vmports.system import processors
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.programs import Accelerator, Qemu, find_qemu

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


HOST = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 143
model name\t: Some Xeon @ 2.10GHz
cpu MHz\t\t: 1789.123
flags\t\t: fpu avx2
bogomips\t: 4200.02

processor\t: 1
bogomips\t: 1.00
"""
KVM = Accelerator("kvm", "a test")


@pytest.fixture
def seen(monkeypatch):
    """Return a function that tells what a guest sees of a host."""

    def of(accelerator, cpu=None, host=HOST, architecture="x86_64"):
        monkeypatch.setattr(processors, "said", {"cpuinfo": host}.get)
        processors._first_processor.cache_clear()
        qemu = Qemu(f"/qemu-system-{architecture}", (9, 0, 0), "a test")
        return processors.seen_by_guest(qemu, accelerator, cpu)

    yield of
    processors._first_processor.cache_clear()


@pytest.mark.parametrize("cpu", [None, "max", "host", "host,-avx2"])
def test_a_guest_that_is_given_the_hosts_processor_sees_its_features(seen, cpu):
    told = ["vendor_id: GenuineIntel", "model: 143", "flags: fpu avx2", "ticks: 2100 MHz"]
    assert seen(KVM, cpu) == told


@pytest.mark.parametrize(("accelerator", "cpu"), [(TCG, None), (TCG, "max"), (KVM, "Haswell-v4")])
def test_a_guest_with_a_processor_of_its_own_sees_the_rate_of_the_hosts_counter(
    seen, accelerator, cpu
):
    assert seen(accelerator, cpu) == ["ticks: 2100 MHz"]
    # What a host measures when it starts is never quite the same.
    assert seen(accelerator, cpu, HOST.replace("4200.02", "4199.81")) == ["ticks: 2100 MHz"]
    assert seen(accelerator, cpu, HOST.replace("4200.02", "5999.9")) == ["ticks: 3000 MHz"]


def test_an_emulated_guest_with_a_counter_of_qemus_own_sees_nothing_of_the_host(seen):
    assert seen(TCG, architecture="aarch64") == seen(TCG, architecture="riscv64") == []


@pytest.mark.parametrize("host", ["", "nonsense", "bogomips : x", "\0"])
def test_a_host_that_says_nothing_of_itself_is_no_error(seen, host):
    assert seen(TCG, host=host) == ["ticks: unknown"]
    assert len(seen(KVM, host=host)) == 2

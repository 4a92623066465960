"""Hardware in settings: what each reader takes, and that it says what is allowed."""

import pytest

from pytest_vmports.settings import hardware


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, None), ("", None), (" max ", "max"), ("qemu64,+avx,-sse3", "qemu64,+avx,-sse3"),
        ("EPYC-v2,hv-time=on,enforce", "EPYC-v2,hv-time=on,enforce"),
    ],
)  # fmt: skip
def test_a_processor_is_what_qemu_takes(raw, value):
    assert hardware.cpu(raw) == value


@pytest.mark.parametrize("raw", ["max, +avx", "-M q35", "max,", ",+avx", "a b", "max;", 5.5, True])
def test_what_is_no_processor_is_refused_with_an_example(raw):
    with pytest.raises((ValueError, TypeError), match=r"qemu64,\+avx|write a text"):
        hardware.cpu(raw)


@pytest.mark.parametrize("raw", [2, "2"])
def test_a_number_of_processors_is_told_the_setting_that_it_is_meant_for(raw):
    with pytest.raises(ValueError, match="how many there are says cpus"):
        hardware.cpu(raw)

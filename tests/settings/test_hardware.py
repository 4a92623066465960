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


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, ()), ("", ()), ("-device 'edu,id=a b'", ("-device", "edu,id=a b")),
        (["-device", "edu"], ("-device", "edu")), (("-machine", "usb=on"), ("-machine", "usb=on")),
        ("-global virtio-net-pci.romfile= -M hpet=off",
         ("-global", "virtio-net-pci.romfile=", "-M", "hpet=off")),
    ],
)  # fmt: skip
def test_words_for_qemu_are_split_as_a_shell_does(raw, value):
    assert hardware.qemu_args(raw) == value


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("-monitor stdio", "monitor is ours"),
        ("--monitor stdio", "-monitor.* is not to be given"),
        ("-cpu max", "use the setting cpu"),
        ("-m 1G", "use the setting memory"),
        ("-M q35", "use the setting machine"),
        ("-machine type=q35,usb=on", "use the setting machine"),
        ("-machine q35,usb=on", "use the setting machine"),
        ("-machine", "use the setting machine"),
        ("-S", "clones and paused VMs"),
        ("-incoming defer", "clones and paused VMs"),
        ("-snapshot", "clones and paused VMs"),
        ("-daemonize", "our child"),
        ("-sandbox off", "rights and walls"),
        ("-nographic", "listen where no lease is held"),
        ("-s", "listen where no lease is held"),
        ("-version", "tell something and end"),
        ("-netdev user,id=x,hostfwd=tcp::1-:2", "forwarded by the marker's"),
        (["a\nb"], "no such characters"),
    ],
)
def test_words_that_would_break_ours_are_refused_with_a_reason(raw, why):
    with pytest.raises(ValueError, match=why):
        hardware.qemu_args(raw)


@pytest.mark.parametrize("raw", [5, True, [1], {"-device": "edu"}, "'open"])
def test_what_are_no_words_are_refused(raw):
    with pytest.raises((ValueError, TypeError)):
        hardware.qemu_args(raw)


def test_disks_are_sizes_in_mib_and_paths(tmp_path):
    assert hardware.disks(None) == hardware.disks("") == ()
    read = hardware.disks("512M 1g 2T 'a b.qcow2' /x.raw", tmp_path)
    assert read == (512, 1024, 2 << 20, f"{tmp_path}/a b.qcow2", "/x.raw")
    assert hardware.disks(["64MiB", tmp_path / "x"], tmp_path) == (64, f"{tmp_path}/x")


@pytest.mark.parametrize("raw", [5, ["5"], "64", "0M", "5T", ["1M"] * 9, [""], [True], {"a": 1}])
def test_what_are_no_disks_is_refused_with_what_is_allowed(raw):
    with pytest.raises((ValueError, TypeError), match="sizes from 1M to 4T, and paths of images"):
        hardware.disks(raw)


def test_a_number_of_cards_is_from_one_to_eight():
    assert [hardware.nics(raw) for raw in (None, "", 1, "8")] == [None, None, 1, 8]
    for raw in (0, 9, "two", True):
        with pytest.raises(ValueError, match="a whole number from 1 to 8"):
            hardware.nics(raw)

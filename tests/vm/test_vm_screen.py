"""What a VM's display shows, as a picture."""

from __future__ import annotations

import os
import re
import struct
import zlib

import pytest
from vm_helpers import GUEST

from pytest_vmports.errors import MachineError

# The second card is not needed: there is a saved guest with both.
SHOWN = {"setup": GUEST, "display": True, "host_ports": {80: 9}}


def picture(path):
    """Return width, height and the values of the bytes that its pixels are made of."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    pixels, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            pixels += data[at + 8 : at + 8 + length]
        at += 12 + length
    return (*struct.unpack_from(">II", data, 16), set(zlib.decompress(pixels)))


@pytest.mark.parametrize("fresh", [True, False], ids=["booted", "cloned"])
@pytest.mark.slow_as("booted")
def test_the_screen_is_a_picture(vm_factory, tmp_path, monkeypatch, fresh):
    monkeypatch.chdir(tmp_path)
    with vm_factory(ports=[8080], **SHOWN, fresh_boot=fresh) as vm:
        vm.screenshot("screen.png")
        vm.screenshot(os.fsdecode(b"no text \xff.png"))
    assert (tmp_path / os.fsdecode(b"no text \xff.png")).stat().st_size > 0
    width, height, values = picture(tmp_path / "screen.png")
    assert (width, height) >= (640, 400)
    assert len(values) > 1  # some text of the firmware's


def test_without_a_display_it_says_how_to_get_one(vm_factory, tmp_path):
    with (
        vm_factory(ports=[8080], setup=GUEST) as vm,
        pytest.raises(MachineError, match="display = yes"),
    ):
        vm.screenshot(tmp_path / "screen.png")
    assert not (tmp_path / "screen.png").exists()


def test_a_file_that_cannot_be_written_is_named(vm_factory, tmp_path):
    path = tmp_path / "absent" / "screen.png"
    with (
        vm_factory(ports=[8080], **SHOWN) as vm,
        pytest.raises(MachineError, match=re.escape(str(path))),
    ):
        vm.screenshot(path)

"""What QEMU's folders of firmware hold beside firmware costs no more than that."""

import json
import os

import pytest

from pytest_vmports.errors import FirmwareNotFoundError
from pytest_vmports.system import firmware
from pytest_vmports.system.architecture import X86_64


def garbage(folder):
    os.mkfifo(folder / "10-fifo.json")
    (folder / "20-folder.json").mkdir()
    (folder / "30-dangling.json").symlink_to("nowhere")
    (folder / "40-binary.json").write_bytes(b"\xff\0")
    (folder / "50-list.json").write_text("[]")
    (folder / "60-half.json").write_text('{"mapping": ')


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "PLACES", [tmp_path])
    garbage(tmp_path)
    return tmp_path


def test_garbage_alone_is_no_firmware(place):
    with pytest.raises(FirmwareNotFoundError):
        firmware.find_firmware(X86_64)


def test_firmware_is_found_behind_garbage(place):
    (place / "code.fd").touch()
    part = {"filename": str(place / "code.fd"), "format": "raw"}
    described = {
        "interface-types": ["uefi"],
        "mapping": {"device": "flash", "executable": part, "nvram-template": part},
        "targets": [{"architecture": "x86_64", "machines": [f"{X86_64.boards}-*"]}],
        "features": [],
    }
    (place / "linked").write_text(json.dumps(described))
    (place / "90.json").symlink_to(place / "linked")
    assert firmware.find_firmware(X86_64).code == place / "code.fd"


KINDS = {
    "plain": [],
    "without-keys": ["secure-boot", "requires-smm"],
    "with-keys": ["secure-boot", "requires-smm", "enrolled-keys"],
}


def test_secure_boot_is_that_with_keys_and_nothing_else_gets_it(place):
    for name, features in KINDS.items():
        (place / f"{name}.fd").touch()
        part = {"filename": str(place / f"{name}.fd"), "format": "raw"}
        described = {
            "interface-types": ["uefi"],
            "mapping": {"device": "flash", "executable": part, "nvram-template": part},
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": features,
        }
        (place / f"{name}.json").write_text(json.dumps(described))
    q35 = X86_64.on("q35")
    assert firmware.find_firmware(q35, secure=True).code.name == "with-keys.fd"
    assert firmware.find_firmware(q35).code.name == "plain.fd"
    with pytest.raises(FirmwareNotFoundError):
        firmware.find_firmware(X86_64, secure=True)

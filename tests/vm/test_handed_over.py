"""What a guest's kind takes note of when its VM becomes another test's."""

import pytest

from pytest_vmports import Guest
from pytest_vmports.models import ExposedPort
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.vm.inside.disk import DiskGuest
from pytest_vmports.vm.inside.ssh import CONFIG, SshShell
from pytest_vmports.vm.inside.ssh_login import SharedLogin
from pytest_vmports.vm.inside.waiting import Place

WEB = ExposedPort(internal=80, external=20080)
BEFORE, AFTER = (ExposedPort(internal=22, external=number) for number in (20022, 20122))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "ssh_key").touch()
    return Place(tmp_path / "vm", tmp_path, tmp_path)


def disk(tmp_path, **keywords):
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(512))
    guest = Guest.disk(image, **keywords)
    return DiskGuest(guest, guest.root_disk, X86_64)


def test_ssh_is_reached_by_the_forward_of_the_new_test(place, tmp_path, monkeypatch):
    """And not by the login of who made it: that would stay, and keep its host port from others."""
    ended = []
    monkeypatch.setattr(SharedLogin, "begin_anew", lambda one: ended.append(one))  # noqa: PLW0108
    kind = disk(tmp_path, ssh=True)
    kind.ssh = SshShell(BEFORE, place.workdir / "ssh_key", place.workdir)
    config = kind.ssh.write_config(place.workdir / CONFIG)  # as its first command does
    kind.handed_over(place, (WEB, AFTER))
    assert "Port 20122\n" in config.read_text() and "20022" not in config.read_text()
    assert f"Port {AFTER.external}\n" in kind.ssh.write_config(tmp_path / "other").read_text()
    assert kind.shell(lambda: None) is not None
    assert ended == [kind.ssh._login]


def test_a_disk_without_ssh_has_nothing_to_take_note_of(place, tmp_path):
    kind = disk(tmp_path, ssh=False)
    kind.handed_over(place, (WEB,))
    assert kind.ssh is None and not (place.workdir / CONFIG).exists()
    assert kind.stands_by

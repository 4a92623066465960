"""What a VM makes of cloud-init's verdict, strict and tolerant; test_vm_disk.py has real ones."""

from __future__ import annotations

import json
import warnings

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import CloudInitError, CloudInitWarning
from pytest_vmports.guests import image as disk
from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.guests.image import Disk
from pytest_vmports.settings import options
from pytest_vmports.system import clock
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.waiting import Waiting

STAGE = "[FAILED] Failed to start cloud-config.service - Apply cloud-config settings.\r\n"


def reported(*errors):
    result = json.dumps({"v1": {"datasource": "DataSourceNoCloud", "errors": errors}})
    return f"\r\nvmports-cloud-init: {result} :vmports\r\n"


COMPLAINT = reported("('locale', RuntimeError('no locale-gen'))")


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Return a function that waits for a guest whose console says this, second by second."""
    moment = [clock.now()]
    monkeypatch.setattr(clock, "now", lambda: moment[0])

    def waited(*parts, tolerant, before=""):
        said = list(parts)
        console = Console(tmp_path / "console.log")
        console.begin_with(before)
        console.path.write_text("booting\r\n")

        def slept(_seconds):
            moment[0] += 20
            with console.path.open("a") as file:
                file.write(said.pop(0) if said else "")

        monkeypatch.setattr(clock, "sleep", slept)
        guest = Guest("g", prepared=False, root_disk=Disk(tmp_path / "disk", seed=Seed()))
        kind = kind_of(guest.tolerating(complaints=tolerant), X86_64)
        waiting = Waiting(console, lambda: None, clock.now() + 600, 600.0)
        if not before:
            kind.await_setup(waiting)
        kind.await_shell(waiting)

    return waited


@pytest.mark.parametrize("parts", [[COMPLAINT], [STAGE, COMPLAINT], [STAGE, "", "", "", COMPLAINT]])
def test_a_complaint_fails_a_vm_unless_it_is_tolerated(ready, parts):
    with pytest.raises(CloudInitError, match=r"locale|cloud-config") as caught:
        ready(*parts, tolerant=False)
    assert "cloud_init = tolerant" in str(caught.value)
    with pytest.warns(CloudInitWarning, match=r"cloud_init = tolerant lets pass: .*locale-gen"):
        ready(*parts, tolerant=True)


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_cloud_init_that_finished_well_is_told_of_by_nobody(ready, tolerant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready("", reported(), tolerant=tolerant)


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_cloud_init_that_could_not_run_is_tolerated_by_nobody(ready, tolerant):
    with pytest.raises(CloudInitError, match="Failed to start cloud-config"):
        ready(STAGE, tolerant=tolerant)


def test_a_clone_is_warned_of_what_its_template_complained_about(ready):
    with pytest.warns(CloudInitWarning, match="locale-gen"):
        ready(tolerant=True, before=f"booting\r\n{COMPLAINT}")


def test_what_a_guest_complains_of_reaches_the_terminal_as_text(ready):
    with pytest.warns(CloudInitWarning) as caught:
        ready(reported("\x1b[2J" + "x" * 100_000), tolerant=True)
    said = str(caught[0].message)
    assert "\x1b" not in said and len(said) < 3000


def test_a_guest_without_cloud_init_has_nothing_to_tolerate(tmp_path):
    for guest in (Guest("g"), Guest("g", prepared=False, root_disk=Disk(tmp_path / "disk"))):
        assert guest.tolerating(complaints=True) is guest


def test_a_template_that_complained_is_for_those_who_tolerate_it(tmp_path, qemu_binary):
    image = tmp_path / "disk.raw"
    image.write_bytes(b"\xeb\xfe" + bytes(508) + b"\x55\xaa" + bytes(1 << 20))
    guest = Guest("g", prepared=False, root_disk=Disk(image, seed=Seed()))
    strict, tolerant = (guest.tolerating(complaints=yes).root_disk for yes in (False, True))
    assert disk.identity(strict, X86_64) != disk.identity(tolerant, X86_64)
    assert disk.identity(strict, X86_64) == disk.identity(guest.root_disk, X86_64)


def test_the_setting_takes_two_words_and_is_strict_by_default():
    assert options.resolve(options.NoConfig(), {}, "x").cloud_init == "strict"
    assert options.resolve(options.NoConfig(), {"cloud_init": "tolerant"}, "x").cloud_init
    with pytest.raises(ValueError, match="one of strict, tolerant"):
        options.resolve(options.NoConfig(), {"cloud_init": "yes"}, "x")

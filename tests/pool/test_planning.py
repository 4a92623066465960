"""From settings to a plan: what is refused before anything boots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import NetworkListError, SettingError
from pytest_vmports.guests import alpine
from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.guests.image import Disk
from pytest_vmports.pool.planning import plan_of
from pytest_vmports.settings import options
from pytest_vmports.system.architecture import AARCH64, X86_64
from pytest_vmports.system.programs import Accelerator, Qemu

LEAST = X86_64.bundled_memory


@pytest.fixture
def planned(tmp_path, qemu_binary):
    """Return a function that makes a plan of a guest and settings."""

    def plan(guest, **keywords):
        settings = options.resolve(options.NoConfig(), keywords, "the test: marker vmports")
        return plan_of(settings, guest, tmp_path)

    return plan


@pytest.fixture
def bundled(monkeypatch):
    """Return a function that makes the bundled guest of a host of this architecture."""

    def made(machine="x86_64", **keywords):
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(alpine, "find_images", lambda: (None, None))
        return Guest.alpine(**keywords)

    return made


def test_the_bundled_guest_is_refused_less_memory_than_it_boots_with(planned, bundled):
    assert planned(bundled(), memory=LEAST).hardware.memory == LEAST
    for memory in (LEAST - 1, 64):
        with pytest.raises(SettingError) as caught:
            planned(bundled(), memory=memory)
        assert str(caught.value).startswith(
            f"the test: marker vmports: memory = {memory} is not allowed; the guest alpine comes "
            f"up with {LEAST} MiB or more"
        )


def test_the_guests_own_memory_is_looked_at_where_it_counts(planned, bundled):
    with pytest.raises(SettingError, match=f"guest alpine: memory = {LEAST - 1} is not allowed"):
        planned(bundled(memory=LEAST - 1), memory=512)
    assert planned(bundled(memory=LEAST), memory=64).hardware.memory == LEAST


def test_each_architecture_that_it_is_made_for_has_a_least_memory(bundled):
    for machine, architecture in (("x86_64", X86_64), ("arm64", AARCH64)):
        assert bundled(machine).least_memory == architecture.bundled_memory > 0


def test_of_a_guest_that_we_do_not_know_any_memory_is_tried(planned, tmp_path):
    assert planned(Guest("own", tmp_path / "vmlinuz"), memory=64).hardware.memory == 64


@pytest.mark.parametrize("word", ["strict", "tolerant"])
def test_what_is_tolerated_of_cloud_init_is_in_the_plans_guest(planned, tmp_path, word):
    guest = Guest("g", prepared=False, root_disk=Disk(tmp_path / "disk", seed=Seed()))
    plan = planned(guest, cloud_init=word)
    assert plan.guest.root_disk.tolerant is (word == "tolerant")
    assert plan.kind._image.tolerant is (word == "tolerant")


@pytest.mark.parametrize("listed", [[], ["example.org"]])
def test_where_no_guest_can_be_held_to_a_list_it_gets_no_network(planned, bundled, ungated, listed):
    with pytest.raises(NetworkListError, match="the test switched it off"):
        planned(bundled(), allow_network=listed)
    assert planned(bundled(), allow_network=False).network.kind == "none"


def test_a_guest_that_qemu_saves_by_halves_is_no_clone(planned, bundled):
    """Faked: the QEMU, which this host need not have."""
    plan = planned(bundled())
    assert plan.why_cold is None
    hardware = replace(
        plan.hardware, qemu=Qemu("/usr/bin/qemu-system-riscv64", (7, 2, 0), "named"),
        accelerator=Accelerator("tcg", "a test"),
    )  # fmt: skip
    assert replace(plan, hardware=hardware).why_cold == hardware.why_not_saved is not None

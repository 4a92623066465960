"""What building a template does with leases and machines; nothing is booted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_vmports import PortMapping
from pytest_vmports.errors import MachineError, MonitorError
from pytest_vmports.pool import templates
from pytest_vmports.pool.templates import Templates
from pytest_vmports.vm.readiness import WaitFor

GUEST = SimpleNamespace(name="a guest", image=None, prepared=True)


class FakeExposed:
    """Leases that note their end."""

    pass_fds = (7, 8)

    def __init__(self, notes):
        self.notes = notes

    def release(self):
        self.notes.append("release")


class FakeMachine:
    """A machine that gets ready at once, or fails."""

    def __init__(self, notes, ram, error):
        self.notes, self.ram, self.error = notes, ram, error
        self.console = SimpleNamespace(last_line=str, text=lambda: "said while booting")

    def discard(self):
        self.notes.append("discard")

    def start(self, lease_fds=()):
        self.notes.append(f"start with {lease_fds}")

    def wait_ready(self, wait_for, timeout):
        self.notes.append("ready")
        if self.error is not None:
            raise self.error

    def stop(self):
        self.notes.append("stop")


class Maker:
    """Makes machines for templates, and notes what is done with them and their leases."""

    def __init__(self, root):
        self.root, self.notes, self.asked, self.error = root, [], None, None

    def expose(self, mappings, settings):
        self.asked = mappings
        self.notes.append("lease")
        return FakeExposed(self.notes)

    def hide(self, exposed, settings, guest):
        pass

    def machine(self, exposed, settings, guest, *, ram=None):
        return FakeMachine(self.notes, ram, self.error)

    def end_failed(self, machine, error):
        self.notes.append(f"failed: {type(error).__name__}")


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Return a maker; a machine that is saved leaves the files of a template."""

    def saved(booted, folder, timeout):
        booted.notes.append("save")
        assert booted.ram.share and booted.ram.path == folder / "ram"
        for name in ("ram", "state"):
            (folder / name).write_text(name)

    monkeypatch.setattr(clone, "_rest_and_save", saved)
    monkeypatch.setattr(clone, "_facts", lambda *_: {"name": "a guest"})
    monkeypatch.setattr(clone, "machine", lambda: "x86_64")
    return Maker(tmp_path)


@pytest.fixture
def templates(tmp_path):
    said = []
    made = Templates(tmp_path / "cache", 100, said.append)
    made.said = said
    yield made
    made.close()


def settings(**changes):
    facts = {
        "template": True, "fresh_boot": False, "network": None, "boot_timeout": 1.0,
        "wait_for": WaitFor(), "expose": [PortMapping(internal=80, external=20417)], **changes,
    }  # fmt: skip
    return SimpleNamespace(**facts)


def find(templates, maker, guest=GUEST, **changes):
    return templates.find(maker, settings(**changes), guest, lambda _machine: None)


BUILT = ["discard", "start with (7, 8)", "ready", "save", "stop"]


def test_the_builder_inherits_its_leases_and_they_are_given_back_once_it_has_ended(
    templates, maker
):
    template = find(templates, maker)
    assert maker.notes == ["lease", *BUILT, "release"]
    assert template.console == "said while booting"


def test_what_is_found_is_not_built_and_its_leases_are_given_back(templates, maker):
    find(templates, maker)
    maker.notes.clear()
    assert find(templates, maker) is not None
    assert maker.notes == ["lease", "discard", "release"]


def test_a_builder_has_host_ports_of_its_own(templates, maker):
    find(templates, maker)
    assert [(mapping.internal, mapping.external) for mapping in maker.asked] == [(80, None)]


@pytest.mark.parametrize("error", [MachineError("not ready"), KeyboardInterrupt("not ready")])
def test_a_builder_that_fails_is_ended_and_its_leases_are_given_back(templates, maker, error):
    maker.error = error
    with pytest.raises(type(error)):
        find(templates, maker)
    assert maker.notes[-2:] == [f"failed: {type(error).__name__}", "release"]


def test_a_guest_that_qemu_cannot_save_boots_from_cold_and_it_is_said_once(templates, maker):
    maker.error = MonitorError(command="migrate", reply="no")
    assert find(templates, maker) is None
    assert maker.notes[-1] == "release"
    assert find(templates, maker) is None
    (line,) = templates.said[-1:]
    assert line.startswith("vmports: every VM of a guest boots from cold: ")
    assert maker.notes.count("lease") == 1


@pytest.mark.parametrize(
    ("changes", "guest"),
    [
        ({"template": False}, GUEST),
        ({"fresh_boot": True}, GUEST),
        ({"network": "net"}, GUEST),
        ({}, SimpleNamespace(name="own init", image=None, prepared=False)),
        ({}, SimpleNamespace(name="disk", image=SimpleNamespace(ssh=False, agent=False))),
    ],
)
def test_where_there_can_be_no_template_nothing_is_leased(templates, maker, changes, guest):
    assert find(templates, maker, guest, **changes) is None
    assert maker.notes == []


@pytest.mark.parametrize("shells", [{"ssh": True, "agent": False}, {"ssh": False, "agent": True}])
def test_a_disk_whose_clock_can_be_set_has_one(templates, maker, shells):
    guest = SimpleNamespace(name="disk", image=SimpleNamespace(**shells))
    assert find(templates, maker, guest) is not None


def test_on_another_architecture_no_guest_of_ours_has_one(templates, maker, monkeypatch):
    monkeypatch.setattr(clone, "machine", lambda: "aarch64")
    assert find(templates, maker) is None
    assert templates.said == [
        "vmports: every VM of a guest boots from cold: a restored clock is set on x86-64 only"
    ]


def test_a_template_that_cannot_be_restored_is_built_anew_once_and_then_given_up(templates, maker):
    error = MachineError("no")
    templates.discard(find(templates, maker), GUEST, error)
    assert "is built anew" in templates.said[-1]
    maker.notes.clear()
    again = find(templates, maker)
    assert maker.notes == ["lease", *BUILT, "release"]
    templates.discard(again, GUEST, error)
    assert "boots from cold: its saved state cannot be restored" in templates.said[-1]
    assert find(templates, maker) is None

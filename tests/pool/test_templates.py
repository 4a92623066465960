"""What building a template does with leases and machines; nothing is booted."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from pytest_vmports import PortAllocator, PortMapping
from pytest_vmports.errors import (
    BootTimeoutError,
    ForwardError,
    LaunchError,
    MachineError,
    MonitorError,
    SetupError,
)
from pytest_vmports.network.exposed import lease_exposed
from pytest_vmports.network.lan import NeighbourSoughtError
from pytest_vmports.pool import launch, templates
from pytest_vmports.pool.apart import Apart
from pytest_vmports.pool.failed_starts import FailedStarts
from pytest_vmports.pool.launch import Launcher
from pytest_vmports.pool.standby import Standby
from pytest_vmports.pool.templates import Templates
from pytest_vmports.settings.far_store import FarStore
from pytest_vmports.vm.plan import key_of

GUEST = SimpleNamespace(name="a guest")
SAID = b"end\n"  # what a guest keeps of its address
FORWARD = ForwardError(program="QEMU", port=1, protocol="tcp", host="127.0.0.1", detail="taken")


class FakeMachine:
    """Faked: a machine that gets ready at once, or fails, and notes what is done with it."""

    def __init__(self, notes, plan, ram, errors):
        self.notes, self.plan, self.ram, self.errors = notes, plan, ram, errors
        self.name = "VM" if ram is None else "builder"
        self.console = SimpleNamespace(last_line=str, recent=lambda: "said while booting")

    def start(self, lease_fds=()):
        self.notes.append(f"{self.name} starts with {[p.external for p in self.plan.forwards]}")

    def wait_ready(self):
        if self.errors:
            raise self.errors.pop()

    def check_alive(self):
        pass

    @property
    def shell(self):
        return self

    def execute(self, script, **_):
        return 0, SAID, b""

    def stop(self):
        self.notes.append(f"{self.name} stops")

    note_refused = stop


class FakePlan(SimpleNamespace):
    """Faked: of a plan, what starting a machine asks of it."""

    def with_forwards(self, forwards, own_forwards):
        return FakePlan(**{**vars(self), "forwards": forwards, "own_forwards": own_forwards})


KIND = {"why_no_template": None, "stands_by": False, "moves": True}
SHARED = {"network": SimpleNamespace(lan="net")}


def plan(**changes):
    kind = SimpleNamespace(**changes.pop("kind", KIND))
    facts = {
        "guest": GUEST, "kind": kind, "network": SimpleNamespace(lan=None), "boot_timeout": 1.0,
        "identity": {"name": "a guest"}, "key": "key", "standby_key": "key", "own_ports": [],
        "wanted": [PortMapping(internal=80)], "wait_for": "any", "may_crash": False,
        "clockless": False, "paused": False, "disks": (), "why_cold": None,
        "family": "a guest", "whose": "a guest", **changes,
    }  # fmt: skip
    return FakePlan(**facts)


class Maker:
    """Launches fakes; ``errors`` are raised by the next machines, the last one first."""

    def __init__(self, allocator, folder, monkeypatch):
        self.notes, self.said, self.errors = [], [], []
        self.allocator, self.folder = allocator, folder
        (folder / "shared").mkdir()
        self.templates = Templates(folder / "cache", folder / "shared", 100, self.said.append)
        self.launcher = Launcher(
            allocator, folder, self.templates, Standby(print), tell=self.said.append,
            failed=FailedStarts(folder / "failed", self.said.append),
        )  # fmt: skip
        monkeypatch.setattr(templates, "_rest_and_save", self._save)
        monkeypatch.setattr(launch.Launcher, "machine", self._machine)
        monkeypatch.setattr(launch.Launcher, "end_failed", self._failed)

    def _machine(self, plan, *, template=None, ram=None, leased=None):
        return FakeMachine(self.notes, plan, ram, self.errors)

    def _failed(self, machine, error):
        self.notes.append(f"failed: {type(error).__name__}")

    def _save(self, booted, folder):
        assert booted.ram.share and booted.ram.path == folder / "ram"
        self.notes.append("saved")
        for name in ("ram", "state", "clock"):
            (folder / name).write_text(name)

    def on_another_machine(self, store, number):
        """Go on with an empty cache, in another run."""
        self.templates.close()
        (self.folder / f"shared-{number}").mkdir()
        self.templates = self.launcher._templates = Templates(
            self.folder / f"cache-{number}", self.folder / f"shared-{number}", 100,
            self.said.append, store,
        )  # fmt: skip

    def templates_of(self, place):
        return [path for path in (self.folder / place).iterdir() if path.is_dir()]

    def launch(self, plan, *, cloned=True):
        with contextlib.ExitStack() as stack:
            exposed = lease_exposed(plan.wanted, self.allocator, print)
            stack.callback(exposed.release)
            self.launcher.launch(plan, exposed, lambda _machine: None, cloned=cloned)
            self.notes, notes = [], self.notes
            return notes, [port.external for port in exposed]


@pytest.fixture
def maker(tmp_path, monkeypatch):
    with PortAllocator(tmp_path / "state", (21000, 21001)) as allocator:
        made = Maker(allocator, tmp_path, monkeypatch)
        yield made
        assert allocator.leases() == []
        made.templates.close()


def test_the_builder_has_the_tests_own_ports_and_no_more(maker):
    two = [PortMapping(internal=80), PortMapping(internal=81)]
    notes, ports = maker.launch(plan(wanted=two))
    builder, *rest = notes
    assert builder == f"builder starts with {ports}"
    assert rest == ["saved", "builder stops", f"VM starts with {ports}"]


def test_what_is_found_is_not_built(maker):
    maker.launch(plan())
    notes, ports = maker.launch(plan())
    assert notes == [f"VM starts with {ports}"]


@pytest.mark.parametrize("error", [MachineError("not ready"), KeyboardInterrupt("not ready")])
def test_a_builder_that_fails_is_ended(maker, error):
    maker.errors = [error]
    with pytest.raises(type(error)):
        maker.launch(plan())
    assert maker.notes[-1] == f"failed: {type(error).__name__}"


def test_a_builder_whose_port_was_taken_is_tried_again_with_another(maker):
    maker.errors = [FORWARD]
    notes, (port,) = maker.launch(plan())
    assert notes[-1] == f"VM starts with [{port}]" and "saved" in notes
    assert notes[0] != f"builder starts with [{port}]"


def test_a_guest_that_qemu_cannot_save_boots_from_cold_and_it_is_said_once(maker):
    maker.errors = [MonitorError(command="migrate", reply="no")]
    notes, ports = maker.launch(plan())
    assert notes[-2:] == ["builder stops", f"VM starts with {ports}"]
    assert len(maker.launch(plan())[0]) == 1
    (line,) = maker.said
    assert line.startswith("vmports: every VM of a guest boots from cold: ")


def test_what_cannot_be_saved_of_one_hardware_is_cloned_of_another(maker):
    maker.errors = [MonitorError(command="migrate", reply="no")]
    maker.launch(plan(family="with a device"))
    assert "saved" in maker.launch(plan(family="without"))[0]


def test_one_that_can_be_no_clone_by_itself_is_told_and_others_of_its_guest_are_cloned(maker):
    notes, ports = maker.launch(plan(why_cold="it begins paused"))
    assert notes == [f"VM starts with {ports}"]
    assert maker.said == ["vmports: this VM of a guest boots from cold: it begins paused"]
    assert "saved" in maker.launch(plan())[0]


@pytest.mark.parametrize(
    ("changes", "whose", "why"),
    [
        (
            SHARED | {"kind": KIND | {"moves": False}},
            "a guest on a shared network",
            "nothing in it",
        ),
        ({"kind": KIND | {"why_no_template": "because"}}, "a guest", "because"),
    ],
)
def test_where_there_can_be_no_template_none_is_made_and_one_line_says_why(
    maker, changes, whose, why
):
    for _ in range(2):
        notes, ports = maker.launch(plan(**changes))
        assert notes == [f"VM starts with {ports}"]
    (line,) = maker.said
    assert line.startswith(f"vmports: every VM of {whose} boots from cold: ") and why in line


def test_vms_of_a_shared_network_are_cloned(maker):
    notes, ports = maker.launch(plan(**SHARED))
    assert notes == [f"builder starts with {ports}", "saved", "builder stops",
                     f"VM starts with {ports}"]  # fmt: skip
    assert maker.launch(plan(**SHARED))[0][0].startswith("VM starts") and maker.said == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (NeighbourSoughtError("192.168.128.3"), "it asked for another VM, at 192.168.128.3"),
        (SetupError(returncode=1, console="x"), "alone it does not get ready: the guest's setup"),
        (
            BootTimeoutError(waited_for="x", timeout=1.0, ports="x", console="x"),
            "alone it does not get ready",
        ),
        (None, "it listens on its own address there alone (port 80)"),
    ],
)
def test_one_that_a_clone_would_be_wrong_of_boots_from_cold_for_the_run_and_one_line_says_why(
    maker, monkeypatch, error, why
):
    monkeypatch.setitem(globals(), "SAID", b"socket 0050\nend\n")
    maker.errors = [error] if error else []
    notes, ports = maker.launch(plan(**SHARED))
    assert notes == [f"builder starts with {ports}", "builder stops", f"VM starts with {ports}"]
    assert maker.templates_of("cache") == []
    assert maker.launch(plan(**SHARED))[0][0].startswith("VM starts")
    (line,) = maker.said
    assert line.startswith("vmports: every VM of a guest on a shared network boots from cold: ")
    assert why in line
    # Another worker knows, without making one.
    other = Apart(maker.folder / "shared" / "apart", maker.said.append)
    assert why in other.why(plan(**SHARED))
    # By itself it is cloned.
    assert "saved" in maker.launch(plan(identity={"name": "b"}, key="b"))[0]


def test_a_guest_whose_clock_nothing_sets_is_cloned_where_that_is_wanted_and_one_line_says_so(
    maker,
):
    kind = SimpleNamespace(why_no_template="nothing sets its clock", stands_by=False)
    wanted = plan(kind=vars(kind), clockless=True)
    assert "saved" in maker.launch(wanted)[0] and "saved" not in maker.launch(wanted)[0]
    (line,) = maker.said
    assert line.startswith("vmports: clones of a guest have the time of their template: nothing ")
    assert "vm.clock_behind" in line


def test_that_one_test_does_not_want_it_cloned_is_no_matter_to_another(maker):
    kind = SimpleNamespace(why_no_template="nothing sets its clock", stands_by=False)
    for _ in range(2):
        assert "saved" not in maker.launch(plan(kind=vars(kind)))[0]
    assert len(maker.said) == 1 and "boots from cold: nothing sets its clock" in maker.said[0]
    assert "saved" in maker.launch(plan(kind=vars(kind), clockless=True))[0]


def test_what_is_to_boot_from_cold_makes_none(maker):
    notes, ports = maker.launch(plan(), cloned=False)
    assert notes == [f"VM starts with {ports}"] and maker.said == []


def test_a_template_that_cannot_be_restored_is_built_anew_once_and_then_given_up(maker):
    maker.launch(plan())
    maker.errors = [MonitorError(command="migrate-incoming", reply="no")]
    notes, ports = maker.launch(plan())
    assert "saved" in notes and "is built anew" in maker.said[-1]
    maker.errors = [MonitorError(command="migrate-incoming", reply="no")]
    notes, ports = maker.launch(plan())
    assert notes == [f"VM starts with {ports}", "VM stops", f"VM starts with {ports}"]
    assert "boots from cold: its saved state cannot be restored" in maker.said[-1]


@pytest.mark.parametrize(
    ("ended", "said"), [("signal 25", "(nothing)"), ("exit status 1", "ram: File too large")]
)
def test_where_no_file_may_be_as_large_as_a_memory_vms_boot_from_cold(maker, ended, said):
    """As below ``ulimit -f``: neither in the cache nor in the run's folder."""
    failed = LaunchError(program="QEMU", returncode=ended, stderr=said, command="qemu")
    maker.errors = [failed, failed]
    notes, ports = maker.launch(plan())
    builders = [note for note in notes if note.startswith("builder starts")]
    assert (len(builders), notes[-1]) == (2, f"VM starts with {ports}")
    notes, ports = maker.launch(plan())
    assert notes == [f"VM starts with {ports}"]
    assert ["File too large" in line for line in maker.said] == [True, True]
    assert "boots from cold" in maker.said[-1]


def test_a_qemu_that_does_not_start_is_no_evidence_against_a_template(maker):
    maker.launch(plan())
    failed = LaunchError(program="QEMU", returncode="signal 9", stderr="", command="qemu")
    maker.errors = [failed]
    with pytest.raises(LaunchError):
        maker.launch(plan())
    notes, ports = maker.launch(plan())
    assert (notes[-1:], "saved" in notes, maker.said) == ([f"VM starts with {ports}"], False, [])


def test_a_template_that_has_vanished_is_built_anew_whatever_qemu_says_of_that(maker):
    maker.launch(plan())
    (folder,) = maker.templates_of("cache")
    (folder / "ram").write_text("another memory")
    failed = LaunchError(program="QEMU", returncode="exit status 1", stderr="", command="qemu")
    maker.errors = [failed]
    notes, ports = maker.launch(plan())
    assert notes[-1] == f"VM starts with {ports}" and "saved" in notes


def test_who_waited_for_a_builder_that_failed_does_not_build(maker, monkeypatch):
    """Another worker has failed between the first look and our turn."""
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "t.py::other (setup)")
    maker.errors = [SetupError(returncode=3, console="")]
    with pytest.raises(SetupError):
        maker.launch(plan())
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "t.py::ours (setup)")
    monkeypatch.setattr(maker.launcher._failed, "_check", looked_at_before(maker))
    maker.notes.clear()
    with pytest.raises(SetupError, match=r"met first by t\.py::other"):
        maker.launch(plan())
    assert maker.notes == []


def looked_at_before(maker):
    """Return a check that finds nothing when it is asked for the first time."""
    check, looks = maker.launcher._failed._check, []

    def later(key):
        looks.append(key)
        if len(looks) > 1:
            check(key)

    return later


@pytest.fixture
def filled(maker, tmp_path):
    """A plan, the template of which is in a store, in a run that knows nothing of it."""
    store = FarStore(str(tmp_path / "far"))
    wanted = plan(key=key_of(plan().identity))
    maker.on_another_machine(store, 1)
    assert "saved" in maker.launch(wanted)[0]
    maker.on_another_machine(store, 2)
    return wanted


def test_what_is_in_a_store_is_not_built(maker, filled):
    for _ in range(2):
        notes, ports = maker.launch(filled)
        assert notes == [f"VM starts with {ports}"]
    assert maker.said == []


TIMEOUT = BootTimeoutError(waited_for="x", timeout=1.0, ports="x", console="x")


def test_a_fetched_one_that_does_not_answer_is_booted_instead_for_the_whole_run(maker, filled):
    maker.errors = [TIMEOUT]
    notes, ports = maker.launch(filled)
    assert notes[-1] == f"VM starts with {ports}" and notes.count("saved") == 1
    (line,) = maker.said
    assert "is not used" in line and line.endswith("it is booted instead")
    # What was built here is like any other.
    maker.errors = [TIMEOUT]
    with pytest.raises(BootTimeoutError):
        maker.launch(filled)


def test_a_fetched_one_that_has_worked_is_like_any_other(maker, filled):
    maker.launch(filled)
    maker.errors = [TIMEOUT]
    with pytest.raises(BootTimeoutError):
        maker.launch(filled)
    assert maker.said == []

"""Evidence and artifacts of a VM of any wiring, in any state: all there, nothing fails."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess

import pytest
from vm_helpers import GUEST, SHELL, ask_shell, unstarted

from pytest_vmports.errors import SetupError
from pytest_vmports.pool import keeper as keeper_module
from pytest_vmports.pool.kept import all_kept
from pytest_vmports.report import artifacts
from pytest_vmports.report.evidence import Evidence
from pytest_vmports.settings import options
from pytest_vmports.system import patience
from pytest_vmports.vm.machine import State

# Ports and settings.
WIRINGS = {
    "none": ([], {}),
    "usernet": ([8080], {}),
    "usernet, network": ([8080, "53/udp"], {"allow_network": True, "backend": "usernet"}),
    "gvproxy": ([8080, "53/udp"], {"allow_network": True}),
    "gvproxy, no ports": ([], {"allow_network": True}),
    "relay": ([8080, "53/udp"], {}),
    "relay, UDP only": (["53/udp"], {}),
}
HOST_PORTS, NETWORK = {"host_ports": {80: 45999}}, {"network": "states"}
CARDS = {
    "one card": {},
    "host_ports": HOST_PORTS,
    "network": NETWORK,
    "both": {**HOST_PORTS, **NETWORK, "pcap": True, "display": True},
}
ALWAYS = {"time line", "end of the guest's console", "QEMU's command line"}


class Looks:
    """Looks at a machine's evidence and artifacts, as a failing test's report does."""

    def __init__(self, folder, qemu):
        self.folder = folder
        self.qemu = str(qemu)
        self._numbers = itertools.count(1)

    def look(self, machine, state):
        """Check what holds in any state, and return the sections and the artifacts' folder."""
        assert machine.state is state
        mishaps = []
        found = list(Evidence([machine]).sections(verbosity=2, note=mishaps.append))
        number = next(self._numbers)
        folder = artifacts.write(
            machine, self.folder, "a test", self.folder, number, note=mishaps.append
        )
        assert mishaps == []
        sections = {title.removeprefix("VM: "): text for title, text in found}
        kind = machine.cards.network.kind
        assert {f"{kind}, {machine.origin}, {state.value}", *ALWAYS} <= set(sections)
        about = json.loads((folder / "vm.json").read_text())
        logs = {f"{process.name}.log" for process in machine.processes()}
        assert {"console.log", "qemu.sh", "vm.json", *logs} <= set(about["files"])
        assert about["failed"] == [] and about["state"] == state.value
        self.check_script(machine, (folder / "qemu.sh").read_text())
        return sections, folder

    def check_script(self, machine, script):
        subprocess.run(["sh", "-n"], input=script.encode(), check=True)
        argv = self.argv(script)
        # Nothing that ends with the test: descriptors, and what lies in its private folders.
        private = [word for word in argv if re.search(r"\bfd=|local\.str=", word)]
        private += [word for word in argv if str(machine.place.home) in word]
        assert private == []
        network = not machine.cards.network.restrict
        forwards = {p for p in machine.cards.first.ports if network or p.protocol == "tcp"}
        rules = {f"hostfwd={p.protocol}:{p.host}:{p.external}-" for p in forwards}
        joined = " ".join(argv)
        assert set(re.findall(r"hostfwd=[^-]*-", joined)) == rules
        assert ("restrict=off" in joined) == network
        second = machine.cards.network.second_card
        assert ("# Without the second card" in script) == second
        assert ("wired by gvproxy" in script) == (machine.cards.network.kind == "gvproxy")
        for port in set(machine.cards.first.ports) - forwards:
            assert re.search(f"^# Without .*{re.escape(str(port))}", script, re.MULTILINE)

    def argv(self, script):
        """Return QEMU's argv as the shell makes it."""
        shown = script.replace(f"exec {shlex.quote(self.qemu)}", "printf '%s\\n'")
        assert shown != script
        said = subprocess.run(["sh"], input=shown.encode(), capture_output=True, check=True)
        return said.stdout.decode().splitlines()


@pytest.fixture
def looks(tmp_path, qemu_binary):
    """Return what looks at a machine."""
    return Looks(tmp_path, qemu_binary)


@pytest.fixture
def machine_of(vmports_pool, request, qemu_binary, gvproxy_089):
    """Return a function that makes a machine, not started, and returns it with its ports."""
    leased = []

    def made(ports, **keywords):
        keywords = {"gvproxy": str(gvproxy_089), **keywords, "expose": ports}
        settings = options.resolve(request.config, keywords, "the test")
        exposed = vmports_pool.lease(settings.expose, settings)
        leased.append(exposed)
        return unstarted(vmports_pool, settings, exposed), exposed

    yield made
    for exposed in leased:
        exposed.release()


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_whatever_the_wiring_a_vm_that_is_not_ready_has_its_report(machine_of, looks, wiring, card):
    ports, settings = WIRINGS[wiring]
    machine, exposed = machine_of(ports, **settings, **CARDS[card])
    sections, _ = looks.look(machine, State.NEW)
    assert sections["QEMU's command line"] == "(not started)"
    try:
        machine.start(exposed.pass_fds)
        exposed.release_guards()
        sections, folder = looks.look(machine, State.STARTED)
        assert sections["QEMU's command line"].startswith(looks.qemu)
        assert (folder / "screen.png").exists() == machine.plan.hardware.display
    finally:
        machine.stop()
    sections, _ = looks.look(machine, State.STOPPED)
    assert "output of QEMU (ended with signal 9)" in sections
    machine.finish()
    assert not machine.workdir.exists()
    _, folder = looks.look(machine, State.STOPPED)
    if card == "both":
        assert (folder / "packets.pcap").exists()
        boots(folder)


def boots(folder):
    """See that QEMU takes what the script gives it: its monitor answers, and it ends when told."""
    done = subprocess.run(
        ["sh", folder / "qemu.sh"], input=b"\x01cinfo status\nquit\n", capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0 and b"VM status: running" in said, said


@pytest.fixture
def keeper(vmports_pool, monkeypatch):
    """Return what keeps every VM of this test, and nothing beyond it."""
    monkeypatch.setattr(keeper_module, "MOST", 1000)  # others of this user may keep some
    # They end with this process all the same, so it need not start its children otherwise.
    monkeypatch.setattr(keeper_module, "let_outlive", lambda *_: None)
    told = []
    made = keeper_module.Keeper(always=True, tell=told.append)
    made.told = told
    monkeypatch.setattr(vmports_pool, "keeper", made)
    monkeypatch.setattr(vmports_pool.launcher, "_keeper", made)
    yield made
    names = {lines[0].rpartition(" ")[2] for lines in made.fresh}
    for kept in all_kept():
        if kept.name in names:
            kept.stop()


ALL = {**HOST_PORTS, "pcap": True, "display": True}


@pytest.mark.parametrize(
    ("wiring", "more"),
    [
        ("none", ALL),
        ("usernet", ALL),
        ("usernet", NETWORK),  # boots from cold: each VM of a network has its own address
        ("gvproxy", ALL),
        ("relay", {}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value,
)
def test_a_vm_that_is_ready_and_one_that_was_kept_has_its_report(
    boot, keeper, looks, wiring, more, gvproxy_089
):
    ports, settings = WIRINGS[wiring]
    machines = []
    words = {"setup": GUEST, "gvproxy": str(gvproxy_089), "fresh_boot": False, **settings, **more}
    with boot(*ports, observe=machines.append, **words):
        machine = machines[-1]
        sections, folder = looks.look(machine, State.READY)
        if ports:
            assert sections["what its ports answer now"] == "port 8080: answered"
        if "network" in more or wiring == "none":
            assert "set up" in (folder / "console.log").read_text()
        assert (folder / "screen.png").exists() == machine.plan.hardware.display
    sections, folder = looks.look(machine, State.KEPT)
    assert keeper.told == [] and len(keeper.fresh) == 1
    assert "what its ports answer now" not in sections  # we have hung up
    if wiring == "gvproxy":
        assert (folder / "gvproxy.log").read_text() != ""
        assert (folder / "gvproxy.yaml").exists()
    assert (folder / "packets.pcap").exists() == bool(more.get("pcap"))


@pytest.mark.parametrize(
    ("wiring", "more"), [("relay", HOST_PORTS), ("gvproxy", NETWORK)], ids=["relay", "gvproxy"]
)
@pytest.mark.slow_as("gvproxy")
def test_a_vm_whose_setup_failed_has_its_report(boot, looks, wiring, more, gvproxy_089):
    ports, settings = WIRINGS[wiring]
    machines = []
    words = {"setup": "echo so far; exit 9", "gvproxy": str(gvproxy_089), **settings, **more}
    with pytest.raises(SetupError), boot(*ports, observe=machines.append, **words):
        pass
    (machine,) = machines
    sections, folder = looks.look(machine, State.STOPPED)
    assert "so far" in sections["end of the guest's console"]
    assert "so far" in (folder / "console.log").read_text()
    assert (
        f"second card: {machine.cards.lan_address} "
        in sections[f"{machine.cards.network.kind}, booted, stopped"]
    )


def test_a_vm_that_cannot_be_kept_is_told_and_ended(machine_of, keeper):
    machine, exposed = machine_of([])
    machine.start(exposed.pass_fds)
    (machine.workdir / "kept.json").symlink_to("/dev/full")
    assert keeper.keep(machine) is False
    (line,) = keeper.told
    assert line.startswith("vmports: a VM is not kept: OSError: [Errno 28] No space left on device")
    assert keeper.fresh == [] and machine.state is State.STARTED
    machine.finish()
    assert not machine.workdir.exists()


@pytest.mark.slow
def test_what_hangs_is_left_out_of_the_report(boot):
    machines = []

    def gathered():
        """Return what two reports of the same moment say of its ports."""
        mishaps = []
        with patience.at_most(2):
            found = [
                dict(Evidence(machines[-1:]).sections(verbosity=0, note=mishaps.append))
                for _ in range(2)
            ]
        assert mishaps == []
        assert all("VM: end of the guest's console" in sections for sections in found)
        return [sections["VM: what its ports answer now"] for sections in found]

    with boot(7777, 8080, setup=SHELL, wait_for="7777", observe=machines.append) as vm:
        agent = vm.run("echo $PPID").stdout.strip()
        ask_shell(vm, f"kill -STOP {agent}")
        first, second = gathered()
        assert "it does not answer" in first
        assert second.startswith("left out: ")
        ask_shell(vm, f"kill -CONT {agent}")
        assert vm.run("echo next").stdout == "next\n"
        os.kill(vm.pids["QEMU"], signal.SIGSTOP)
        first, second = gathered()
        assert "does not answer" in first
        assert second.startswith("left out: ")

"""One QEMU: started, proved ready, stopped."""

from __future__ import annotations

import contextlib
import enum
import os
import shlex
import shutil
import socket
import time
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError, NoShellError, SetupError
from pytest_vmports.network.gvproxy import CONFIG
from pytest_vmports.process import Process, spawn
from pytest_vmports.vm import disk_guest, failures, forwards
from pytest_vmports.vm.command import CAPTURE, Channels, Hardware, Ram, build_command
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.control import CLOCK, READY, Control
from pytest_vmports.vm.files import Files
from pytest_vmports.vm.monitor import Monitor
from pytest_vmports.vm.readiness import Probe
from pytest_vmports.vm.shell import AgentShell, OtherShell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import Wiring
    from pytest_vmports.options import Settings
    from pytest_vmports.vm.guest_agent import GuestAgent
    from pytest_vmports.vm.power import Snapshot
    from pytest_vmports.vm.readiness import Waits
    from pytest_vmports.vm.shell import Shell
    from pytest_vmports.vm.ssh import SshShell
    from pytest_vmports.vm.template import Saved, Template

_GREETING_SECONDS = 30.0


class State(enum.Enum):
    """Where a machine is in its life; it only moves forward."""

    NEW = "new"
    STARTED = "started"
    READY = "ready"
    STOPPED = "stopped"
    KEPT = "kept"


class Machine:
    """A QEMU process with its wiring.

    Args:
        guest: what to boot.
        hardware: on what.
        wiring: its network.
        workdir: private folder for its console, logs and sockets.
        root: what relative paths of the guest's files are relative to.
        template: restore this instead of booting.
        ram: the file that becomes its memory, for a machine that will be saved as a template.
        hidden: those of the wiring's ports that are ours and not the test's.

    Attributes:
        state: see `State`.
        origin: ``booted``, ``cloned``, ``standby`` for a clone that waited for its test, or
            ``restored`` from a snapshot.
        command: QEMU's argv, empty before the start.
        console: what the guest wrote.
        files: others of its files that a report may want.
        monitor: the QMP connection; usable from the start to the stop.
        ram: the file that is its memory, if any.
        workdir: the VM's private folder.
        settings: what was asked for, for the evidence.
        times: what happened when, `time.monotonic` seconds by name.
        home: the folder of all VMs of this process, with what they share.
        reachable: whether console and monitor are on sockets too, for people.
        failing: whether a test that used it has failed.
        ssh: runs commands by ssh; None where the guest does not let us in, or before the start.
        agent: runs commands by the QEMU guest agent, likewise.
    """

    monitor: Monitor

    def __init__(
        self,
        guest: Guest,
        hardware: Hardware,
        wiring: Wiring,
        workdir: Path,
        root: Path,
        *,
        template: Template | None = None,
        ram: Ram | None = None,
        hidden: Collection[ExposedPort] = (),
    ) -> None:
        self.guest = guest
        self.hardware = hardware
        self.wiring = wiring
        self.state = State.NEW
        self.origin = "booted" if template is None else "cloned"
        self.command: list[str] = []
        self.settings: Settings | None = None
        self.times: dict[str, float] = {}
        self.workdir, self.home = workdir, workdir.parent
        self.reachable = self.failing = False
        self.ssh: SshShell | None = None
        self.agent: GuestAgent | None = None
        self._hidden = hidden
        self._root = root
        self.console = Console(workdir / "console.log")
        self.files = Files((CONFIG, disk_guest.SEED, CAPTURE))
        self._qemu: Process | None = None
        self._control: Control | None = None
        self._template: Saved | None = template
        self.ram = ram if template is None else Ram(template.ram, share=False)
        self._shell: Shell | None = None

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The test's forwards, in the order they were asked for."""
        return tuple(port for port in self.wiring.ports if port not in self._hidden)

    def start(self, lease_fds: Collection[int] = ()) -> None:
        """Start the wiring and QEMU; return when QEMU runs and every forward is bound.

        Args:
            lease_fds: descriptors of port leases; inherited by whoever binds the ports, so that
                the leases live as long as that process.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: QEMU or gvproxy ended.
        """
        self.times["start"] = time.monotonic()
        try:
            self.wiring.start(lease_fds)
            self._start_qemu(lease_fds)
            if self._template is not None:
                self._restore(self._template)
        except BaseException:
            self.stop()
            raise
        self.state = State.STARTED

    def become(self, saved: Snapshot | None) -> None:
        """Be, when it is started again, what was saved, or a machine that boots."""
        self.ram = None if saved is None else saved.ram
        self._template, self._shell = saved, None
        self.origin = "booted" if saved is None else "restored"

    def wait_ready(self, wait_for: Waits, timeout: float) -> None:
        """Return when the guest's setup has ended well and ``wait_for`` was answered by the guest.

        Args:
            wait_for: what has to answer.
            timeout: seconds from the start.

        Raises:
            SetupError: the setup failed.
            BootTimeoutError: not ready in time.
            MachineDiedError: QEMU or gvproxy ended.
        """
        deadline = self.times["start"] + timeout
        probe = Probe(wait_for, self.wiring, self.monitor, self.ports)
        with failures.cause_first(self):
            # A booted guest answers after its setup, a restored one at once: its clock is set
            # while it answers.
            restored = self._template is not None
            if self.guest.prepared and not restored:
                self._await_guest(READY, deadline, timeout, probe.answers)
            if not restored:
                disk_guest.wait_for_cloud_init(self, deadline, timeout)
            self.times["setup"] = time.monotonic()
            while not probe.done:
                if time.monotonic() >= deadline:
                    raise failures.timed_out(self, f"waited for {wait_for}", timeout, probe.answers)
                probe.step(deadline, self.check_alive)
            disk_guest.wait_for_shells(self, deadline, timeout)
            if restored and self.state is State.STARTED:
                if self.guest.prepared:
                    self._await_guest(CLOCK, deadline, timeout, probe.answers)
                else:
                    disk_guest.set_clock(self, timeout)
        self.times["ready"] = time.monotonic()
        self.state = State.READY

    def hand_over(self, ports: Sequence[ExposedPort], lease_fds: Sequence[int]) -> None:
        """Forward these ports to a guest that is already ready, instead of those it had.

        It has answered once and is not asked again: a third connection, beside the test's own and
        the first, would overrun the queue of a server that listens with a backlog of one, and the
        forwarder repeats a connection's first packet only after six seconds.

        Args:
            ports: the forwards.
            lease_fds: their leases' descriptors, in the same order.

        Raises:
            ForwardError: a host port could not be bound.
            MachineDiedError: QEMU or gvproxy has ended meanwhile, or the guest's kernel panicked.
            MachineError: QEMU refused.
        """
        self.times["start"] = time.monotonic()
        self.origin = "standby"
        self.check_alive()
        with failures.cause_first(self):
            for port, lease in zip(ports, lease_fds, strict=True):
                forwards.add(self, port, lease)
        self.check_alive()
        self.times["ready"] = time.monotonic()

    def check_alive(self) -> None:
        """Raise when a process of this VM has ended, or its guest's kernel has panicked.

        Raises:
            MachineDiedError: with what it said and the console's tail.
        """
        if "console" not in self.times and self.console.begun:
            self.times["console"] = time.monotonic()
        if (died := failures.found(self)) is not None:
            raise died

    @property
    def running(self) -> bool:
        """Whether it has been started, and not been ended by us."""
        return self.state in {State.STARTED, State.READY}

    @property
    def makes_template(self) -> bool:
        """Whether it was booted only to be saved."""
        return self.ram is not None and self.ram.share

    def processes(self) -> list[Process]:
        """Return QEMU and the wiring's processes, those that were started."""
        return [p for p in (self._qemu, *self.wiring.processes()) if p is not None]

    @property
    def shell(self) -> Shell:
        """The way by which commands are run in the guest.

        Raises:
            MachineDiedError: the VM is gone.
            NoShellError: there is none.
        """
        self.check_alive()
        if self._shell is None:
            means = self.ssh or self.agent
            if self.guest.prepared and self._control is not None and self.hardware.qemu.is_x86:
                self._shell = AgentShell(self._control, self.check_alive)
            elif means is not None:
                self._shell = OtherShell(means)
            else:
                raise NoShellError(guest=self.guest.name)
        return self._shell

    def command_line(self) -> str:
        """Return QEMU's command line as a shell would take it."""
        return shlex.join(self.command)

    def stop(self, *, keep_disks: bool = False) -> None:
        """Kill QEMU, then the wiring. Nothing of value is in either. Safe to call again.

        Args:
            keep_disks: what the guest wrote to its disks is needed again.
        """
        if self.state is State.KEPT:
            return
        if self._qemu is not None:
            self._qemu.kill()
        self._hang_up()
        self.wiring.stop()
        if not keep_disks:
            disk_guest.remove_overlay(self)
        self.times.setdefault("stopped", time.monotonic())
        self.state = State.STOPPED

    def set_clock(self, timeout: float) -> None:
        """Give the guest the host's time; return when it has it.

        Args:
            timeout: seconds.

        Raises:
            BootTimeoutError: the guest does not answer.
            MachineDiedError: QEMU or gvproxy ended.
        """
        if not self.guest.prepared:
            disk_guest.set_clock(self, timeout)
            return
        assert self._control is not None
        self._control.send_clock(time.time())
        self._await_guest(CLOCK, time.monotonic() + timeout, timeout, {})

    def finish(self) -> None:
        """Stop, keep in memory what a report may need, and remove the private folder.

        Raises:
            GuestForwardError: the guest had host ports opened that nobody asked for.
            MachineDiedError: QEMU or gvproxy had failed before, or the guest's kernel had panicked.
                A guest that powered off has not failed, nor one that may crash.
        """
        died = failures.at_the_end(self)
        try:
            if died is None and self.running:
                self.wiring.close_opened()
        finally:
            self.stop()
            self.console.keep()
            for process in self.processes():
                process.keep_output()
            self.files.keep(self.workdir)
            self.discard()
        if died is not None:
            raise died

    def let_go(self, folder: Path) -> None:
        """Let the VM live on without us, its files in ``folder``; see `vm.keep`.

        Raises:
            OSError: the files cannot be moved there.
        """
        self.console.keep()
        self.workdir.rename(folder)
        self.workdir = folder
        for process in self.processes():
            process.let_go()
        self._hang_up()
        self.state = State.KEPT

    def _hang_up(self) -> None:
        for channel in filter(None, (getattr(self, "monitor", None), self._control, self.agent)):
            channel.close()

    def discard(self) -> None:
        """Remove the private folder of a machine that does not run."""
        shutil.rmtree(self.workdir)

    def _start_qemu(self, lease_fds: Collection[int]) -> None:
        monitor, monitor_of_qemu = socket.socketpair()
        control, control_of_qemu = socket.socketpair()
        self._control = Control(control)
        self.monitor = Monitor(monitor)
        kernel, initrd = self.guest.kernel_path, None
        if self._template is None:
            kernel, initrd = self.guest.boot_files(self.home, self._root)
        with monitor_of_qemu, control_of_qemu, contextlib.ExitStack() as own:
            drives, agent_fds = disk_guest.attach(self, self.workdir, own)
            fds = monitor_of_qemu.fileno(), control_of_qemu.fileno()
            words, x86 = self.wiring.kernel_words(), self.hardware.qemu.is_x86
            sockets = self.workdir if self.reachable else None
            self.command = build_command(
                self.hardware, self.wiring,
                Channels(*fds, self.console.path, next(iter(agent_fds), None), sockets),
                kernel=kernel, initrd=initrd, drives=drives,
                kernel_words=self.guest.kernel_words(self.wiring.dns, words, x86=x86),
                capture=self.workdir / CAPTURE if self.settings and self.settings.pcap else None,
                ram=self.ram, restore=self._template is not None,
            )  # fmt: skip
            self._qemu = spawn(
                "QEMU", self.command, log=self.workdir / "qemu.log",
                pass_fds=[*fds, *agent_fds, *self.wiring.qemu_fds(lease_fds)],
            )  # fmt: skip
        if not self.monitor.connect(_GREETING_SECONDS):
            raise failures.not_started(self, self._qemu, _GREETING_SECONDS)

    def _restore(self, template: Saved) -> None:
        self.console.begin_with(template.console)
        with template.open_state() as file:
            self.monitor.load(file.fileno())
        if self._control is not None and self.guest.prepared:
            self._control.send_clock(time.time())
        self.monitor.execute("cont")

    def _await_guest(
        self, what: str, deadline: float, timeout: float, answers: Mapping[int, str]
    ) -> None:
        """Wait for the agent: the end of the setup, or of setting the clock of a restored guest."""
        assert self._control is not None
        self._control.deaths = [p.death for p in self.processes() if p.death is not None]
        code = self._control.await_number(what, deadline, self.check_alive)
        if code is None:
            said = "its setup has not ended" if what == READY else "its clock is not set"
            raise failures.timed_out(self, said, timeout, answers)
        if code and what == CLOCK:
            raise MachineError(f"the guest refused to have its clock set: {os.strerror(code)}")
        if code:
            raise SetupError(returncode=code, console=self.console.tail())
